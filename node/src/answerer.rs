//! What peers may see, by this node's role, and what each of them was given.

mod fellows;
mod served;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use firn_engine::Engine;
use firn_exchange::{Compress, Fellow, Key, PeerId, Reply, SharedView, answer};
use firn_net::{Answerer, BrokenOff, Peer, ReplyBody, SharedCodec};
use firn_nix::STORE_DIR;

use self::fellows::Fellows;
pub use self::served::{Given, Served};
use crate::config::Role;

/// Answers peers out of the engine's shared view, as far as the role lets it.
pub struct RoleAnswerer {
    role: Role,
    /// Set as soon as the engine is there; who asks before that is told that nothing is.
    engine: Arc<OnceLock<Engine>>,
    served: Arc<Served>,
    codec: SharedCodec,
    fellows: Mutex<Fellows>,
}

impl RoleAnswerer {
    /// Answers by this role, and writes down in `served` what was given.
    pub fn new(role: Role, compress: Compress, engine: Arc<OnceLock<Engine>>, served: Arc<Served>) -> Self {
        let (codec, fellows) = (SharedCodec::new(compress), Mutex::default());
        Self { role, engine, served, codec, fellows }
    }

    fn gives_to(&self, peer: Peer) -> bool {
        match self.role {
            Role::Client => false,
            Role::Lan => peer.is_private(),
            Role::Seed => true,
        }
    }

    /// Others that have asked for the same tree go with the reply, and this one with later ones; a fetch of it that is
    /// under way here hears of it at once.
    fn with_fellows(&self, engine: &Engine, reply: Reply, from: Peer) -> Reply {
        let (Some(Key::Root(root)), true) = (reply.about(), reply.has_something()) else { return reply };
        let root = root.clone();
        if let Some(address) = from.address {
            engine.asked_for(&root, || Fellow { peer: from.id, addresses: vec![address] });
        }
        let mut fellows = self.fellows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let others = fellows.others(&root, from, now);
        fellows.asked(root, from, now);
        if others.is_empty() { reply } else { reply.hinting(&others) }
    }
}

impl Answerer for RoleAnswerer {
    fn answer(&self, from: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        let Some(engine) = self.engine.get() else { return Box::new(Nothing) };
        let gives = self.gives_to(from);
        let view = match gives {
            true => engine.shared_view(),
            false => SharedView::new(engine.store().clone(), Arc::default()),
        };
        let reply = answer(&view, request);
        let subject = reply.about().map(|about| subject(engine, about));
        if reply.has_something() {
            self.served.answered(from.id, subject);
        }
        let reply = if gives { self.with_fellows(engine, reply, from) } else { reply };
        let reply = self.codec.squeezed(reply, from);
        Box::new(CountedReply {
            reply,
            peer: from.id,
            served: self.served.clone(),
            codec: self.codec.clone(),
        })
    }
}

/// What a request is about, as text that a user knows.
fn subject(engine: &Engine, about: &Key) -> String {
    match about {
        Key::Path(hash) => {
            let path = engine.path(hash).map(|path| path.facts().path.to_absolute());
            path.unwrap_or_else(|| format!("{STORE_DIR}/{hash}"))
        }
        Key::Root(root) => {
            engine.path_of_root(root).map_or_else(|| root.to_string(), |path| path.facts().path.to_absolute())
        }
    }
}

/// The reply before there is anything to answer from: none.
struct Nothing;

impl ReplyBody for Nothing {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        Err(BrokenOff)
    }
}

struct CountedReply {
    reply: Reply,
    peer: PeerId,
    served: Arc<Served>,
    codec: SharedCodec,
}

impl ReplyBody for CountedReply {
    fn memory_bytes(&self) -> usize {
        self.reply.memory_bytes()
    }

    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        match self.codec.pull(&mut self.reply) {
            Ok(piece) => {
                let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
                self.served.sent(self.peer, bytes);
                Ok(piece)
            }
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "a reply is broken off");
                Err(BrokenOff)
            }
        }
    }
}

#[cfg(test)]
mod tests;
