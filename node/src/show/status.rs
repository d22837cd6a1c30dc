//! What `firn status` prints.

use firn_engine::LIAR_DAYS;
use firn_proto::control::{LiarStatus, PeerStatus, StatusReply, StoreStatus, TrafficStatus, TransferStatus};
use firn_store::UnixSeconds;
use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

use super::{
    Answer, counted,
    givers::{giver_json, giver_lines},
    lossy, or_null,
    store::{adopt_json, adopt_text},
};
use crate::{output::Text, remembered};

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
        "traffic": reply.traffic.as_ref().map(traffic_json),
        "provider_records": reply.provider_records,
        "transfers": reply.transfers.iter().map(transfer_json).collect::<Vec<_>>(),
        "peers": reply.peers.iter().map(peer_status_json).collect::<Vec<_>>(),
        "duplicates": reply.duplicates,
        "peers_more": reply.peers_more,
        "liars": reply.liars.iter().map(liar_json).collect::<Vec<_>>(),
    });
    Answer { json, text: status_text(reply, &store, remembered::now()), remarks: Text::new() }
}

fn peer_status_json(peer: &PeerStatus) -> Value {
    json!({
        "id": peer.id,
        "via": or_null(&peer.via),
        "route": or_null(&peer.route),
        "connected": peer.connected,
        "asked": peer.asked,
        "received_bytes": peer.received_bytes,
        "answered": peer.answered,
        "sent_bytes": peer.sent_bytes,
        "upload_rate": peer.upload_rate,
        "download_rate": peer.download_rate,
        "connections": peer.connections,
        "requests": peer.requests,
        "shared": peer.shared,
        "lies": peer.lies,
    })
}

fn status_text(reply: &StatusReply, store: &StoreStatus, now: UnixSeconds) -> Text {
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
        row("also at", duplicates_text(&reply.duplicates));
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
    if let Some(traffic) = &reply.traffic {
        row(
            "gives",
            direction_text(traffic.upload_rate, traffic.upload_rate_max, traffic.upload_peer_rate_max),
        );
        row(
            "takes",
            direction_text(traffic.download_rate, traffic.download_rate_max, traffic.download_peer_rate_max),
        );
        row("asked", requests_text(traffic));
    }
    for transfer in &reply.transfers {
        lines.extend(transfer_lines(transfer));
    }
    for peer in &reply.peers {
        lines.extend(peer_lines(peer));
    }
    if reply.peers_more > 0 {
        lines.push(format!("and {} more", counted(reply.peers_more, "peer")));
    }
    lines.extend(reply.liars.iter().map(|liar| liar_line(liar, now)));
    lines.into_iter().collect()
}

fn duplicates_text(duplicates: &[String]) -> String {
    if duplicates.is_empty() {
        return String::new();
    }
    format!(
        "{}: another node has this identity; delete node.key in the data directory of one, and restart it",
        duplicates.join(" ")
    )
}

fn transfer_json(transfer: &TransferStatus) -> Value {
    json!({
        "subject": transfer.subject,
        "done_bytes": transfer.done_bytes,
        "total_bytes": (transfer.total_bytes > 0).then_some(transfer.total_bytes),
        "seconds": transfer.seconds,
        "peers": transfer.peers.iter().map(giver_json).collect::<Vec<_>>(),
    })
}

fn transfer_lines(transfer: &TransferStatus) -> Vec<String> {
    let (done, time) =
        (HumanBytes(transfer.done_bytes), HumanDuration(std::time::Duration::from_secs(transfer.seconds)));
    let amount = match transfer.total_bytes {
        0 => "nothing yet".into(),
        total => format!("{done} of {}", HumanBytes(total)),
    };
    let mut lines = vec![format!("fetching {}: {amount} in {time}", transfer.subject)];
    lines.extend(giver_lines(&transfer.peers).into_iter().map(|line| format!("  {line}")));
    lines
}

fn liar_json(liar: &LiarStatus) -> Value {
    json!({ "id": liar.id, "reason": liar.reason, "at": liar.at })
}

fn liar_line(liar: &LiarStatus, now: UnixSeconds) -> String {
    let ago = std::time::Duration::from_secs(now.0.saturating_sub(liar.at));
    format!(
        "liar {}: lied {} ago, and is asked nothing for {LIAR_DAYS} days: {}",
        liar.id,
        HumanDuration(ago),
        liar.reason
    )
}

fn traffic_json(traffic: &TrafficStatus) -> Value {
    json!({
        "upload_rate": traffic.upload_rate,
        "download_rate": traffic.download_rate,
        "upload_rate_max": traffic.upload_rate_max,
        "upload_peer_rate_max": traffic.upload_peer_rate_max,
        "download_rate_max": traffic.download_rate_max,
        "download_peer_rate_max": traffic.download_peer_rate_max,
        "connections": traffic.connections,
        "requests": traffic.requests,
        "turned_away": traffic.turned_away,
    })
}

/// What goes one way, against its limits.
fn direction_text(rate: u64, rate_max: Option<u64>, peer_rate_max: Option<u64>) -> String {
    let mut text = format!("{}/s", HumanBytes(rate));
    if let Some(rate_max) = rate_max {
        text += &format!(" of {}/s", HumanBytes(rate_max));
    }
    if let Some(peer_rate_max) = peer_rate_max {
        text += &format!(", at most {}/s a peer", HumanBytes(peer_rate_max));
    }
    text
}

/// What peers want of this node.
fn requests_text(traffic: &TrafficStatus) -> String {
    let (connections, requests) =
        (counted(traffic.connections, "connection"), counted(traffic.requests, "request"));
    let mut text = format!("{requests} under way on {connections}");
    if traffic.turned_away > 0 {
        text += &format!("; {} told to come again later", counted(traffic.turned_away, "request"));
    }
    text
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
    let connected = match (peer.connected, &*peer.route) {
        (false, _) => "not connected".into(),
        (true, "") => "connected".into(),
        (true, route) => format!("connected ({route})"),
    };
    let mut lines = vec![format!(
        "peer {}: {via}, {connected}; gave {} in {}; was given {} in {}",
        peer.id,
        HumanBytes(peer.received_bytes),
        counted(peer.asked, "answer"),
        HumanBytes(peer.sent_bytes),
        counted(peer.answered, "answer"),
    )];
    if peer.upload_rate + peer.download_rate + peer.requests > 0 {
        lines.push(format!(
            "  now: takes {}/s, gives {}/s; {} under way",
            HumanBytes(peer.upload_rate),
            HumanBytes(peer.download_rate),
            counted(peer.requests, "request"),
        ));
    }
    lines.extend(peer.shared.iter().map(|shared| format!("  had {shared}")));
    lines.extend(peer.lies.iter().map(|lie| format!("  LIED: {lie}")));
    lines
}
