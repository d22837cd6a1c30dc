//! A node: its store, what of it others may see, and how it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::Groups;
use firn_castore::{BlobDigest, Closure};
use firn_exchange::{FELLOWS_MAX, Fellow, Key, Micros, PeerId, Shared, SharedView, answer};
use firn_store::MemoryStore;

use super::ground::{Ground, dice_of, id_of};
use super::plan::{Nature, NodePlan, Part};
use crate::dice::Dice;
use crate::liar::Liar;
use crate::world::{Answer, honest, lie};

/// How soon one who is busy wants to be asked again.
const BUSY: Micros = Micros::from_millis(200);
/// How well bodies are compressed, as zstd counts.
const LEVEL: i32 = 1;

/// Whether a node can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has not come yet, or its process is gone: whoever asks it hears nothing.
    Silent,
    Here,
    /// It is here, and nothing gets through.
    CutOff,
    /// It has closed its connections.
    Gone,
}

pub(super) struct Node<'a> {
    pub(super) plan: &'a NodePlan,
    pub(super) id: PeerId,
    pub(super) presence: Presence,
    pub(super) store: Arc<MemoryStore>,
    pub(super) shared: Arc<Shared>,
    view: SharedView,
    liar: Option<Liar>,
    /// Who has asked for what of late; the last one is the newest.
    askers: BTreeMap<Key, VecDeque<PeerId>>,
    /// What has been kept here of each blob, by the spans that were given to the store.
    pub(super) kept: BTreeMap<BlobDigest, Groups>,
    /// The trees that are whole here; true for those that are shared as paths.
    has: BTreeSet<(usize, bool)>,
    pub(super) dice: Dice,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

impl<'a> Node<'a> {
    pub(super) fn new(seed: u64, plan: &'a NodePlan, ground: &Ground) -> Self {
        let (store, shared) = (Arc::new(MemoryStore::new()), Arc::new(Shared::default()));
        for holding in &plan.holds {
            ground.stock(&store, *holding);
        }
        let whole = plan.holds.iter().filter(|holding| holding.part == Part::Whole);
        let has = whole.map(|holding| (holding.tree, true)).collect();
        let view = SharedView::new(store.clone(), shared.clone());
        let liar = match plan.nature {
            Nature::Liar(kind, seed) => Some(Liar::new(kind, view.clone(), seed)),
            Nature::Honest | Nature::Ignorant => None,
        };
        let node = Self {
            plan,
            id: id_of(seed, plan.number),
            presence: Presence::Silent,
            store,
            shared,
            view,
            liar,
            askers: BTreeMap::new(),
            kept: BTreeMap::new(),
            has,
            dice: dice_of(seed, plan.number, 0x6e6f_6465),
            sent_bytes: 0,
            received_bytes: 0,
        };
        node.share(ground);
        node
    }

    /// Under which keys it announces itself when it comes.
    pub(super) fn keys(&self, ground: &Ground) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.shared.keys().into_iter().collect();
        if self.plan.nature == Nature::Ignorant {
            for truth in &ground.truths {
                keys.extend([Key::Path(*truth.facts.path.hash()), Key::Root(truth.tree.root().clone())]);
            }
        }
        keys
    }

    /// Its process is gone, and with it all that is not in the store.
    pub(super) fn forget(&mut self, ground: &Ground) {
        self.askers.clear();
        self.shared.replace(Shared::default());
        self.share(ground);
    }

    /// Shares what is in the store.
    fn share(&self, ground: &Ground) {
        for &(tree, by_path) in &self.has {
            let closure = &ground.truths[tree].tree.closure;
            match by_path {
                true => self.shared.add_path(&ground.paths[tree], closure),
                false => self.shared.add_root(closure),
            }
        }
        for holding in self.plan.holds.iter().filter(|holding| holding.part != Part::Whole) {
            self.shared.begin_coming(&ground.truths[holding.tree].tree.closure);
        }
    }

    /// Answers, with hints at others who have asked for the same.
    pub(super) fn answer(
        &mut self,
        asker: PeerId,
        request: Bytes,
        bytes_max: usize,
        may_be_busy: bool,
    ) -> Answer {
        if let Some(liar) = &self.liar {
            return lie(liar, request, bytes_max);
        }
        if may_be_busy && self.dice.percent(self.plan.busy_percent) {
            return Answer::Reply(firn_exchange::busy(BUSY));
        }
        let reply = answer(&self.view, request);
        let reply = match reply.about().cloned() {
            Some(key) if reply.is_ok() => reply.hinting(&self.note_asker(key, asker)),
            _ => reply,
        };
        honest(reply.compressed(LEVEL))
    }

    /// The others who have asked for this, newest first.
    fn note_asker(&mut self, key: Key, asker: PeerId) -> Vec<Fellow> {
        let askers = self.askers.entry(key).or_default();
        askers.retain(|other| *other != asker);
        let fellow = |peer: &PeerId| Fellow { peer: *peer, addresses: Vec::new() };
        let fellows = askers.iter().rev().take(FELLOWS_MAX).map(fellow).collect();
        askers.push_back(asker);
        if askers.len() > FELLOWS_MAX {
            askers.pop_front();
        }
        fellows
    }

    /// Counts a span as kept; how many bytes of it were here already.
    pub(super) fn note_kept(&mut self, span: &firn_bao::VerifiedSpan) -> u64 {
        let size = span.blob().size;
        let groups = self.kept.entry(span.blob().digest).or_default();
        let twice = groups.within(&span.span().groups()).into_iter();
        let twice = twice.filter_map(firn_bao::Span::from_groups).map(|span| span.bytes(size));
        let bytes = twice.map(|range| range.end - range.start).sum();
        groups.insert(span.span().groups());
        bytes
    }

    /// A tree is whole here, under the path or the root that was wanted.
    pub(super) fn has_fetched(&mut self, tree: usize, ground: &Ground, closure: &Closure, by_path: bool) {
        self.has.insert((tree, by_path));
        match by_path {
            true => self.shared.add_path(&ground.paths[tree], closure),
            false => self.shared.add_root(closure),
        }
    }
}
