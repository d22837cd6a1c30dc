//! What a node does when its machine wants something.

use std::sync::Arc;

use firn_bao::VerifiedSpan;
use firn_castore::Closure;
use firn_exchange::{Key, Micros, Outcome, Output};
use firn_store::{Blobs, Directories};

use super::errand::FlightId;
use super::plan::SwarmSabotage;
use super::report::MarkKind;
use super::run::{Event, Swarm};
use crate::referee::describe;
use crate::violation::Violation;
use crate::words::with_last_byte_changed;

/// How long a store takes to be looked through.
const LOOK_TAKES: Micros = Micros::from_millis(2);
/// How long a NAR takes to be hashed.
const HASH_TAKES: Micros = Micros::from_millis(10);

impl Swarm<'_> {
    pub(super) fn carry_out(&mut self, id: FlightId, output: Output) {
        let Some(of) = self.flights.get_mut(&id) else { return };
        let node = self.errands[of.errand].node;
        match output {
            Output::Find(key) => self.find(id, key),
            Output::Ask { peer, id: ask, request } => self.ask(id, peer, ask, request),
            Output::Cancel(ask) => self.cancel(id, ask),
            Output::KeepClosure(closure) => self.keep_closure(id, node, &closure),
            Output::Recall { root, .. } => self.at(self.after(LOOK_TAKES), Event::Recalled(id, root)),
            Output::Look(closure) => self.at(self.after(LOOK_TAKES), Event::Looked(id, closure)),
            Output::Keep(span) => self.keep(id, node, &span),
            Output::HashNar(signed, closure) => {
                self.at(self.after(HASH_TAKES), Event::Hash(id, Box::new(signed), closure));
            }
            Output::Blame { peer, lie } => {
                of.referee.blamed(peer, &lie);
                self.blamed += 1;
                let whom = self.places.get(&peer).copied();
                if let Some(whom) = whom {
                    self.mark(whom, MarkKind::Blamed);
                }
                self.note(|swarm| {
                    let whom = whom.map_or_else(|| "nobody".into(), |whom| swarm.name(whom));
                    format!("{} BLAMES {whom}: {lie}", swarm.name(node))
                });
            }
            Output::Reject { root, reason, .. } => {
                let truth = &self.ground.truths[self.errands[of.errand].want.tree];
                of.referee.rejected(truth, &root, &reason);
                if let Some(closure) = of.coming.take() {
                    self.nodes[node].shared.end_coming(&closure);
                }
                self.rejected += 1;
                self.note(|swarm| format!("{} REJECTS {root}: {reason}", swarm.name(node)));
            }
            Output::Done(outcome) => self.done(id, node, &outcome),
        }
    }

    fn keep_closure(&mut self, id: FlightId, node: usize, closure: &Arc<Closure>) {
        if let Some(of) = self.flights.get_mut(&id) {
            of.referee.kept_closure(closure);
        }
        let directories: Vec<_> = closure.directories().cloned().collect();
        if let Err(error) = self.nodes[node].store.keep_directories(&directories) {
            self.object_to(id, Violation::NotWhole(error));
        }
        self.begin_coming(id, closure);
    }

    fn keep(&mut self, id: FlightId, node: usize, span: &VerifiedSpan) {
        let now = self.now;
        let Some(of) = self.flights.get_mut(&id) else { return };
        let mut bytes = span.bytes().clone();
        match self.plan.sabotage {
            Some(SwarmSabotage::KeepsOtherBytes) => bytes = with_last_byte_changed(&bytes),
            Some(SwarmSabotage::ForgetsBlobs) if span.blob().size > 0 => return,
            _ => {}
        }
        let errand = &mut self.errands[of.errand];
        let truth = &self.ground.truths[errand.want.tree];
        of.referee.kept(truth, span.blob(), span.span(), &bytes);
        let mut twice = self.nodes[node].note_kept(span);
        if self.plan.sabotage == Some(SwarmSabotage::AsksTwice) {
            twice = bytes.len() as u64;
        }
        let tally = &mut errand.tally;
        let new = bytes.len() as u64 - twice;
        tally.duplicate_bytes += twice;
        tally.useful_bytes += new;
        if new > 0 {
            tally.stall_most = tally.stall_most.max(Micros(now.0 - tally.progress_at.0));
            tally.progress_at = now;
            self.curves[node].grow(now, new);
        }
        if let Err(error) = self.nodes[node].store.keep_spans(std::slice::from_ref(span)) {
            return self.object_to(id, Violation::NotWhole(error));
        }
        if let Some(closure) = self.flights.get(&id).and_then(|of| of.coming.clone()) {
            // From its first verified span on it counts as a holder.
            self.holders.entry(Key::Root(closure.root().clone())).or_default().insert(node);
        }
    }

    fn done(&mut self, id: FlightId, node: usize, outcome: &Outcome) {
        self.note(|swarm| format!("{} is DONE: {}", swarm.name(node), describe(outcome)));
        let Some(of) = self.flights.get_mut(&id) else { return };
        let errand = of.errand;
        let want = self.errands[errand].want;
        let truth = &self.ground.truths[want.tree];
        of.referee.done(self.now, truth, &self.nodes[node].store, outcome);
        let closure = match outcome {
            Outcome::Path(_, closure) | Outcome::Tree(closure) => Some(closure.clone()),
            _ => None,
        };
        if let Some(closure) = &closure {
            self.nodes[node].has_fetched(want.tree, &self.ground, closure, want.by_path);
        }
        self.end_flight(id);
        match closure {
            Some(_) => {
                let now = self.now;
                let errand = &mut self.errands[errand];
                errand.ended = Some(now);
                let stall = Micros(now.0 - errand.tally.progress_at.0);
                errand.tally.stall_most = errand.tally.stall_most.max(stall);
                self.mark(node, MarkKind::Done);
                for key in self.nodes[node].keys(&self.ground) {
                    self.holders.entry(key).or_default().insert(node);
                }
            }
            None => self.at(self.after(self.plan.retry_after), Event::Begins(errand)),
        }
    }
}
