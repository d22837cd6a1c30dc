//! What comes of what was asked.

use firn_trust::Admitted;

use super::tree::Task;
use super::{Fetch, InFlight, Micros, Output};
use crate::check::{Lie, Verified};
use crate::{Key, PeerId};

impl Fetch {
    pub(super) fn answered(&mut self, now: Micros, ask: InFlight, result: Result<Verified, Lie>) {
        let verified = match result {
            Ok(verified) => verified,
            Err(lie) => return self.blame(now, &ask, lie),
        };
        match verified {
            Verified::Busy { .. } if self.peers.is_busy_for_long(&ask.peer, now) => self.failed(now, ask),
            Verified::Busy { after } => {
                self.peers.rest(&ask.peer, after, now);
                self.give_back(now, &ask);
            }
            Verified::Refused => self.failed(now, ask),
            verified => {
                let bytes = verified.contents_bytes();
                if bytes == 0 && !matches!(verified, Verified::Have { .. }) {
                    self.look_at_all();
                }
                self.peers.succeeded(&ask.peer, ask.mark, bytes, now);
                self.succeeded(now, ask, verified);
            }
        }
    }

    fn succeeded(&mut self, now: Micros, ask: InFlight, verified: Verified) {
        match verified {
            Verified::Claims(claims) => {
                claims.into_iter().for_each(|claim| self.claimed(now, ask.peer, claim));
            }
            Verified::Untrusted => self.heard_untrusted = true,
            Verified::Missing if matches!(ask.task, Task::Claims) => {}
            verified => self.answered_of_tree(now, ask, verified),
        }
    }

    /// Whoever says that a path has this root can be asked for its tree, at whatever time the claim comes.
    fn claimed(&mut self, now: Micros, peer: PeerId, claim: Admitted) {
        let root = claim.facts().root.clone();
        self.peers.found(peer, Key::Root(root.clone()));
        match &mut self.tree {
            Some(tree) if *tree.root() == root => tree.claimed_by(now, peer, claim),
            _ => self.candidates.add(now, peer, claim),
        }
    }

    fn answered_of_tree(&mut self, now: Micros, ask: InFlight, verified: Verified) {
        let Some(tree) = &mut self.tree else { return };
        match tree.take(now, ask.peer, &ask.task, verified) {
            Ok(taken) => {
                if taken.is_busy {
                    self.peers.rest(&ask.peer, None, now);
                }
                if let Some(question) = taken.follow_up {
                    self.ask(now, ask.peer, question);
                }
                if let Some(closure) = taken.closure {
                    self.outputs.push_back(Output::KeepClosure(closure.clone()));
                    self.outputs.push_back(Output::Look(closure));
                    self.cancel(|other| matches!(other.task, Task::Closure));
                }
                if let Some(done) = taken.done {
                    self.cancel(|other| other.task.piece() == Some(done));
                }
                self.outputs.extend(taken.spans.into_iter().map(Output::Keep));
            }
            Err(rejection) => self.reject(rejection),
        }
    }

    pub(super) fn failed(&mut self, now: Micros, ask: InFlight) {
        self.peers.failed(&ask.peer, ask.since, now);
        self.give_back(now, &ask);
    }

    fn blame(&mut self, now: Micros, ask: &InFlight, lie: Lie) {
        let peer = ask.peer;
        self.give_back(now, ask);
        for other in self.cancel(|other| other.peer == peer) {
            self.give_back(now, &other);
        }
        self.peers.drop_liar(&peer);
        self.outputs.push_back(Output::Blame { peer, lie });
    }

    /// What was asked must be asked again.
    fn give_back(&mut self, now: Micros, ask: &InFlight) {
        self.look_at_all();
        match (&mut self.tree, &ask.task) {
            (_, Task::Claims) => self.candidates.ask_again(ask.peer),
            (Some(tree), task) => tree.give_back(ask.peer, task, now),
            (None, _) => {}
        }
    }
}
