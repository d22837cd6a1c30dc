//! What a command prints: the JSON object that its help describes, or lines for a person.

mod store;

use firn_proto::control::{GetReply, PeerShare, PeerStatus, StatusReply, StoreStatus};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

pub use store::{add, adopt, collect, pin, pins, stats, unpin, verify};
use store::{adopt_json, adopt_text};

use crate::{config::Config, node::Ready};

/// An answer in both of its forms.
#[derive(Debug, Clone)]
pub struct Answer {
    /// One object; printed on one line.
    pub json: Value,
    /// Whole lines for standard output: what a script without a JSON parser takes.
    pub text: String,
    /// Whole lines for standard error: what a person wants to know besides.
    pub remarks: String,
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
        text: text + "\n",
        remarks: String::new(),
    }
}

/// What `firn status` prints.
pub fn status(reply: &StatusReply) -> Answer {
    let store = reply.store.clone().unwrap_or_default();
    let json = json!({
        "version": reply.version,
        "running": reply.running,
        "data_dir": lossy(&reply.data_dir),
        "role": reply.role,
        "peer_id": or_null(&reply.peer_id),
        "http": or_null(&reply.http_address),
        "iroh": reply.iroh_addresses,
        "multiaddrs": reply.multiaddrs,
        "network": reply.network,
        "uptime_seconds": reply.uptime_seconds,
        "trusted_keys": reply.trusted_keys,
        "store": {
            "paths": store.paths,
            "paths_shared": store.paths_shared,
            "paths_untrusted": store.paths_untrusted,
            "trees": store.trees,
            "trees_shared": store.trees_shared,
            "nar_bytes": store.nar_bytes,
            "adopted_bytes": store.adopted_bytes,
            "disk_bytes": store.disk_bytes,
            "disk_bytes_max": store.disk_bytes_max,
            "trouble": or_null(&store.trouble),
        },
        "adopt": reply.adopt.as_ref().map(adopt_json),
        "provider_records": reply.provider_records,
        "peers": reply.peers.iter().map(peer_status_json).collect::<Vec<_>>(),
    });
    Answer { json, text: status_text(reply, &store), remarks: String::new() }
}

fn peer_status_json(peer: &PeerStatus) -> Value {
    json!({
        "id": peer.id,
        "via": or_null(&peer.via),
        "connected": peer.connected,
        "asked": peer.asked,
        "received_bytes": peer.received_bytes,
        "answered": peer.answered,
        "sent_bytes": peer.sent_bytes,
        "shared": peer.shared,
        "lies": peer.lies,
    })
}

fn status_text(reply: &StatusReply, store: &StoreStatus) -> String {
    let mut lines = Vec::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {value}"));
        }
    };
    row("data", lossy(&reply.data_dir));
    if reply.running {
        let uptime = std::time::Duration::from_secs(reply.uptime_seconds);
        row("node", format!("{}, version {}, up {}", reply.role, reply.version, HumanDuration(uptime)));
        row("id", reply.peer_id.clone());
        row("http", reply.http_address.clone());
        row("iroh", reply.iroh_addresses.join(" "));
        row("multiaddr", reply.multiaddrs.join(" "));
        row("network", reply.network.clone());
    } else {
        row("node", "none runs".into());
    }
    row("trusts", reply.trusted_keys.join(" "));
    row("paths", paths_text(store));
    row("trees", format!("{}, {} shared", store.trees, store.trees_shared));
    row("store", room_text(store));
    row("trouble", store.trouble.clone());
    row("adopting", reply.adopt.as_ref().map(adopt_text).unwrap_or_default());
    for peer in &reply.peers {
        lines.extend(peer_lines(peer));
    }
    lines.join("\n") + "\n"
}

fn paths_text(store: &StoreStatus) -> String {
    let mut text =
        format!("{}, {} shared, {} as NARs", store.paths, store.paths_shared, HumanBytes(store.nar_bytes));
    if store.paths_untrusted > 0 {
        text += &format!("; {} more are out of view, no trusted key vouches for them", store.paths_untrusted);
    }
    text
}

/// What the store takes, against its limit.
fn room_text(store: &StoreStatus) -> String {
    let mut text = HumanBytes(store.disk_bytes).to_string();
    if let Some(bytes_max) = store.disk_bytes_max {
        text += &format!(" of {}", HumanBytes(bytes_max));
    }
    if store.adopted_bytes > 0 {
        text += &format!(", and {} adopted in place", HumanBytes(store.adopted_bytes));
    }
    text
}

fn peer_lines(peer: &PeerStatus) -> Vec<String> {
    let via = if peer.via.is_empty() { "it found us" } else { &peer.via };
    let connected = if peer.connected { "connected" } else { "not connected" };
    let mut lines = vec![format!(
        "peer {}: {via}, {connected}; gave {} in {}; was given {} in {}",
        peer.id,
        HumanBytes(peer.received_bytes),
        counted(peer.asked, "answer"),
        HumanBytes(peer.sent_bytes),
        counted(peer.answered, "answer"),
    )];
    lines.extend(peer.shared.iter().map(|shared| format!("  had {shared}")));
    lines.extend(peer.lies.iter().map(|lie| format!("  LIED: {lie}")));
    lines
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
    let mut text = format!("ready: {}, {}\n", config.role, config.role.meaning());
    let mut row = |name: &str, value: &str| text += &format!("{name:<12} {value}\n");
    row("id", &ready.peer_id);
    row("binary cache", &format!("http://{}", ready.http));
    ready.iroh.iter().for_each(|address| row("iroh", address));
    ready.multiaddrs.iter().for_each(|address| row("multiaddr", address));
    Answer { json, text, remarks: String::new() }
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
    let mut text = if got.store_path.is_empty() { String::new() } else { format!("{}\n", got.store_path) };
    text += &format!("{}\n", got.root);
    Answer { json, text, remarks: get_remarks(reply, out) }
}

fn peer_share_json(peer: &PeerShare) -> Value {
    json!({
        "id": peer.id, "via": or_null(&peer.via), "asked": peer.asked, "bytes": peer.bytes, "lies": peer.lies,
    })
}

fn get_remarks(reply: &GetReply, out: Option<&std::path::Path>) -> String {
    let mut remarks = format!(
        "{}, {} in {:.1} s, of which {} came from peers\n",
        counted(reply.files, "file"),
        HumanBytes(reply.bytes),
        reply.seconds,
        HumanBytes(reply.fetched_bytes),
    );
    for peer in &reply.peers {
        let gave = format!("{} in {}", HumanBytes(peer.bytes), counted(peer.asked, "answer"));
        remarks += &format!("peer {} (via {}) gave {gave}\n", peer.id, peer.via);
        remarks.extend(peer.lies.iter().map(|lie| format!("  LIED: {lie}\n")));
    }
    if let Some(out) = out {
        remarks += &format!("written to {}\n", out.display());
    }
    remarks
}

/// What `firn node --check` prints.
pub fn config(config: &Config, control_socket: &std::path::Path) -> Answer {
    let strings = |values: &[String]| Value::from(values.to_vec());
    let (trust, bootstrap, peers) =
        (texts(config.trust.iter()), texts(config.bootstrap.iter()), texts(config.peers.iter()));
    let (relays, dial) = (texts(config.relays.iter()), dial_words(&config.dial));
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
        "iroh": config.iroh.to_string(),
        "libp2p": config.libp2p.to_string(),
        "miss_alone_ms": config.miss.alone.as_millis() as u64,
        "miss_near_ms": config.miss.near.as_millis() as u64,
        "miss_dht_ms": config.miss.dht.as_millis() as u64,
        "store_bytes_max": config.store_bytes_max.map(|limit| limit.0),
        "adopt": config.adopt,
        "adopt_jobs": config.adopt_jobs,
    });
    let room = config.store_bytes_max.map_or("as much room as it needs".into(), |limit| {
        format!("{}, then what was fetched goes, least recently used first", HumanBytes(limit.0))
    });
    let none = |list: &[String], otherwise: &str| match list {
        [] => otherwise.to_owned(),
        list => list.join("\n                  "),
    };
    let file = config.file.as_ref().map_or("none found".into(), |file| file.display().to_string());
    let rows = [
        ("configuration", file),
        ("data directory", config.data_dir.display().to_string()),
        ("control socket", control_socket.display().to_string()),
        ("store takes", room),
        ("Nix store below", config.nix_root.display().to_string()),
        (
            "adopts it",
            if config.adopt { "in the background, as far as trusted keys signed it" } else { "no" }.into(),
        ),
        ("role", format!("{}: {}", config.role, config.role.meaning())),
        ("trusts", none(&trust, "nobody: no store path will be believed unless it is added here")),
        ("bootstrap", none(&bootstrap, "none: the DHT is not joined")),
        ("peers", none(&peers, "none by name")),
        ("relays", none(&relays, "none")),
        ("network", config.network.as_str().into()),
        ("neighbours", if config.mdns { "looked for (mDNS)" } else { "not looked for" }.into()),
        ("would dial in", none(&dial, "no network that a peer names")),
        ("binary cache", format!("http://{}", config.http)),
        ("iroh", format!("udp {}", config.iroh)),
        ("libp2p", format!("udp {}", config.libp2p)),
    ];
    let text = rows.iter().map(|(name, value)| format!("{name:<17} {value}\n")).collect();
    Answer { json, text, remarks: String::new() }
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
