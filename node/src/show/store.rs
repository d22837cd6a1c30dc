//! What the commands print that are about the store.

use firn_proto::control::{
    AddReply, AddedPath, AdoptReply, AdoptStatus, CollectReply, Damage, PinReply, PinnedItem, PinsReply,
    StatsReply, UnpinReply, VerifyReply,
};
use firn_store::Rebuilt;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{Answer, counted, lossy, or_null};
use crate::output::Text;

/// What `firn add` prints.
pub fn add(reply: &AddReply) -> Answer {
    let added = reply.paths.last().cloned().unwrap_or_default();
    let json = json!({
        "store_path": added.store_path,
        "root": added.root,
        "files": reply.files,
        "bytes": reply.bytes,
        "announced": reply.announced,
        "in_place": reply.in_place,
        "missing_references": reply.missing_references,
        "paths": reply.paths.iter().map(added_path_json).collect::<Vec<_>>(),
    });
    let sharing = match (reply.paths.iter().any(|path| path.shared), reply.announced) {
        (false, _) => "shared with nobody: neither --sign-key nor --share was given",
        (true, true) => "shared, as far as the node's role allows",
        (true, false) => "shared; it will be announced when a node runs with the role lan or seed",
    };
    let what = match reply.paths.len() as u64 {
        1 => String::new(),
        paths => format!("{}, ", counted(paths, "path")),
    };
    let size = format!("{}, {}", counted(reply.files, "file"), HumanBytes(reply.bytes));
    let mut remarks = Text::from_iter([format!("added {what}{size}; {sharing}")]);
    remarks.extend(known_text(&reply.paths));
    remarks.extend(missing_text(&reply.missing_references));
    if reply.in_place {
        remarks.line("the files are read where they are: they must stay there, and as they are");
    }
    Answer { json, text: Text::from_iter([added.store_path, added.root]), remarks }
}

/// What looks as it did before was not read again.
fn known_text(paths: &[AddedPath]) -> Option<String> {
    match (paths.iter().filter(|path| path.was_known).count(), paths.len()) {
        (0, _) => None,
        (1, 1) => Some(
            "known already: its files look as they did, and were not read again (--rehash reads them)".into(),
        ),
        (known, all) => Some(format!("{known} of {all} paths known already, and not read again")),
    }
}

/// Nix takes a path only with all that it references.
fn missing_text(missing: &[String]) -> Option<String> {
    let first = missing.first()?;
    let (are, them) = if missing.len() == 1 { ("is", "it") } else { ("are", "them") };
    let count = counted(missing.len() as u64, "path");
    Some(format!("{count} that it references {are} not here, such as {first}: --closure adds {them}, too"))
}

/// What was adopted by its name is not seeded by that alone.
fn unshared_text(paths: &[AddedPath]) -> Option<String> {
    match paths.iter().filter(|path| !path.shared).count() as u64 {
        0 => None,
        count => Some(format!("{} shared with nobody: --share was not given", counted(count, "path"))),
    }
}

fn added_path_json(path: &AddedPath) -> Value {
    json!({
        "store_path": path.store_path,
        "root": path.root,
        "nar_hash": path.nar_hash,
        "nar_size": path.nar_size,
        "shared": path.shared,
        "was_known": path.was_known,
        "signed_by": path.signed_by,
    })
}

/// What `firn adopt` prints.
pub fn adopt(reply: &AdoptReply) -> Answer {
    let json = json!({
        "goes_on": reply.goes_on,
        "store": reply.status.as_ref().map(adopt_json),
        "paths": reply.paths.iter().map(added_path_json).collect::<Vec<_>>(),
    });
    let text = reply.paths.iter().map(|path| &path.store_path).collect();
    let mut remarks = Text::from_iter(known_text(&reply.paths));
    remarks.extend(unshared_text(&reply.paths));
    if let Some(status) = &reply.status {
        remarks.line(format!("{}: {}", lossy(&status.store_dir), adopt_text(status)));
        remarks.extend(match (reply.goes_on, status.complete) {
            (true, true) => Some("the node follows it from now on, as long as it runs"),
            (true, false) => {
                Some("the node goes on with it as long as it runs; `firn status` tells how far it is")
            }
            (false, _) => None,
        });
        if status.untrusted_paths > 0 {
            remarks.line("what no trusted key has signed is left out; `firn adopt PATH` takes it even so");
        }
    }
    Answer { json, text, remarks }
}

pub(super) fn adopt_json(status: &AdoptStatus) -> Value {
    json!({
        "store_dir": lossy(&status.store_dir),
        "total_paths": status.total_paths,
        "adopted_paths": status.adopted_paths,
        "adopted_bytes": status.adopted_bytes,
        "waiting_paths": status.waiting_paths,
        "withdrawn_paths": status.withdrawn_paths,
        "untrusted_paths": status.untrusted_paths,
        "failed_paths": status.failed_paths,
        "last_failure": or_null(&status.last_failure),
        "complete": status.complete,
    })
}

pub(super) fn adopt_text(status: &AdoptStatus) -> String {
    let mut text = format!(
        "{} of {} adopted, {}",
        status.adopted_paths,
        counted(status.total_paths, "path"),
        HumanBytes(status.adopted_bytes),
    );
    let mut more = |count: u64, what: &str| {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    };
    more(status.waiting_paths, "to go");
    more(status.withdrawn_paths, "withdrawn");
    more(status.untrusted_paths, "without a trusted signature");
    more(status.failed_paths, "failed");
    if !status.last_failure.is_empty() {
        text += &format!(", lastly: {}", status.last_failure);
    }
    text
}

fn pin_json(pin: &PinnedItem) -> Value {
    json!({ "subject": pin.subject, "reason": pin.reason })
}

/// What `firn pin add` prints.
pub fn pin(reply: &PinReply) -> Answer {
    let pin = reply.pin.clone().unwrap_or_default();
    let remarks = match reply.is_here {
        true => format!("pinned: {}", pin.reason),
        false => format!("pinned: {}; it is not here, `firn get` brings it", pin.reason),
    };
    let json = json!({ "subject": pin.subject, "reason": pin.reason, "is_here": reply.is_here });
    Answer { json, text: Text::from_iter([pin.subject]), remarks: Text::from_iter([remarks]) }
}

/// What `firn pin rm` prints.
pub fn unpin(reply: &UnpinReply) -> Answer {
    let remarks = Text::from_iter(["no longer pinned: it stays until room is wanted"]);
    Answer { json: json!({ "subject": reply.subject }), text: Text::from_iter([&reply.subject]), remarks }
}

/// What `firn pin list` prints.
pub fn pins(reply: &PinsReply) -> Answer {
    let text = reply.pins.iter().map(|pin| format!("{} {}", pin.subject, pin.reason)).collect();
    let pins: Vec<Value> = reply.pins.iter().map(pin_json).collect();
    Answer { json: json!({ "pins": pins }), text, remarks: Text::new() }
}

/// What `firn gc` prints.
pub fn collect(reply: &CollectReply) -> Answer {
    let evicted = reply.evicted.iter().map(|evicted| {
        let used_at = (evicted.used_at > 0).then_some(evicted.used_at);
        json!({ "subject": evicted.subject, "used_at": used_at })
    });
    let json = json!({
        "dry_run": reply.dry_run,
        "evicted": evicted.collect::<Vec<_>>(),
        "blobs": reply.blobs,
        "directories": reply.directories,
        "partials": reply.partials,
        "bytes": reply.bytes,
        "disk_bytes": reply.disk_bytes,
        "disk_bytes_max": reply.disk_bytes_max,
    });
    let text = reply.evicted.iter().map(|evicted| &evicted.subject).collect();
    Answer { json, text, remarks: collect_remarks(reply) }
}

fn collect_remarks(reply: &CollectReply) -> Text {
    let (evicted, dry_run) = (reply.evicted.len() as u64, reply.dry_run);
    let mut remarks = Text::new();
    if evicted > 0 {
        let would_be = if dry_run { "would be " } else { "" };
        remarks.line(format!("{} {would_be}evicted", paths_and_trees(evicted)));
    }
    let (would_go, in_all) = match (dry_run, evicted) {
        (true, 0) => ("would go: ", ""),
        (true, _) => ("besides that would go: ", " in all"),
        (false, _) => ("deleted ", ""),
    };
    remarks.line(format!(
        "{would_go}{}, {}, {} that came in part; about {}{in_all}",
        counted(reply.blobs, "blob"),
        directories(reply.directories),
        reply.partials,
        HumanBytes(reply.bytes),
    ));
    let disk_bytes = reply.disk_bytes.saturating_sub(if dry_run { reply.bytes } else { 0 });
    let takes = if dry_run { "would take about" } else { "takes" };
    let limit = match reply.disk_bytes_max {
        Some(max) if disk_bytes > max => {
            format!(", more than {}: the rest is pinned, or needed by the store itself", HumanBytes(max))
        }
        Some(max) => format!(" of {}", HumanBytes(max)),
        None => String::new(),
    };
    remarks.line(format!("the store {takes} {}{limit}", HumanBytes(disk_bytes)));
    remarks
}

fn paths_and_trees(count: u64) -> String {
    if count == 1 { "1 path or tree".to_owned() } else { format!("{count} paths and trees") }
}

fn directories(count: u64) -> String {
    if count == 1 { "1 directory".to_owned() } else { format!("{count} directories") }
}

/// What `firn store stats` prints.
pub fn stats(reply: &StatsReply) -> Answer {
    let ratio = match reply.unique_bytes {
        0 => 1.0,
        unique => reply.total_bytes as f64 / unique as f64,
    };
    let kept = reply.blob_bytes.saturating_sub(reply.adopted_bytes);
    let overhead = reply.disk_bytes.saturating_sub(kept);
    let json = json!({
        "paths": reply.paths,
        "trees": reply.trees,
        "blobs": reply.blobs,
        "directories": reply.directories,
        "partials": reply.partials,
        "pinned": reply.pinned,
        "total_bytes": reply.total_bytes,
        "unique_bytes": reply.unique_bytes,
        "dedup_ratio": ratio,
        "adopted_blobs": reply.adopted_blobs,
        "adopted_bytes": reply.adopted_bytes,
        "disk_bytes": reply.disk_bytes,
        "disk_bytes_max": reply.disk_bytes_max,
        "overhead_bytes": overhead,
    });
    let blobs = match reply.partials {
        0 => reply.blobs.to_string(),
        partials => format!("{}, and {partials} in part", reply.blobs),
    };
    let limit = reply.disk_bytes_max.map_or(String::new(), |max| format!(" of {}", HumanBytes(max)));
    let rows = [
        ("paths", reply.paths.to_string()),
        ("trees", reply.trees.to_string()),
        ("pinned", reply.pinned.to_string()),
        ("blobs", blobs),
        ("directories", reply.directories.to_string()),
        ("total", HumanBytes(reply.total_bytes).to_string()),
        ("unique", format!("{}, {ratio:.2} times less", HumanBytes(reply.unique_bytes))),
        (
            "adopted",
            format!("{} in {}", HumanBytes(reply.adopted_bytes), counted(reply.adopted_blobs, "blob")),
        ),
        ("on disk", format!("{}{limit}", HumanBytes(reply.disk_bytes))),
        ("overhead", HumanBytes(overhead).to_string()),
    ];
    let text = rows.iter().map(|(name, value)| format!("{name:<12} {value}")).collect();
    Answer { json, text, remarks: Text::new() }
}

/// What `firn verify` prints.
pub fn verify(reply: &VerifyReply) -> Answer {
    let json = json!({
        "checked": reply.checked,
        "bytes": reply.bytes,
        "fetched_bytes": reply.fetched_bytes,
        "damages": reply.damages.iter().map(damage_json).collect::<Vec<_>>(),
    });
    let repaired = reply.damages.iter().filter(|damage| damage.repaired).count() as u64;
    let mut result = match reply.damages.len() as u64 {
        0 => "all is as it should be".to_owned(),
        damages => counted(damages, "damage"),
    };
    if repaired > 0 {
        result += &format!(", {repaired} repaired with {} from peers", HumanBytes(reply.fetched_bytes));
    }
    let checked = paths_and_trees(reply.checked);
    let mut remarks = Text::from_iter([format!("checked {checked}, {}; {result}", HumanBytes(reply.bytes))]);
    remarks.extend(what_to_do(&reply.damages));
    Answer { json, text: reply.damages.iter().map(damage_line).collect(), remarks }
}

/// What `firn verify --rebuild-index` prints.
pub fn rebuilt(rebuilt: &Rebuilt) -> Answer {
    let old_index = rebuilt.put_aside.as_ref().map(|path| path.to_string_lossy());
    let json = json!({
        "blobs": rebuilt.blobs,
        "directories": rebuilt.directories,
        "trees": rebuilt.trees,
        "damaged": rebuilt.damaged,
        "old_index": old_index,
    });
    let found = format!(
        "found: {}, Directories: {}, visible as {}; damaged: {}",
        counted(rebuilt.blobs, "blob"),
        rebuilt.directories,
        counted(rebuilt.trees, "tree"),
        rebuilt.damaged,
    );
    let put_aside = old_index.map(|old_index| format!("the old index is {old_index}"));
    let remark = "paths, pins, who may have what, and where adopted files are were in the old index alone and are lost: \
        add, adopt or get again what is wanted; contents that are here are not fetched anew";
    Answer {
        json,
        text: [found].into_iter().chain(put_aside).collect(),
        remarks: Text::from_iter([remark.to_owned()]),
    }
}

/// What helps against what is still damaged.
fn what_to_do(damages: &[Damage]) -> Option<&'static str> {
    let mut unrepaired = damages.iter().filter(|damage| !damage.repaired).peekable();
    if unrepaired.peek().is_none() {
        None
    } else if unrepaired.any(|damage| !damage.unrepaired_because.is_empty()) {
        Some("what no peer has is whole again once it is added again, by whoever has the files")
    } else {
        Some(
            "`firn verify --repair` gets again what peers have; `firn add --rehash` adds again what you have yourself",
        )
    }
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "subject": damage.subject,
        "what": damage.what,
        "repaired": damage.repaired,
        "unrepaired_because": or_null(&damage.unrepaired_because),
    })
}

fn damage_line(damage: &Damage) -> String {
    let outcome = match (damage.repaired, damage.unrepaired_because.as_str()) {
        (true, _) => "; repaired".to_owned(),
        (false, "") => String::new(),
        (false, because) => format!("; not repaired: {because}"),
    };
    format!("{}: {}{outcome}", damage.subject, damage.what)
}
