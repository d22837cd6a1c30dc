//! One run: the production machine in a made-up world, on a clock of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use firn_castore::{Closure, Root};
use firn_exchange::{
    AskId, Fetch, Goal, Input, Key, Known, Lie, Limits, Micros, Outcome, Output, PeerId, Rejection, Request,
    check,
};
use firn_store::{Blobs, Directories, MemoryStore, StoreError, hash_nar, missing_spans};
use firn_trust::SignedNarInfo;

use crate::dice::Dice;
use crate::referee::{Referee, describe};
use crate::scenario::{Aim, Link, Sabotage, Scenario};
use crate::tree::recall;
use crate::violation::Violation;
use crate::words::{short, what, with_last_byte_changed};
use crate::world::{Answer, Peer, World};

/// A run that is not over by then never ends.
const HORIZON: Micros = Micros::from_millis(3_600_000);
/// The most events of a run; one with more runs in circles.
const EVENTS_MAX: u64 = 300_000;
/// A run in which so much has gone wrong is not worth going on with.
const VIOLATIONS_MAX: usize = 20;
/// How soon an asker learns of a stream that was broken off at once.
const BREAK: Micros = Micros::from_millis(5);

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What made it.
    pub seed: u64,
    /// What must never happen and has happened.
    pub violations: Vec<Violation>,
    /// Who was blamed for what.
    pub blamed: Vec<(PeerId, Lie)>,
    /// Which roots were rejected, who had named them, and why.
    pub rejected: Vec<(Root, Vec<PeerId>, Rejection)>,
    /// How the fetch ended; `None` if it has not.
    pub outcome: Option<Outcome>,
    /// When it ended.
    pub ended_at: Micros,
    /// The peers, in the order of the scenario.
    pub peers: Vec<PeerId>,
    /// How often somebody was asked.
    pub asks: u64,
    /// How many requests were unanswered at once.
    pub in_flight_most: usize,
    /// How many bytes were kept.
    pub kept_bytes: u64,
    /// What happened, if it was wanted.
    pub trace: Vec<String>,
}

/// Runs a scenario to its end. `trace` says whether to write down what happens.
pub fn run(scenario: &Scenario, trace: bool) -> Report {
    let mut run = Run::new(scenario, trace);
    run.go();
    run.report()
}

enum Event {
    Found {
        key: Key,
        peer: PeerId,
    },
    FindEnded(Key),
    /// A request reaches its peer.
    Arrives(AskId),
    /// A reply, or the news that there is none, reaches the consumer.
    Replied(AskId, Option<Result<Bytes, Lie>>),
    Recalled(Root),
    Looked(Arc<Closure>),
    Hash(Box<SignedNarInfo>, Arc<Closure>),
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    links: BTreeMap<PeerId, &'a crate::scenario::PeerPlan>,
    /// When each peer's link has sent all that was given to it.
    link_free_at: BTreeMap<PeerId, Micros>,
    dice: Dice,
    now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    sequence: u64,
    fetch: Fetch,
    asks: BTreeMap<AskId, (PeerId, Request)>,
    store: MemoryStore,
    referee: Referee,
    events: u64,
    report: Report,
    is_tracing: bool,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, is_tracing: bool) -> Self {
        let world = World::make(scenario);
        let mut dice = Dice::new(scenario.seed ^ 0x6576_656e_7473);
        let goal = match scenario.aim {
            Aim::Path => Goal::Path(*world.truth.facts.path.hash()),
            Aim::Tree => Goal::Tree(world.truth.tree.root().clone()),
            Aim::Claims => Goal::Claims(*world.truth.facts.path.hash()),
        };
        let mut limits = scenario.limits;
        if scenario.sabotage == Some(Sabotage::AsksForTooMuch) {
            limits = Limits { in_flight_max: 1000, in_flight_peer_max: 1000, ..limits };
        }
        let report = Report {
            seed: scenario.seed,
            violations: Vec::new(),
            blamed: Vec::new(),
            rejected: Vec::new(),
            outcome: None,
            ended_at: Micros(0),
            peers: world.ids.clone(),
            asks: 0,
            in_flight_most: 0,
            kept_bytes: 0,
            trace: Vec::new(),
        };
        Self {
            scenario,
            links: world.ids.iter().copied().zip(&scenario.peers).collect(),
            link_free_at: BTreeMap::new(),
            now: Micros(0),
            queue: BTreeMap::new(),
            sequence: 0,
            fetch: Fetch::new(goal, PeerId::from([0; 32]), limits, dice.number()),
            asks: BTreeMap::new(),
            store: MemoryStore::new(),
            referee: Referee::new(scenario, &world),
            events: 0,
            report,
            is_tracing,
            dice,
            world,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>12.3} ms  {}", self.now.0 as f64 / 1000.0, what());
            self.report.trace.push(line);
        }
    }

    /// How a peer is called in a trace.
    fn name(&self, peer: &PeerId) -> String {
        let number = self.world.ids.iter().position(|id| id == peer).unwrap_or_default();
        match self.world.peers.get(peer).map(|peer| peer.role) {
            Some(crate::scenario::Role::Liar(kind)) => format!("peer {number} (liar, {kind:?})"),
            Some(role) => format!("peer {number} ({role:?})"),
            None => "nobody".into(),
        }
    }

    fn at(&mut self, when: Micros, event: Event) {
        self.queue.insert((when, self.sequence), event);
        self.sequence += 1;
    }

    fn after(&self, duration: Micros) -> Micros {
        Micros(self.now.0 + duration.0)
    }

    fn go(&mut self) {
        loop {
            while let Some(output) = self.fetch.poll(self.now) {
                if self.carry_out(output) || self.referee.violations.len() > VIOLATIONS_MAX {
                    return;
                }
            }
            let alarm = self.fetch.deadline();
            if let Some(alarm) = alarm.filter(|alarm| *alarm <= self.now) {
                return self.referee.spins(alarm);
            }
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = next.into_iter().chain(alarm).min() else { return self.referee.endless() };
            self.now = next;
            self.events += 1;
            if self.now > HORIZON || self.events > EVENTS_MAX {
                return self.referee.endless();
            }
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let event = entry.remove();
                self.happens(event);
            }
        }
    }

    fn report(mut self) -> Report {
        self.report.violations = self.referee.violations.drain(..).collect();
        self.report.in_flight_most = self.referee.most_in_flight();
        self.report.ended_at = self.now;
        self.report
    }

    fn happens(&mut self, event: Event) {
        let input = match event {
            Event::Found { key, peer } => {
                let name = self.name(&peer);
                self.note(|| format!("finds {name}"));
                Input::Found { key, peer }
            }
            Event::FindEnded(key) => Input::FindEnded(key),
            Event::Arrives(id) => return self.arrives(id),
            Event::Replied(id, reply) => match self.replied(id, reply) {
                Some(input) => input,
                None => return,
            },
            Event::Recalled(root) => match recall(&self.store, &root) {
                Ok(closure) => Input::Recalled { closure, known: Known::default() },
                Err(error) => return self.broken(error),
            },
            Event::Looked(closure) => match missing_spans(&self.store, &closure) {
                Ok(missing) => Input::Missing(missing),
                Err(error) => return self.broken(error),
            },
            Event::Hash(signed, closure) => match hash_nar(&self.store, *signed, closure) {
                Ok(result) => Input::Hashed(result.map(Box::new)),
                Err(error) => return self.broken(error),
            },
        };
        if self.scenario.sabotage == Some(Sabotage::IgnoresAnswers) && matches!(input, Input::Answered { .. })
        {
            return;
        }
        self.fetch.handle(self.now, input);
    }

    /// The consumer's own store fails.
    fn broken(&mut self, error: StoreError) {
        self.referee.violations.push(Violation::NotWhole(error));
    }

    /// Does what the machine wants; true when it is over.
    fn carry_out(&mut self, output: Output) -> bool {
        match output {
            Output::Find(key) => self.find(key),
            Output::Ask { peer, id, request } => self.ask(peer, id, request),
            Output::Cancel(id) => {
                self.referee.settled(id);
                self.asks.remove(&id);
            }
            Output::KeepClosure(closure) => self.keep_closure(&closure),
            Output::Recall { root, .. } => self.at(self.now, Event::Recalled(root)),
            Output::Look(closure) => self.at(self.after(self.scenario.look_takes), Event::Looked(closure)),
            Output::Keep(span) => self.keep(span),
            Output::HashNar(signed, closure) => {
                self.note(|| "hashing the NAR".into());
                self.at(self.after(self.scenario.hash_takes), Event::Hash(Box::new(signed), closure));
            }
            Output::Blame { peer, lie } => {
                let name = self.name(&peer);
                self.note(|| format!("BLAMES {name}: {lie}"));
                self.referee.blamed(peer, &lie);
                self.report.blamed.push((peer, lie));
            }
            Output::Reject { root, claimants, reason } => {
                self.note(|| format!("REJECTS {root}: {reason}"));
                self.referee.rejected(&self.world.truth, &root, &reason);
                self.report.rejected.push((root, claimants, reason));
            }
            Output::Done(outcome) => {
                self.note(|| format!("DONE: {}", describe(&outcome)));
                self.referee.done(self.now, &self.world.truth, &self.store, &outcome);
                self.report.outcome = Some(outcome);
                return true;
            }
        }
        false
    }

    fn find(&mut self, key: Key) {
        self.note(|| format!("looks for {}", short(&key)));
        let mut last = self.now;
        let is_hidden = matches!(key, Key::Root(_)) && !self.scenario.finds_roots;
        for id in self.world.ids.clone() {
            if !is_hidden && self.world.peers[&id].keys.contains(&key) {
                let at = self.after(self.links[&id].found_after);
                last = last.max(at);
                self.at(at, Event::Found { key: key.clone(), peer: id });
            }
        }
        self.at(Micros(last.0 + self.scenario.find_lasts.0), Event::FindEnded(key));
    }

    fn ask(&mut self, peer: PeerId, id: AskId, request: Request) {
        let name = self.name(&peer);
        self.note(|| format!("asks {name} for {}", what(&request)));
        self.report.asks += 1;
        self.referee.asked(id, peer, &request);
        self.asks.insert(id, (peer, request));
        self.travel(peer, id, 0, Event::Arrives(id));
    }

    /// Sends something over a peer's link; what gets lost comes back as a failure, or as nothing.
    fn travel(&mut self, peer: PeerId, id: AskId, bytes: usize, event: Event) {
        let link = &self.links[&peer].link;
        let free_at = self.link_free_at.get(&peer).copied().unwrap_or_default().max(self.now);
        let busy = link.bytes_per_second.map_or(0, |rate| bytes as u64 * 1_000_000 / rate.max(1));
        let sent_at = Micros(free_at.0 + busy);
        self.link_free_at.insert(peer, sent_at);
        let jitter = self.dice.between(0..link.jitter.0 + 1);
        let arrives_at = Micros(sent_at.0 + link.latency.0 + jitter);
        if let Some(lost_at) = self.lost_at(link, arrives_at) {
            let name = self.name(&peer);
            self.note(|| format!("(lost on the way to or from {name})"));
            if !link.is_silent {
                self.at(lost_at, Event::Replied(id, None));
            }
            return;
        }
        self.at(arrives_at, event);
    }

    /// When it becomes plain that what is sent now does not arrive.
    fn lost_at(&mut self, link: &Link, arrives_at: Micros) -> Option<Micros> {
        let outage = link.outages.iter().find(|(from, until)| *from <= arrives_at && self.now < *until);
        if let Some((from, _)) = outage {
            return Some(Micros(from.0.max(self.now.0) + BREAK.0));
        }
        let is_lost = self.now < link.heals_at && self.dice.percent(link.loss_percent);
        is_lost.then_some(arrives_at)
    }

    fn arrives(&mut self, id: AskId) {
        let Some((peer, request)) = self.asks.get(&id).cloned() else { return };
        let plan = self.links[&peer];
        let is_busy = self.now < plan.link.heals_at && self.dice.percent(plan.busy_percent);
        let answer = match is_busy {
            true => Peer::busy(),
            false => self.world.peers[&peer].answer(request.encode(false), request.reply_bytes_max()),
        };
        match answer {
            Answer::Reply(mut bytes) => {
                if self.scenario.sabotage == Some(Sabotage::CorruptsLinks) {
                    bytes = with_last_byte_changed(&bytes);
                }
                self.travel(peer, id, bytes.len(), Event::Replied(id, Some(Ok(bytes))));
            }
            Answer::TooMuch => {
                let bytes = request.reply_bytes_max();
                self.travel(peer, id, bytes, Event::Replied(id, Some(Err(Lie::TooMuch))));
            }
            Answer::BrokenOff(bytes) => self.travel(peer, id, bytes, Event::Replied(id, None)),
            Answer::Dribbles(bytes) => {
                let at = Micros(self.now.0 + bytes.len() as u64 * 1_000_000);
                self.at(at, Event::Replied(id, Some(Ok(bytes))));
            }
            Answer::Stalled(_) => {}
        }
    }

    fn replied(&mut self, id: AskId, reply: Option<Result<Bytes, Lie>>) -> Option<Input> {
        let (peer, request) = self.asks.remove(&id)?;
        self.referee.settled(id);
        let name = self.name(&peer);
        let Some(reply) = reply else {
            self.note(|| format!("{name} gives no answer to {}", what(&request)));
            return Some(Input::Failed(id));
        };
        let length = reply.as_ref().map_or(0, Bytes::len);
        let result = reply.and_then(|bytes| check(&request, bytes, &self.world.policy));
        self.note(|| {
            let kind = match &result {
                Ok(verified) => format!("{verified:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
                Err(lie) => format!("a lie: {lie}"),
            };
            format!("{name} answers {} with {length} bytes: {kind}", what(&request))
        });
        Some(Input::Answered { id, result })
    }

    fn keep_closure(&mut self, closure: &Closure) {
        self.note(|| format!("keeps {} Directories", closure.directories().count()));
        self.referee.kept_closure(closure);
        let directories: Vec<_> = closure.directories().cloned().collect();
        if let Err(error) = self.store.keep_directories(&directories) {
            self.broken(error);
        }
    }

    fn keep(&mut self, span: firn_bao::VerifiedSpan) {
        self.report.kept_bytes += span.bytes().len() as u64;
        let mut bytes = span.bytes().clone();
        match self.scenario.sabotage {
            Some(Sabotage::KeepsOtherBytes) => bytes = with_last_byte_changed(&bytes),
            Some(Sabotage::ForgetsBlobs) if span.blob().size > 0 => return,
            _ => {}
        }
        self.referee.kept(&self.world.truth, span.blob(), span.span(), &bytes);
        if let Err(error) = self.store.keep_spans(std::slice::from_ref(&span)) {
            self.broken(error);
        }
    }
}
