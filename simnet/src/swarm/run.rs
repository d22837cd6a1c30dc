//! One run: nodes that fetch from each other with the production machine, on a clock of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use firn_castore::{Closure, Root};
use firn_exchange::{Input, Key, Lie, Micros, PeerId};
use firn_trust::SignedNarInfo;

use super::bound::{calm_for, due, fluid_bound};
use super::errand::{AskName, Errand, Flight, FlightId, Tally};
use super::fluid::Fluid;
use super::ground::Ground;
use super::node::Node;
use super::plan::{FaultKind, Nature, SwarmPlan};
use super::report::{Curve, FetchReport, Mark, NodeReport, SwarmReport, SwarmViolation};
use crate::scenario::Role;

/// A run that is not over by then never ends.
const HORIZON: Micros = Micros::from_millis(24 * 3_600_000);
/// The most events of a run; one with more runs in circles.
const EVENTS_MAX: u64 = 20_000_000;
/// A run in which so much has gone wrong is not worth going on with.
const VIOLATIONS_MAX: usize = 20;

/// What happens at its time.
pub(super) enum Event {
    Joins(usize),
    Fault(usize, FaultKind),
    /// The node is back, or heard again.
    Heals(usize, FaultKind),
    Begins(usize),
    /// It must be here now.
    Due(usize),
    Found {
        flight: FlightId,
        key: Key,
        peer: PeerId,
    },
    FindEnded(FlightId, Key),
    /// A request reaches its node.
    Arrives(AskName),
    /// Does anything come? So many bytes had the last time.
    Watch(AskName, u64),
    /// A reply, or the news that there is none, reaches the asker.
    Replied(AskName, Option<Result<Bytes, Lie>>),
    Recalled(FlightId, Root),
    Looked(FlightId, Arc<Closure>),
    Hash(FlightId, Box<SignedNarInfo>, Arc<Closure>),
}

/// A run under way.
pub(super) struct Swarm<'a> {
    pub(super) plan: &'a SwarmPlan,
    pub(super) ground: Ground,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) places: BTreeMap<PeerId, usize>,
    pub(super) roles: Arc<BTreeMap<PeerId, Role>>,
    /// Who can be found for what.
    pub(super) holders: BTreeMap<Key, BTreeSet<usize>>,
    pub(super) errands: Vec<Errand>,
    pub(super) flights: BTreeMap<FlightId, Flight>,
    pub(super) flights_begun: u32,
    pub(super) fluid: Fluid<AskName>,
    /// How what is on its way ends.
    pub(super) endings: BTreeMap<AskName, Option<Result<Bytes, Lie>>>,
    pub(super) now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    sequence: u64,
    alarms: BTreeSet<(Micros, FlightId)>,
    /// Flights to which something has happened.
    pub(super) touched: BTreeSet<FlightId>,
    pub(super) violations: Vec<SwarmViolation>,
    pub(super) blamed: u64,
    pub(super) rejected: u64,
    pub(super) marks: Vec<Mark>,
    pub(super) curves: Vec<Curve>,
    events: u64,
    trace: Option<Vec<String>>,
}

/// Runs a plan to its end. `trace` says whether to write down what happens.
pub fn run_swarm(plan: &SwarmPlan, trace: bool) -> SwarmReport {
    let mut swarm = Swarm::new(plan, trace);
    swarm.go();
    swarm.report()
}

impl<'a> Swarm<'a> {
    fn new(plan: &'a SwarmPlan, trace: bool) -> Self {
        let ground = Ground::make(plan);
        let nodes: Vec<Node> = plan.nodes.iter().map(|node| Node::new(plan.seed, node, &ground)).collect();
        let role = |node: &Node| match node.plan.nature {
            Nature::Honest => Role::Holder,
            Nature::Ignorant => Role::Ignorant,
            Nature::Liar(kind, _) => Role::Liar(kind),
        };
        let wants = plan.nodes.iter().enumerate();
        let wants = wants.flat_map(|(node, plan)| plan.wants.iter().map(move |want| (node, *want)));
        let errands: Vec<Errand> = wants
            .map(|(node, want)| Errand {
                node,
                want,
                due: due(plan, &ground, node, want),
                begun: None,
                ended: None,
                flight: None,
                tally: Tally::default(),
            })
            .collect();
        let mut swarm = Self {
            plan,
            places: nodes.iter().enumerate().map(|(place, node)| (node.id, place)).collect(),
            roles: Arc::new(nodes.iter().map(|node| (node.id, role(node))).collect()),
            holders: BTreeMap::new(),
            flights: BTreeMap::new(),
            flights_begun: 0,
            fluid: Fluid::new(nodes.iter().map(|node| (node.plan.up, node.plan.down))),
            endings: BTreeMap::new(),
            now: Micros(0),
            queue: BTreeMap::new(),
            sequence: 0,
            alarms: BTreeSet::new(),
            touched: BTreeSet::new(),
            violations: Vec::new(),
            blamed: 0,
            rejected: 0,
            marks: Vec::new(),
            curves: nodes.iter().map(|_| Curve::default()).collect(),
            events: 0,
            trace: trace.then(Vec::new),
            ground,
            nodes,
            errands,
        };
        swarm.schedule();
        swarm
    }

    fn schedule(&mut self) {
        for (place, node) in self.plan.nodes.iter().enumerate() {
            self.at(node.joins_at, Event::Joins(place));
        }
        for fault in &self.plan.faults {
            let place = self.plan.nodes.iter().position(|node| node.number == fault.node);
            if let Some(place) = place {
                self.at(fault.at, Event::Fault(place, fault.what));
                if let Some(heals_at) = fault.heals_at() {
                    self.at(heals_at, Event::Heals(place, fault.what));
                }
            }
        }
        for errand in 0..self.errands.len() {
            let Errand { node, want, due, .. } = &self.errands[errand];
            let (at, due) = (want.at.max(self.nodes[*node].plan.joins_at), *due);
            self.at(at, Event::Begins(errand));
            if let Some(due) = due {
                self.at(due, Event::Due(errand));
            }
        }
    }

    pub(super) fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>12.3} ms  {}", self.now.0 as f64 / 1000.0, what(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }

    /// How a node is called in a trace.
    pub(super) fn name(&self, place: usize) -> String {
        let node = &self.plan.nodes[place];
        match node.nature {
            Nature::Honest => format!("node {}", node.number),
            Nature::Ignorant => format!("node {} (ignorant)", node.number),
            Nature::Liar(kind, _) => format!("node {} (liar, {kind:?})", node.number),
        }
    }

    pub(super) fn at(&mut self, when: Micros, event: Event) {
        self.queue.insert((when, self.sequence), event);
        self.sequence += 1;
    }

    pub(super) fn after(&self, by: Micros) -> Micros {
        super::plan::later(self.now, by)
    }

    pub(super) fn object(&mut self, violation: SwarmViolation) {
        self.note(|_| format!("WRONG: {violation}"));
        self.violations.push(violation);
    }

    fn go(&mut self) {
        loop {
            self.poll();
            if self.is_over() || self.violations.len() > VIOLATIONS_MAX {
                return;
            }
            let first = self.queue.first_key_value().map(|((at, _), _)| *at);
            let alarm = self.alarms.first().map(|(at, _)| *at);
            let next = [first, alarm, self.fluid.next_end()].into_iter().flatten().min();
            let Some(next) = next else { return };
            self.now = next;
            self.events += 1;
            if self.now > HORIZON || self.events > EVENTS_MAX {
                return self.object(SwarmViolation::Endless);
            }
            self.take_events();
        }
    }

    fn take_events(&mut self) {
        for (name, bytes) in self.fluid.take_ended(self.now) {
            self.has_sent(name, bytes);
        }
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            self.happens(event);
        }
        while let Some(&(at, flight)) = self.alarms.first()
            && at <= self.now
        {
            self.alarms.pop_first();
            if let Some(flight) = self.flights.get_mut(&flight) {
                flight.alarm = None;
            }
            self.touched.insert(flight);
        }
    }

    /// Tells the machine how much of each reply has come since it was told last.
    fn tell_received(&mut self, flight: FlightId) {
        let Some(Flight { asks, fetch, .. }) = self.flights.get_mut(&flight) else { return };
        for (id, asking) in asks.iter_mut().filter(|(_, asking)| asking.flows) {
            let sent = self.fluid.sent(self.now, &(flight, *id));
            let bytes = sent.or(asking.sent_bytes).unwrap_or_default();
            if bytes > asking.told_bytes {
                asking.told_bytes = bytes;
                fetch.handle(self.now, Input::Received { id: *id, bytes });
            }
        }
    }

    fn poll(&mut self) {
        while let Some(id) = self.touched.pop_first() {
            self.tell_received(id);
            while let Some(output) = self.flights.get_mut(&id).and_then(|flight| flight.fetch.poll(self.now))
            {
                self.carry_out(id, output);
            }
            let Some(flight) = self.flights.get_mut(&id) else { continue };
            let alarm = flight.fetch.deadline();
            if let Some(old) = std::mem::replace(&mut flight.alarm, alarm) {
                self.alarms.remove(&(old, id));
            }
            match alarm {
                Some(at) if at <= self.now => {
                    self.end_flight(id);
                    self.object(SwarmViolation::Spins(at));
                }
                Some(at) => {
                    self.alarms.insert((at, id));
                }
                None => {}
            }
        }
    }

    /// Whether all that must come has come.
    fn is_over(&self) -> bool {
        let is_open = |errand: &Errand| errand.ended.is_none() && errand.due.is_some();
        let is_hopeless = self.errands.iter().all(|errand| errand.due.is_none());
        match is_hopeless {
            true => self.now.0 > self.plan.calm_from().0 + 60_000_000,
            false => !self.errands.iter().any(is_open),
        }
    }

    fn report(mut self) -> SwarmReport {
        let fetches: Vec<FetchReport> = self
            .errands
            .iter()
            .map(|errand| FetchReport {
                node: self.plan.nodes[errand.node].number,
                tree: errand.want.tree,
                tree_bytes: self.ground.bytes(errand.want.tree),
                is_expected: errand.due.is_some(),
                calm_from: calm_for(self.plan, &self.plan.nodes[errand.node], errand.want),
                begun: errand.begun,
                ended: errand.ended,
                bound: fluid_bound(self.plan, &self.ground, errand.node, errand.want),
                tally: errand.tally.clone(),
            })
            .collect();
        super::bound::judge(self.plan, &fetches, &mut self.violations);
        let nodes = self.nodes.iter().map(|node| NodeReport {
            number: node.plan.number,
            sent_bytes: node.sent_bytes,
            received_bytes: node.received_bytes,
        });
        SwarmReport {
            seed: self.plan.seed,
            violations: self.violations,
            fetches,
            nodes: nodes.collect(),
            ended_at: self.now,
            events: self.events,
            blamed: self.blamed,
            rejected: self.rejected,
            marks: self.marks,
            curves: self.curves,
            trace: self.trace.unwrap_or_default(),
        }
    }
}
