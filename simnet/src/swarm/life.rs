//! Nodes that come and go, and what they begin to fetch.

use std::sync::Arc;

use firn_castore::{Closure, Root};
use firn_exchange::{Fetch, Goal, Input, Key, Known, Micros};
use firn_store::{StoreError, hash_nar, missing_spans};

use super::errand::{Errand, Flight, FlightId};
use super::ground::dice_of;
use super::node::Presence;
use super::plan::{FaultKind, SwarmSabotage};
use super::report::{Mark, MarkKind, SwarmViolation};
use super::run::{Event, Swarm};
use crate::referee::Referee;
use crate::scenario::{Aim, Expectation};
use crate::tree::recall;
use crate::violation::Violation;

/// How many of those who may have something one look-up finds, as the DHT's records bound it.
const FOUND_MAX: usize = 32;

impl Swarm<'_> {
    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Joins(node) => self.joins(node),
            Event::Fault(node, what) => self.fault(node, what),
            Event::Heals(node, what) => self.heals(node, what),
            Event::Begins(errand) => self.begins(errand),
            Event::Due(errand) => self.is_due(errand),
            Event::Found { flight, key, peer } => self.input(flight, Input::Found { key, peer }),
            Event::FindEnded(flight, key) => self.input(flight, Input::FindEnded(key)),
            Event::Arrives(name) => self.arrives(name),
            Event::Watch(name, bytes) => self.watch(name, bytes),
            Event::Replied(name, reply) => self.replied(name, reply),
            Event::Recalled(flight, root) => self.recalled(flight, &root),
            Event::Looked(flight, closure) => {
                let missing = self.store_of(flight).map(|store| missing_spans(&*store, &closure));
                self.hand_in(flight, missing, Input::Missing);
            }
            Event::Hash(flight, signed, closure) => {
                let hashed = self.store_of(flight).map(|store| hash_nar(&*store, *signed, closure));
                self.hand_in(flight, hashed, |result| Input::Hashed(result.map(Box::new)));
            }
        }
    }

    fn input(&mut self, flight: FlightId, input: Input) {
        if let Some(of) = self.flights.get_mut(&flight) {
            of.fetch.handle(self.now, input);
            self.touched.insert(flight);
        }
    }

    fn store_of(&self, flight: FlightId) -> Option<Arc<firn_store::MemoryStore>> {
        let of = self.flights.get(&flight)?;
        Some(self.nodes[self.errands[of.errand].node].store.clone())
    }

    fn hand_in<T>(
        &mut self,
        flight: FlightId,
        found: Option<Result<T, StoreError>>,
        input: impl Fn(T) -> Input,
    ) {
        match found {
            Some(Ok(found)) => self.input(flight, input(found)),
            Some(Err(error)) => self.object_to(flight, Violation::NotWhole(error)),
            None => {}
        }
    }

    /// What is here of a tree's Directories, of an earlier fetch.
    fn recalled(&mut self, flight: FlightId, root: &Root) {
        let Some(store) = self.store_of(flight) else { return };
        let here = match recall(&store, root) {
            Ok(here) => here,
            Err(error) => return self.object_to(flight, Violation::NotWhole(error)),
        };
        if let Some(closure) = &here {
            self.begin_coming(flight, closure);
        }
        self.input(flight, Input::Recalled { closure: here, known: Known::default() });
    }

    /// Something is wrong with a fetch.
    pub(super) fn object_to(&mut self, flight: FlightId, violation: Violation) {
        let node = self.flights.get(&flight).map(|of| self.errands[of.errand].node);
        let node = node.map(|place| self.plan.nodes[place].number).unwrap_or_default();
        self.object(SwarmViolation::OfFetch { node, violation });
    }

    pub(super) fn mark(&mut self, node: usize, kind: MarkKind) {
        let number = self.plan.nodes[node].number;
        self.marks.push(Mark { node: number, at: self.now, kind });
    }

    fn joins(&mut self, node: usize) {
        self.nodes[node].presence = Presence::Here;
        let keys = self.nodes[node].keys(&self.ground);
        self.note(|swarm| format!("{} is here", swarm.name(node)));
        for key in keys {
            self.holders.entry(key).or_default().insert(node);
        }
    }

    fn fault(&mut self, node: usize, what: FaultKind) {
        self.note(|swarm| format!("{}: {what:?}", swarm.name(node)));
        match what {
            FaultKind::Crash(_) => self.mark(node, MarkKind::Crashed),
            FaultKind::Leave => self.mark(node, MarkKind::Left),
            FaultKind::Outage(_) => {
                self.mark(node, MarkKind::CutOff);
                self.nodes[node].presence = Presence::CutOff;
                return self.fluid.cut(self.now, node, true);
            }
        }
        let is_gone = what == FaultKind::Leave;
        self.nodes[node].presence = if is_gone { Presence::Gone } else { Presence::Silent };
        let mine = |swarm: &Self, flight: &Flight| swarm.errands[flight.errand].node == node;
        let own: Vec<FlightId> =
            self.flights.iter().filter(|(_, flight)| mine(self, flight)).map(|(id, _)| *id).collect();
        own.into_iter().for_each(|flight| self.end_flight(flight));
        self.nodes[node].forget(&self.ground);
        let asked: Vec<_> = self
            .flights
            .iter()
            .flat_map(|(flight, of)| of.asks.iter().map(move |(id, asking)| ((*flight, *id), asking.to)))
            .filter(|(_, to)| *to == Some(node))
            .map(|(name, _)| name)
            .collect();
        for name in asked {
            self.breaks(name);
            if is_gone {
                self.at(self.after(Micros::from_millis(20)), Event::Replied(name, None));
            }
        }
    }

    fn heals(&mut self, node: usize, what: FaultKind) {
        self.note(|swarm| format!("{} is back", swarm.name(node)));
        self.mark(node, MarkKind::Back);
        match what {
            FaultKind::Outage(_) => {
                self.fluid.cut(self.now, node, false);
                if self.nodes[node].presence == Presence::CutOff {
                    self.nodes[node].presence = Presence::Here;
                }
            }
            FaultKind::Crash(_) | FaultKind::Leave => {
                self.joins(node);
                let wanted: Vec<usize> =
                    (0..self.errands.len()).filter(|errand| self.errands[*errand].node == node).collect();
                for errand in wanted {
                    if self.errands[errand].begun.is_some() {
                        self.begins(errand);
                    }
                }
            }
        }
    }

    fn begins(&mut self, errand: usize) {
        let of = &mut self.errands[errand];
        if of.ended.is_some() || of.flight.is_some() {
            return;
        }
        // A node that is away begins once it is back.
        of.begun.get_or_insert(self.now);
        let node = of.node;
        if !matches!(self.nodes[node].presence, Presence::Here | Presence::CutOff) {
            return;
        }
        of.tally.fetches += 1;
        of.tally.progress_at = self.now;
        let id = FlightId(self.flights_begun);
        self.flights_begun += 1;
        of.flight = Some(id);
        let truth = &self.ground.truths[of.want.tree];
        let (aim, goal) = match of.want.by_path {
            true => (Aim::Path, Goal::Path(*truth.facts.path.hash())),
            false => (Aim::Tree, Goal::Tree(truth.tree.root().clone())),
        };
        let mut limits = self.plan.limits;
        if self.plan.sabotage == Some(SwarmSabotage::AsksForTooMuch) {
            limits = firn_exchange::Limits {
                in_flight_max: 1000,
                in_flight_peer_max: 1000,
                bytes_in_flight_max: u64::MAX,
                ..limits
            };
        }
        let seed = dice_of(self.plan.seed, self.plan.nodes[node].number, of.tally.fetches << 8).number();
        let referee = Referee::of(aim, Expectation::End, self.plan.limits, self.roles.clone());
        let flight = Flight {
            errand,
            fetch: Fetch::new(goal, self.nodes[node].id, limits, seed),
            referee,
            asks: Default::default(),
            unverified_bytes: 0,
            alarm: None,
            root: None,
            coming: None,
            settled: None,
        };
        self.flights.insert(id, flight);
        self.touched.insert(id);
        self.note(|swarm| format!("{} begins to fetch", swarm.name(node)));
    }

    /// A fetch is over, or its node is gone.
    pub(super) fn end_flight(&mut self, id: FlightId) {
        let asks: Vec<_> =
            self.flights.get(&id).map(|of| of.asks.keys().copied().collect()).unwrap_or_default();
        asks.into_iter().for_each(|ask| self.cancel(id, ask));
        let Some(mut flight) = self.flights.remove(&id) else { return };
        self.take_violations(&mut flight);
        let errand = &mut self.errands[flight.errand];
        errand.flight = None;
        let node = &self.nodes[errand.node];
        if let Some(closure) = flight.coming.take() {
            node.shared.end_coming(&closure);
        }
    }

    pub(super) fn take_violations(&mut self, flight: &mut Flight) {
        let node = self.plan.nodes[self.errands[flight.errand].node].number;
        for violation in flight.referee.violations.drain(..) {
            let line = format!("WRONG: {violation}");
            self.note(|_| line);
            self.violations.push(SwarmViolation::OfFetch { node, violation });
        }
    }

    fn is_due(&mut self, errand: usize) {
        let Errand { node, ended: None, .. } = self.errands[errand] else { return };
        let node = self.plan.nodes[node].number;
        self.errands[errand].due = None;
        self.object(SwarmViolation::NotHere { node, tree: self.errands[errand].want.tree });
    }

    /// A look-up: it finds some of those who are known by then.
    pub(super) fn find(&mut self, flight: FlightId, key: Key) {
        let Some(of) = self.flights.get(&flight) else { return };
        let me = self.errands[of.errand].node;
        if let (Key::Root(root), Some(of)) = (&key, self.flights.get_mut(&flight)) {
            of.root = Some(root.clone());
        }
        let mut holders: Vec<usize> = self.holders.get(&key).into_iter().flatten().copied().collect();
        holders.retain(|holder| *holder != me);
        let takes = self.plan.find_takes.0;
        let mut found = Vec::new();
        while found.len() < FOUND_MAX && !holders.is_empty() {
            let dice = &mut self.nodes[me].dice;
            let holder = holders.swap_remove(dice.between(0..holders.len() as u64) as usize);
            found.push((Micros(self.now.0 + dice.between(0..takes.max(1))), holder));
        }
        self.note(|swarm| format!("{} finds {} nodes", swarm.name(me), found.len()));
        for (at, holder) in found {
            self.at(at, Event::Found { flight, key: key.clone(), peer: self.nodes[holder].id });
        }
        self.at(self.after(self.plan.find_takes), Event::FindEnded(flight, key));
    }

    /// The Directories of a tree are here: others may have what comes.
    pub(super) fn begin_coming(&mut self, id: FlightId, closure: &Arc<Closure>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let node = &self.nodes[self.errands[flight.errand].node];
        node.shared.begin_coming(closure);
        if let Some(other) = flight.coming.replace(closure.clone()) {
            node.shared.end_coming(&other);
        }
    }
}
