//! What was asked for and has not come.

use std::collections::BTreeMap;

use super::Micros;
use super::peers::{Peers, STALL};
use super::queue::Work;
use crate::PeerId;

/// Of a tree's bytes, one in so many may be asked for twice because somebody is slow.
const LATE_SHARE: u64 = 100;
/// So many bytes may be asked for twice however small the tree is.
const LATE_BYTES_MIN: u64 = 256 << 10;
/// So much later must a piece be expected from whom it was asked first than from another one.
const LATE_FACTOR: u64 = 3;
/// What is expected sooner than this is waited for.
const LATE_AT_LEAST: Micros = Micros::from_millis(200);
/// A peer of which nothing is known is slow once it has given nothing for so long.
const STRANGER_TIME: Micros = Micros::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PieceId(u64);

struct Piece {
    work: Work,
    /// Who was asked for it; never empty.
    askers: Vec<(PeerId, Micros)>,
}

/// Pieces of work under way, by who was asked for them.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: BTreeMap<PieceId, Piece>,
    next: u64,
    /// How many bytes may still be asked for twice because somebody is slow.
    late_bytes_left: u64,
}

impl Pieces {
    /// So many bytes are to come.
    pub(super) fn begin_blobs(&mut self, bytes: u64) {
        self.late_bytes_left = LATE_BYTES_MIN.max(bytes / LATE_SHARE);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn work(&self, piece: PieceId) -> Option<&Work> {
        self.pieces.get(&piece).map(|piece| &piece.work)
    }

    /// This peer is asked for this.
    pub(super) fn begin(&mut self, work: Work, peer: PeerId, now: Micros) -> PieceId {
        let id = PieceId(self.next);
        self.next += 1;
        self.pieces.insert(id, Piece { work, askers: vec![(peer, now)] });
        id
    }

    /// It has come.
    pub(super) fn end(&mut self, piece: PieceId) {
        self.pieces.remove(&piece);
    }

    /// This peer will not give it. The work comes back where nobody else was asked for it.
    pub(super) fn give_back(&mut self, id: PieceId, peer: PeerId) -> Option<Work> {
        let piece = self.pieces.get_mut(&id)?;
        piece.askers.retain(|(asker, _)| *asker != peer);
        let is_left = piece.askers.is_empty();
        is_left.then(|| self.pieces.remove(&id)).flatten().map(|piece| piece.work)
    }

    /// A piece that all who were asked for it owe without sending anything, or that was asked for long ago while nothing of
    /// the tree has come since `progress_at`; this peer is asked for it too.
    pub(super) fn owed(
        &mut self,
        peer: PeerId,
        peers: &Peers,
        now: Micros,
        progress_at: Micros,
        may: impl Fn(&Work) -> bool,
    ) -> Option<(PieceId, Work)> {
        let is_owed = |piece: &&mut Piece| {
            piece.owed_at(progress_at) <= now
                || piece.askers.iter().all(|(asker, _)| peers.is_stalled(asker, now))
        };
        let (id, piece) = self
            .pieces
            .iter_mut()
            .filter(|(_, piece)| is_owed(piece))
            .find(|(_, piece)| !piece.was_asked_of(&peer) && may(&piece.work))?;
        piece.askers.push((peer, now));
        Some((*id, piece.work.clone()))
    }

    /// When, after this time, a piece is owed if nothing comes any more.
    pub(super) fn next_owed(&self, now: Micros, progress_at: Micros) -> Option<Micros> {
        self.pieces.values().map(|piece| piece.owed_at(progress_at)).filter(|at| *at > now).min()
    }

    /// The piece that comes latest, if it comes much sooner from this peer, which is then asked for it too.
    pub(super) fn late(
        &mut self,
        peer: PeerId,
        peers: &Peers,
        now: Micros,
        may: impl Fn(&Work) -> bool,
    ) -> Option<(PieceId, Work)> {
        let pace = peers.pace(&peer);
        let gain = |piece: &Piece| {
            let [(asker, since)] = piece.askers[..] else { return None };
            let bytes = piece.work.bytes();
            let here = pace.time_for(pace.in_flight() + bytes)?;
            let there = time_left(&asker, since, peers, now)?;
            let is_late = there >= LATE_AT_LEAST && there.0 > here.0.saturating_mul(LATE_FACTOR);
            (is_late && asker != peer && bytes <= self.late_bytes_left && may(&piece.work)).then_some(there)
        };
        let latest = self.pieces.iter().filter_map(|(id, piece)| Some((gain(piece)?, *id))).max();
        let piece = self.pieces.get_mut(&latest?.1)?;
        piece.askers.push((peer, now));
        self.late_bytes_left = self.late_bytes_left.saturating_sub(piece.work.bytes());
        Some((latest?.1, piece.work.clone()))
    }
}

impl Piece {
    fn was_asked_of(&self, peer: &PeerId) -> bool {
        self.askers.iter().any(|(asker, _)| asker == peer)
    }

    /// From when on it is asked of another one if nothing of the tree comes, be it that who was asked sends a byte now and then.
    fn owed_at(&self, progress_at: Micros) -> Micros {
        self.askers.iter().map(|(_, since)| *since).fold(progress_at, Micros::max).after(STALL)
    }
}

/// How long a peer takes for all that it was asked for; `None` where that cannot be told yet.
fn time_left(peer: &PeerId, since: Micros, peers: &Peers, now: Micros) -> Option<Micros> {
    let pace = peers.pace(peer);
    let waited = Micros(now.0.saturating_sub(since.0));
    match pace.time_for(pace.in_flight()) {
        // An estimate that has been proven wrong grows.
        Some(estimate) => Some(Micros(estimate.0.max(waited.0.saturating_sub(estimate.0)))),
        None => (waited >= STRANGER_TIME).then_some(Micros(u64::MAX)),
    }
}
