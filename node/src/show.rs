//! What a command prints: the JSON object that its help describes, or lines for a person.

mod givers;
mod status;
mod store;

use std::num::NonZeroU64;

use firn_exchange::Compress;
use firn_proto::control::{GetReply, PeerShare};
use indicatif::HumanBytes;
use serde_json::{Value, json};

pub(crate) use givers::giver_lines;
#[cfg(feature = "demo")]
pub(crate) use givers::short;
pub use status::status;
pub use store::{add, adopt, collect, pin, pins, rebuilt, stats, unpin, verify};

use crate::{config::Config, node::Ready, output::Text};

/// An answer in both of its forms.
#[derive(Debug, Clone)]
pub struct Answer {
    /// One object; printed on one line.
    pub json: Value,
    /// For standard output: what a script without a JSON parser takes.
    pub text: Text,
    /// For standard error: what a person wants to know besides.
    pub remarks: Text,
}

/// `null` for text that is not there.
fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `7 files` and `1 file`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What `firn key` prints.
pub fn key(public: &firn_nix::PublicKey, file: &std::path::Path) -> Answer {
    let text = public.to_string();
    Answer {
        json: json!({ "name": public.name().as_str(), "public_key": text, "file": file.to_string_lossy() }),
        text: Text::from_iter([text]),
        remarks: Text::new(),
    }
}

/// What `firn node` prints once it is ready.
pub fn ready(ready: &Ready, config: &Config, control_socket: &std::path::Path) -> Answer {
    let json = json!({
        "ready": true,
        "peer_id": ready.peer_id,
        "role": config.role.to_string(),
        "data_dir": config.data_dir.to_string_lossy(),
        "control_socket": control_socket.to_string_lossy(),
        "http": ready.http.to_string(),
        "iroh": ready.iroh,
        "multiaddrs": ready.multiaddrs,
    });
    let mut text = Text::from_iter([format!("ready: {}, {}", config.role, config.role.meaning())]);
    let mut row = |name: &str, value: &str| text.line(format!("{name:<12} {value}"));
    row("id", &ready.peer_id);
    row("binary cache", &format!("http://{}", ready.http));
    ready.iroh.iter().for_each(|address| row("iroh", address));
    ready.multiaddrs.iter().for_each(|address| row("multiaddr", address));
    Answer { json, text, remarks: Text::new() }
}

/// What `firn get` prints.
pub fn get(reply: &GetReply, out: Option<&std::path::Path>) -> Answer {
    let got = reply.paths.last().cloned().unwrap_or_default();
    let paths = reply.paths.iter().map(|path| {
        json!({ "store_path": or_null(&path.store_path), "root": path.root, "was_here": path.was_here })
    });
    let json = json!({
        "store_path": or_null(&got.store_path),
        "root": got.root,
        "out": out.map(|out| out.to_string_lossy()),
        "files": reply.files,
        "bytes": reply.bytes,
        "fetched_bytes": reply.fetched_bytes,
        "seconds": reply.seconds,
        "paths": paths.collect::<Vec<_>>(),
        "peers": reply.peers.iter().map(peer_share_json).collect::<Vec<_>>(),
    });
    let text = [got.store_path, got.root].into_iter().filter(|name| !name.is_empty()).collect();
    Answer { json, text, remarks: get_remarks(reply, out) }
}

fn peer_share_json(peer: &PeerShare) -> Value {
    json!({
        "id": peer.id, "via": or_null(&peer.via), "route": or_null(&peer.route), "asked": peer.asked,
        "bytes": peer.bytes, "lies": peer.lies,
    })
}

fn get_remarks(reply: &GetReply, out: Option<&std::path::Path>) -> Text {
    let mut remarks = Text::from_iter([format!(
        "{}, {} in {:.1} s, of which {} came from peers",
        counted(reply.files, "file"),
        HumanBytes(reply.bytes),
        reply.seconds,
        HumanBytes(reply.fetched_bytes),
    )]);
    for peer in &reply.peers {
        let gave = format!("{} in {}", HumanBytes(peer.bytes), counted(peer.asked, "answer"));
        let way = givers::way(&peer.route, &peer.via).map(|way| format!(" ({way})")).unwrap_or_default();
        remarks.line(format!("peer {}{way} gave {gave}", peer.id));
        remarks.extend(peer.lies.iter().map(|lie| format!("  LIED: {lie}")));
    }
    if let Some(out) = out {
        remarks.line(format!("written to {}", out.display()));
    }
    remarks
}

/// What `firn node --check` prints.
pub fn config(config: &Config, control_socket: &std::path::Path) -> Answer {
    let strings = |values: &[String]| Value::from(values.to_vec());
    let (trust, bootstrap, peers) =
        (texts(config.trust.iter()), texts(config.bootstrap.iter()), texts(config.peers.iter()));
    let (relays, dial) = (texts(config.relays.iter()), dial_words(&config.dial));
    let http_hosts = texts(config.http_host.iter());
    let json = json!({
        "file": config.file.as_ref().map(|file| file.to_string_lossy()),
        "data_dir": config.data_dir.to_string_lossy(),
        "nix_root": config.nix_root.to_string_lossy(),
        "control_socket": control_socket.to_string_lossy(),
        "role": config.role.to_string(),
        "trust": strings(&trust),
        "bootstrap": strings(&bootstrap),
        "peers": strings(&peers),
        "relays": strings(&relays),
        "network": config.network.as_str(),
        "mdns": config.mdns,
        "dial": strings(&dial),
        "http": config.http.to_string(),
        "http_hosts": strings(&http_hosts),
        "iroh": addresses(&config.iroh),
        "libp2p": addresses(&config.libp2p),
        "miss_alone_ms": config.miss.alone.as_millis() as u64,
        "miss_near_ms": config.miss.near.as_millis() as u64,
        "miss_dht_ms": config.miss.dht.as_millis() as u64,
        "store_bytes_max": config.store_bytes_max.map(|limit| limit.0),
        "upload_max": config.rates.upload,
        "upload_peer_max": config.rates.upload_peer,
        "download_max": config.rates.download,
        "download_peer_max": config.rates.download_peer,
        "compress": compress_word(config.compress),
        "adopt": config.adopt,
        "adopt_jobs": config.adopt_jobs,
    });
    let room = config.store_bytes_max.map_or("as much room as it needs".into(), |limit| {
        format!("{}, then what was fetched goes, least recently used first", HumanBytes(limit.0))
    });
    let none = |list: Vec<String>, otherwise: &str| match list.is_empty() {
        true => vec![otherwise.to_owned()],
        false => list,
    };
    let file = config.file.as_ref().map_or("none found".into(), |file| file.display().to_string());
    let one = |text: &str| vec![text.to_owned()];
    let rows = [
        ("configuration", vec![file]),
        ("data directory", vec![config.data_dir.display().to_string()]),
        ("control socket", vec![control_socket.display().to_string()]),
        ("store takes", vec![room]),
        ("Nix store below", vec![config.nix_root.display().to_string()]),
        (
            "adopts it",
            one(if config.adopt { "in the background, as far as trusted keys signed it" } else { "no" }),
        ),
        ("role", vec![format!("{}: {}", config.role, config.role.meaning())]),
        ("trusts", none(trust, "nobody: no store path will be believed unless it is added here")),
        ("bootstrap", none(bootstrap, "none: the DHT is not joined")),
        ("peers", none(peers, "none by name")),
        ("relays", none(relays, "none")),
        ("network", one(config.network.as_str())),
        ("neighbours", one(if config.mdns { "looked for (mDNS)" } else { "not looked for" })),
        ("would dial in", none(dial, "no network that a peer names")),
        ("gives peers", vec![rates_text(config.rates.upload, config.rates.upload_peer)]),
        ("takes from peers", vec![rates_text(config.rates.download, config.rates.download_peer)]),
        ("compresses", one(compress_word(config.compress))),
        ("binary cache", vec![format!("http://{}", config.http)]),
        ("also known as", none(http_hosts, "nothing but this machine's name, localhost and its addresses")),
        ("iroh", vec![format!("udp {}", addresses(&config.iroh))]),
        ("libp2p", vec![format!("udp {}", addresses(&config.libp2p))]),
    ];
    let mut text = Text::new();
    for (name, values) in rows {
        let names = [name].into_iter().chain(std::iter::repeat(""));
        text.extend(names.zip(values).map(|(name, value)| format!("{name:<17} {value}")));
    }
    Answer { json, text, remarks: Text::new() }
}

fn addresses(addresses: &[std::net::SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// How it is written in the configuration.
fn compress_word(compress: Compress) -> &'static str {
    match compress {
        Compress::Auto => "auto",
        Compress::Always => "always",
        Compress::Never => "never",
    }
}

/// The limits of one direction.
fn rates_text(all: Option<NonZeroU64>, peer: Option<NonZeroU64>) -> String {
    let rate = |rate: NonZeroU64| format!("{}/s", HumanBytes(rate.get()));
    match (all.map(rate), peer.map(rate)) {
        (None, None) => "as much as the wire bears".into(),
        (Some(all), None) => format!("at most {all}"),
        (None, Some(peer)) => format!("at most {peer} each"),
        (Some(all), Some(peer)) => format!("at most {all}, {peer} each"),
    }
}

fn texts<T: ToString>(values: impl Iterator<Item = T>) -> Vec<String> {
    values.map(|value| value.to_string()).collect()
}

/// The networks by their words where they have one.
fn dial_words(dial: &[ipnet::IpNet]) -> Vec<String> {
    use crate::config::{loopback, private, public};
    let mut rest = dial.to_vec();
    let mut words = Vec::new();
    for (word, networks) in [("public", public()), ("private", private()), ("loopback", loopback())] {
        if networks.iter().all(|network| dial.contains(network)) {
            rest.retain(|network| !networks.contains(network));
            words.push(word.to_owned());
        }
    }
    words.extend(rest.iter().map(ToString::to_string));
    words
}

#[cfg(test)]
mod tests;
