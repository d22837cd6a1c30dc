//! Requests on their way to a node, and replies on their way back.

use bytes::Bytes;
use firn_castore::Root;
use firn_exchange::{AskId, Input, Key, Lie, Micros, PeerId, Request, check, fellows};

use super::errand::{AskName, Asking, Flight, FlightId, wanted_bytes};
use super::node::Presence;
use super::plan::SwarmSabotage;
use super::run::{Event, Swarm};
use crate::words::{what, with_last_byte_changed};
use crate::world::Answer;

/// How long a dial takes to fail, as in `firn-net`.
const DIAL_TIMEOUT: Micros = Micros::from_millis(3_000);
/// A stream on which nothing comes for so long is given up, as in `firn-net`.
const PROGRESS_TIMEOUT: Micros = Micros::from_millis(2_500);
/// No link is faster, in bytes a second.
const RATE_MAX: u64 = 1 << 40;
/// A request and its stream take so many bytes.
const OVERHEAD_BYTES: u64 = 64;
/// What is no longer than a packet takes no time but that of the way: among flows that share a link fairly it is through at
/// once.
const PACKET_BYTES: u64 = 1_400;

impl Swarm<'_> {
    pub(super) fn ask(&mut self, flight: FlightId, peer: PeerId, id: AskId, request: Request) {
        let now = self.now;
        let to = self.places.get(&peer).copied();
        let Some(of) = self.flights.get_mut(&flight) else { return };
        let errand = of.errand;
        of.referee.asked(id, peer, &request);
        of.unverified_bytes += wanted_bytes(&request);
        let (unverified_bytes, most) = (of.unverified_bytes, of.referee.most_in_flight());
        let asking = Asking {
            to,
            request,
            asked_at: now,
            flows: false,
            sent_bytes: None,
            is_ending: false,
            told_bytes: 0,
        };
        of.asks.insert(id, asking);
        let tally = &mut self.errands[errand].tally;
        tally.asks += 1;
        tally.unverified_bytes_most = tally.unverified_bytes_most.max(unverified_bytes);
        tally.in_flight_most = tally.in_flight_most.max(most);
        let from = self.errands[errand].node;
        self.note(|swarm| {
            let of = &swarm.flights[&flight].asks[&id];
            let whom = to.map_or_else(|| "nobody".into(), |to| swarm.name(to));
            format!("{} asks {whom} for {}", swarm.name(from), what(&of.request))
        });
        if self.plan.drivers_give_up {
            self.at(self.after(PROGRESS_TIMEOUT), Event::Watch((flight, id), 0));
        }
        match to {
            Some(to) => {
                let arrives_at = self.travel(from, to);
                self.at(arrives_at, Event::Arrives((flight, id)));
            }
            None => self.at(self.after(DIAL_TIMEOUT), Event::Replied((flight, id), None)),
        }
    }

    /// When what is sent now arrives.
    fn travel(&mut self, from: usize, to: usize) -> Micros {
        let mut way = 0;
        for end in [from, to] {
            let node = &mut self.nodes[end];
            way += node.plan.latency.0 + node.dice.between(0..node.plan.jitter.0 + 1);
        }
        self.after(Micros(way))
    }

    pub(super) fn arrives(&mut self, name: AskName) {
        let (flight, id) = name;
        let Some(of) = self.flights.get(&flight) else { return };
        let (Some(asking), from) = (of.asks.get(&id), self.errands[of.errand].node) else { return };
        let Some(to) = asking.to else { return };
        let (request, asked_at) = (asking.request.clone(), asking.asked_at);
        match self.nodes[to].presence {
            Presence::Here => {}
            Presence::Silent => {
                let fails_at = super::plan::later(asked_at, DIAL_TIMEOUT);
                return self.at(fails_at.max(self.now), Event::Replied(name, None));
            }
            Presence::Gone => {
                let back_at = self.travel(to, from);
                return self.at(back_at, Event::Replied(name, None));
            }
            // It is sent again and again until it gets through.
            Presence::CutOff => return self.at(self.after(Micros::from_millis(200)), Event::Arrives(name)),
        }
        let may_be_busy = self.now < self.plan.heals_at;
        let asker = self.nodes[from].id;
        let bytes_max = request.reply_bytes_max();
        let encoded = request.encode(self.plan.compresses);
        let node = &mut self.nodes[to];
        let is_honest = node.plan.is_honest();
        let about = root_of(&request).cloned();
        let answer = node.answer(asker, encoded, bytes_max, may_be_busy);
        let breaks = may_be_busy && node.dice.percent(node.plan.loss_percent);
        let broken_at = node.dice.between(0..1001);
        if let Some(root) = about {
            self.find_asker(to, asker, &root);
        }
        self.sends(name, (to, from), answer, (bytes_max, is_honest, breaks.then_some(broken_at)));
    }

    /// Whoever asks for a tree that this node is fetching will have a part of it.
    fn find_asker(&mut self, node: usize, asker: PeerId, root: &Root) {
        let fetches = |of: &Flight| self.errands[of.errand].node == node && of.root.as_ref() == Some(root);
        let fetching = self.flights.iter().filter(|(_, of)| fetches(of)).map(|(id, _)| *id);
        for flight in fetching.collect::<Vec<_>>() {
            self.at(self.now, Event::Found { flight, key: Key::Root(root.clone()), peer: asker });
        }
    }

    fn sends(
        &mut self,
        name: AskName,
        ends: (usize, usize),
        answer: Answer,
        (bytes_max, is_honest, broken_at): (usize, bool, Option<u64>),
    ) {
        let mut cap = RATE_MAX;
        let (mut bytes, mut ending) = match answer {
            Answer::Reply(mut reply) => {
                if is_honest && self.plan.sabotage == Some(SwarmSabotage::CorruptsLinks) {
                    reply = with_last_byte_changed(&reply);
                }
                (reply.len(), Some(Some(Ok(reply))))
            }
            Answer::TooMuch => (bytes_max, Some(Some(Err(Lie::TooMuch)))),
            Answer::BrokenOff(bytes) => (bytes, Some(None)),
            Answer::Stalled(bytes) => (bytes, None),
            Answer::Dribbles(reply) => {
                cap = 1;
                (reply.len(), Some(Some(Ok(reply))))
            }
        };
        if let Some(per_mille) = broken_at {
            bytes = (bytes as u64 * per_mille / 1000) as usize;
            ending = Some(None);
        }
        if let Some(asking) = self.asking(name) {
            asking.flows = true;
        }
        // What stalls has no ending: it is under way until it is cancelled.
        let stalls = ending.is_none();
        if let Some(ending) = ending {
            self.endings.insert(name, ending);
        }
        let dawdles = self.plan.sabotage == Some(SwarmSabotage::Dawdles);
        let overhead = if stalls { 0 } else { OVERHEAD_BYTES };
        let bytes = bytes as u64 + overhead + if dawdles { bytes as u64 } else { 0 };
        if !stalls && cap == RATE_MAX && bytes <= PACKET_BYTES {
            return self.has_sent(name, bytes);
        }
        self.fluid.begin(self.now, name, ends, bytes, cap);
    }

    fn asking(&mut self, (flight, id): AskName) -> Option<&mut Asking> {
        self.flights.get_mut(&flight)?.asks.get_mut(&id)
    }

    /// The last byte of a reply is on its way.
    pub(super) fn has_sent(&mut self, name: AskName, bytes: u64) {
        let Some(asking) = self.asking(name) else { return };
        asking.sent_bytes = Some(bytes);
        let Some(to) = asking.to else { return };
        self.count_traffic(name, to, bytes);
        if let Some(ending) = self.endings.remove(&name) {
            if let Some(asking) = self.asking(name) {
                asking.is_ending = true;
            }
            let Some(of) = self.flights.get(&name.0) else { return };
            let asker = self.errands[of.errand].node;
            let mut arrives_at = self.travel(to, asker);
            if self.plan.sabotage == Some(SwarmSabotage::Dawdles) {
                arrives_at.0 += 60_000_000;
            }
            if ending.is_none()
                && let Some(of) = self.flights.get(&name.0)
            {
                let errand = of.errand;
                self.errands[errand].tally.unfinished_bytes += bytes;
            }
            self.at(arrives_at, Event::Replied(name, ending));
        }
    }

    fn count_traffic(&mut self, name: AskName, from: usize, bytes: u64) {
        let Some(of) = self.flights.get(&name.0) else { return };
        let errand = of.errand;
        self.nodes[from].sent_bytes += bytes;
        let to = self.errands[errand].node;
        self.nodes[to].received_bytes += bytes;
        self.errands[errand].tally.received_bytes += bytes;
    }

    /// Gives up a stream on which nothing has come since the last time.
    pub(super) fn watch(&mut self, name: AskName, before: u64) {
        let sent = self.fluid.sent(self.now, &name);
        let Some(asking) = self.asking(name) else { return };
        if asking.is_ending {
            return;
        }
        let bytes = sent.or(asking.sent_bytes).unwrap_or_default();
        if bytes > before {
            return self.at(self.after(PROGRESS_TIMEOUT), Event::Watch(name, bytes));
        }
        asking.is_ending = true;
        self.breaks(name);
        self.at(self.now, Event::Replied(name, None));
    }

    /// What is under way for this request comes no further. The request itself stays open.
    pub(super) fn breaks(&mut self, name: AskName) {
        if let Some(bytes) = self.fluid.stop(self.now, &name) {
            let to = self.asking(name).and_then(|asking| asking.to);
            if let Some(to) = to {
                self.count_traffic(name, to, bytes);
            }
            if let Some(of) = self.flights.get(&name.0) {
                let errand = of.errand;
                self.errands[errand].tally.unfinished_bytes += bytes;
            }
        }
        self.endings.remove(&name);
    }

    /// The machine wants no answer any more.
    pub(super) fn cancel(&mut self, flight: FlightId, id: AskId) {
        self.breaks((flight, id));
        self.settle(flight, id);
    }

    fn settle(&mut self, flight: FlightId, id: AskId) -> Option<Asking> {
        let of = self.flights.get_mut(&flight)?;
        of.referee.settled(id);
        let asking = of.asks.remove(&id)?;
        of.unverified_bytes -= wanted_bytes(&asking.request);
        Some(asking)
    }

    pub(super) fn replied(&mut self, name: AskName, reply: Option<Result<Bytes, Lie>>) {
        let (flight, id) = name;
        let Some(of) = self.flights.get(&flight) else { return };
        if self.nodes[self.errands[of.errand].node].presence != Presence::Here {
            // The asker is cut off: it hears of it when it is heard again.
            return self.at(self.after(Micros::from_millis(200)), Event::Replied(name, reply));
        }
        let Some(asking) = self.settle(flight, id) else { return };
        let inputs = self.inputs(flight, id, &asking, reply);
        if self.plan.sabotage == Some(SwarmSabotage::IgnoresAnswers)
            && inputs.iter().any(|input| matches!(input, Input::Answered { .. }))
        {
            return;
        }
        let now = self.now;
        if let Some(of) = self.flights.get_mut(&flight) {
            inputs.into_iter().for_each(|input| of.fetch.handle(now, input));
            of.settled = Some(id);
        }
        self.touched.insert(flight);
    }

    fn inputs(
        &mut self,
        flight: FlightId,
        id: AskId,
        asking: &Asking,
        reply: Option<Result<Bytes, Lie>>,
    ) -> Vec<Input> {
        let request = &asking.request;
        let whom = asking.to.map_or_else(|| "nobody".into(), |to| self.name(to));
        let me = self.flights.get(&flight).map(|of| self.errands[of.errand].node).unwrap_or_default();
        let Some(reply) = reply else {
            self.note(|swarm| format!("{} gets nothing of {whom} for {}", swarm.name(me), what(request)));
            return vec![Input::Failed(id)];
        };
        let mut inputs = Vec::new();
        let root = self.flights.get(&flight).and_then(|of| of.root.clone());
        if let (Ok(bytes), Some(root)) = (&reply, root) {
            let found = |peer| Input::Found { key: Key::Root(root.clone()), peer };
            inputs.extend(fellows(bytes).into_iter().map(|fellow| found(fellow.peer)));
        }
        let length = reply.as_ref().map_or(0, Bytes::len);
        let check =
            |reply: Result<Bytes, Lie>| reply.and_then(|bytes| check(request, bytes, &self.ground.policy));
        let quirks = self.plan.quirks;
        if quirks.answers_nothing
            && let Some(old) = self.flights.get(&flight).and_then(|of| of.settled)
        {
            inputs.push(Input::Answered { id: old, result: check(reply.clone()) });
            inputs.push(Input::Failed(old));
        }
        if quirks.repeats_answers {
            inputs.push(Input::Answered { id, result: check(reply.clone()) });
        }
        let result = check(reply);
        self.note(|swarm| {
            let kind = match &result {
                Ok(verified) => format!("{verified:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
                Err(lie) => format!("a lie: {lie}"),
            };
            format!("{} has {length} bytes of {whom}: {kind}", swarm.name(me))
        });
        inputs.push(Input::Answered { id, result });
        inputs
    }
}

fn root_of(request: &Request) -> Option<&Root> {
    match request {
        Request::Closure { root, .. } => Some(root),
        Request::Have { root, .. } => root.as_ref(),
        Request::Path(_) | Request::Batch(_) | Request::Ranges { .. } => None,
    }
}
