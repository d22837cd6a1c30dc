//! What is asked of whom, among those who fetch the same tree.

use firn_bao::Span;
use firn_castore::BlobRef;

use super::Micros;
use super::holders::{Extent, Holders, POLL};
use super::peers::{Peers, STALL};
use super::queue::{End, Queue, Work};
use crate::PeerId;

/// What who has all gives sooner than this is not left to others: by the time that they say that they have it, it is here.
const SHORT: Micros = Micros::from_millis(100);
/// The same of a fellow, for whose upload fewer wait.
const SHORT_OF_FELLOW: Micros = Micros::from_millis(1_000);
/// While a reader waits, so much of what it needs next is asked for in its order, whoever owns it.
const URGENT_BYTES: u64 = 4 << 20;

/// What a peer can be asked for, and who else may ask it for the same.
pub(super) struct Offer<'a> {
    holders: &'a Holders,
    peers: &'a Peers,
    peer: &'a PeerId,
    /// Not the peer itself.
    partners: Vec<PeerId>,
}

impl<'a> Offer<'a> {
    pub(super) fn new(holders: &'a Holders, peers: &'a Peers, peer: &'a PeerId, now: Micros) -> Self {
        let partners = holders.partners(|partner| partner != peer && peers.is_usable(partner, now));
        Self { holders, peers, peer, partners }
    }

    fn is_of_whole(&self) -> bool {
        self.holders.extent(self.peer) == Extent::Whole
    }

    fn any(&self, blob: &BlobRef, run: Span) -> Option<Span> {
        self.holders.part_of(self.peer, blob, run)
    }

    /// What no partner has, and so many of them at most would ask for before this node.
    fn up_to_rank(&self, rank: usize) -> impl Fn(&BlobRef, Span) -> Option<Span> {
        move |blob, run| self.holders.part_up_to_rank(rank, &self.partners, blob, self.any(blob, run)?)
    }

    /// What some partner has.
    fn held_by_others(&self) -> impl Fn(&BlobRef, Span) -> Option<Span> {
        move |blob, run| self.holders.held_part(&self.partners, blob, self.any(blob, run)?)
    }

    /// What no partner has that is as fast as the peer.
    fn unheld_by_faster(&self) -> impl Fn(&BlobRef, Span) -> Option<Span> {
        let rate = self.peers.pace(self.peer).rate();
        let is_faster =
            |partner: &&PeerId| self.peers.pace(partner).rate().is_none_or(|its| Some(its) >= rate);
        let faster: Vec<PeerId> = self.partners.iter().filter(is_faster).copied().collect();
        move |blob, run| self.holders.unheld_part(&faster, blob, self.any(blob, run)?)
    }
}

/// How much of what others own is asked for as well: none of it while there is something of one's own.
#[derive(Default)]
pub(super) struct Sharing {
    help: Option<Help>,
}

struct Help {
    /// What so many others would rather ask for.
    rank: usize,
    /// When it will be one more.
    more_at: Micros,
}

impl Sharing {
    /// From which end of the queue something is asked for next, and what so many others would rather ask for.
    pub(super) fn next(&self) -> (End, usize) {
        self.help.as_ref().map_or((End::Front, 0), |help| (End::Back, help.rank.max(1)))
    }

    /// When there may be more to ask for.
    pub(super) fn more_at(&self) -> Option<Micros> {
        self.help.as_ref().map(|help| help.more_at)
    }

    /// What this peer is to be asked for, if anything: of about so many bytes.
    pub(super) fn take(
        &mut self,
        queue: &mut Queue,
        offer: &Offer<'_>,
        bytes_max: u64,
        is_read: bool,
        now: Micros,
    ) -> Option<Work> {
        let any = |blob: &BlobRef, run| offer.any(blob, run);
        if offer.partners.is_empty() {
            return queue.take(End::Front, bytes_max, any);
        }
        if is_read && let Some(urgent) = take_urgent(queue, offer, bytes_max) {
            return Some(urgent);
        }
        // What is one's own comes first, so that not all ask for the same.
        if let Some(own) = queue.take(End::Front, bytes_max, offer.up_to_rank(0)) {
            if offer.is_of_whole() {
                self.help = None;
            }
            return Some(own);
        }
        // What has left a fellow before it need not give alone; of who has all it is not taken.
        if !offer.is_of_whole()
            && let Some(spread) = queue.take(End::Front, bytes_max, offer.held_by_others())
        {
            return Some(spread);
        }
        self.help(queue, offer, bytes_max, now)
    }

    /// Something that others own.
    fn help(&mut self, queue: &mut Queue, offer: &Offer<'_>, bytes_max: u64, now: Micros) -> Option<Work> {
        let pace = offer.peers.pace(offer.peer);
        let is_short = match offer.is_of_whole() {
            true => queue.bytes() <= pace.gives_in(SHORT),
            false => queue.bytes_of(|blob, run| offer.any(blob, run)) <= pace.gives_in(SHORT_OF_FELLOW),
        };
        if is_short {
            return queue.take(End::Front, bytes_max, |blob, run| offer.any(blob, run));
        }
        // What the others have asked for by then will have come, though they be somewhat slower, and they will have said so.
        let takes = pace.time_for_window().unwrap_or_default();
        let wait = takes.after(takes).after(POLL).min(STALL);
        let help = self.help.get_or_insert(Help { rank: 0, more_at: now.after(wait) });
        if help.more_at <= now {
            *help = Help { rank: help.rank + 1, more_at: now.after(wait) };
        }
        if help.rank == 0 {
            return None;
        }
        // First what would be one's own if its owner were not there, then if the next one were not there either, so that those
        // who are done early help different ones, and in a large swarm not all ask for the same at once; from the end at which
        // its owner comes last, and not what its owner may be asking for now. What a fellow has it gives, unless it is slower
        // than who has all and nothing else is left.
        let others = (1..=help.rank.min(offer.partners.len())).find_map(|rank| {
            let (wants, mut far) = (offer.up_to_rank(rank), queue.len().div_ceil(2));
            queue.take(End::Back, bytes_max, |blob, run| {
                far = far.checked_sub(1)?;
                wants(blob, run)
            })
        });
        if others.is_some() || help.rank < offer.partners.len() {
            return others;
        }
        queue.take(End::Front, bytes_max, offer.unheld_by_faster())
    }
}

/// What a reader needs next.
fn take_urgent(queue: &mut Queue, offer: &Offer<'_>, bytes_max: u64) -> Option<Work> {
    let mut left = URGENT_BYTES;
    queue.take(End::Front, bytes_max, |blob, run| {
        left = left.checked_sub(blob.size.min(URGENT_BYTES / 8))?;
        offer.any(blob, run)
    })
}
