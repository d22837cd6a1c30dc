//! A node that lies: a real one, whose answers the simulation's [`Liar`] gives. For the demo and the end-to-end tests;
//! no setting of `firn node` reaches it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use firn_engine::Engine;
use firn_net::{Answerer, BrokenOff, Peer, ReplyBody};
use firn_simnet::liar::{Liar, LiarReply, LieKind, Next};

use crate::node::Behaviour;

/// How long one that stalls keeps its peer waiting; longer than any asker waits.
const STALL: Duration = Duration::from_secs(5);

/// Lies in this way about whatever the node has.
pub fn behaviour(kind: LieKind) -> Behaviour {
    Behaviour::Other(Box::new(move |engine| Arc::new(LyingAnswerer { kind, engine, liar: OnceLock::new() })))
}

struct LyingAnswerer {
    kind: LieKind,
    engine: Arc<OnceLock<Engine>>,
    liar: OnceLock<Liar>,
}

impl Answerer for LyingAnswerer {
    fn answer(&self, _from: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        let reply = self.engine.get().map(|engine| {
            let liar = self.liar.get_or_init(|| Liar::new(self.kind, engine.shared_view(), 1));
            liar.answer(request)
        });
        Box::new(Lies(reply))
    }
}

struct Lies(Option<LiarReply>);

impl ReplyBody for Lies {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        loop {
            match self.0.as_mut().map(LiarReply::pull) {
                Some(Next::Piece(bytes)) => return Ok(Some(bytes)),
                Some(Next::Pause) => std::thread::sleep(Duration::from_secs(1)),
                Some(Next::End) => return Ok(None),
                Some(Next::Stall) => {
                    std::thread::sleep(STALL);
                    return Err(BrokenOff);
                }
                Some(Next::BreakOff) | None => return Err(BrokenOff),
            }
        }
    }
}
