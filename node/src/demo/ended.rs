//! What the demo came to, and how it is told.

use std::{num::NonZeroU64, path::PathBuf};

use firn_exchange::PeerId;
use firn_proto::control::{AddReply, GetReply};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::gifts::Picture;
use crate::{
    output::Text,
    show::{Answer, short},
};

/// What came of it. One of the consumers is looked at more closely.
pub(super) struct Ended {
    pub(super) path: PathBuf,
    pub(super) added: AddReply,
    pub(super) got: GetReply,
    pub(super) other_got: GetReply,
    /// All but that consumer.
    pub(super) cast: Vec<(PeerId, &'static str)>,
    /// What each of them gave to it, and when.
    pub(super) picture: Picture,
    /// Whether both consumers have the tree that was added.
    pub(super) identical: bool,
    /// What the consumers gave to each other.
    pub(super) exchanged_bytes: u64,
    /// How much each seeder gave in a second.
    pub(super) upload_max: NonZeroU64,
    pub(super) seconds: f64,
}

/// What the consumer saw of one of the others.
struct Seen<'a> {
    id: PeerId,
    part: &'static str,
    via: &'a str,
    asked: u64,
    bytes: u64,
    lies: &'a [String],
}

impl Ended {
    /// Whether the trees arrived and nobody but the liar is blamed. How many gave, and when, is told and not judged:
    /// one peer alone may have given all of a small tree.
    pub(super) fn is_good(&self) -> bool {
        let are_honest_clean = |got: &GetReply| {
            seen(got, &self.cast).iter().all(|peer| peer.part == "liar" || peer.lies.is_empty())
        };
        self.identical && are_honest_clean(&self.got) && are_honest_clean(&self.other_got)
    }

    pub(super) fn answer(&self) -> Answer {
        let path = self.added.paths.last();
        let (store_path, root) = path.map(|path| (&*path.store_path, &*path.root)).unwrap_or_default();
        let seen = seen(&self.got, &self.cast);
        let json = json!({
            "path": self.path.to_string_lossy(), "store_path": store_path, "root": root,
            "files": self.got.files, "bytes": self.got.bytes, "identical": self.identical,
            "seconds": self.seconds, "fetch_seconds": self.got.seconds,
            "upload_rate_max": self.upload_max, "exchanged_bytes": self.exchanged_bytes,
            "interval_seconds": self.picture.interval.as_secs_f64(), "seeders_at_once": self.seeders_at_once(),
            "peers": seen.iter().map(|peer| self.peer_json(peer)).collect::<Vec<_>>(),
        });
        let mut text = Text::from_iter([store_path, root]);
        for peer in &seen {
            let (id, drawn) = (peer.id.to_string(), self.picture.drawn(&peer.id));
            text.line(format!("  {:<9} {}  {drawn}  {}", peer.part, short(&id), told(peer)));
        }
        text.extend(self.summary());
        Answer { json, text, remarks: Text::new() }
    }

    fn peer_json(&self, peer: &Seen<'_>) -> Value {
        let via = (!peer.via.is_empty()).then_some(peer.via);
        json!({
            "id": peer.id.to_string(), "role": peer.part, "via": via, "asked": peer.asked, "bytes": peer.bytes,
            "bytes_by_interval": self.picture.row(&peer.id),
            "blamed": !peer.lies.is_empty(), "lies": peer.lies,
        })
    }

    fn summary(&self) -> [String; 3] {
        let bytes = HumanBytes(self.got.bytes);
        [
            format!(
                "a sign is {:.2} s, the higher the more was given in it; {} seeders gave at once",
                self.picture.interval.as_secs_f64(),
                self.seeders_at_once(),
            ),
            format!(
                "the consumers gave each other {} of two times {bytes}",
                HumanBytes(self.exchanged_bytes)
            ),
            format!(
                "{} files, {bytes} in {:.1} s, {}/s of upload by each seeder; the trees that came out are {}",
                self.got.files,
                self.got.seconds,
                HumanBytes(self.upload_max.get()),
                if self.identical { "identical" } else { "NOT IDENTICAL" },
            ),
        ]
    }

    /// The most seeders that gave something in one interval.
    fn seeders_at_once(&self) -> usize {
        self.picture.givers_at_once(|giver| self.cast.contains(&(*giver, "seeder")))
    }
}

/// What a consumer saw of the others.
fn seen<'a>(got: &'a GetReply, cast: &[(PeerId, &'static str)]) -> Vec<Seen<'a>> {
    let seen = cast.iter().map(|&(id, part)| {
        let text = id.to_string();
        match got.peers.iter().find(|peer| peer.id == text) {
            Some(peer) => {
                Seen { id, part, via: &peer.via, asked: peer.asked, bytes: peer.bytes, lies: &peer.lies }
            }
            None => Seen { id, part, via: "", asked: 0, bytes: 0, lies: &[] },
        }
    });
    seen.collect()
}

fn told(peer: &Seen<'_>) -> String {
    let gave = || format!("gave {}, found by {}", HumanBytes(peer.bytes), peer.via);
    match (peer.part, peer.lies) {
        ("bootstrap", _) => "holds nothing; it only knew whom to ask".to_owned(),
        ("publisher", _) => "switched off before the consumers came".to_owned(),
        (_, [lie, ..]) => format!("lied, was caught and dropped: {lie}"),
        (_, []) if peer.bytes == 0 => "gave nothing".to_owned(),
        ("consumer", []) => gave() + ", while it got the tree itself",
        (_, []) => gave(),
    }
}
