//! Replies are compressed where a peer's connection is slower than the codec.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use firn_exchange::{Codec, Compress, Reply, ReplyError};

use crate::serve::Peer;

/// What all replies of a node learn together of how fast compressing is.
#[derive(Debug, Clone)]
pub struct SharedCodec(Arc<Mutex<Codec>>);

impl SharedCodec {
    /// Knows nothing yet.
    pub fn new(when: Compress) -> Self {
        Self(Arc::new(Mutex::new(Codec::new(when))))
    }

    /// The reply, compressed where that is worth it on this peer's connection. Only before the first piece.
    pub fn squeezed(&self, reply: Reply, from: Peer) -> Reply {
        if !reply.may_be_compressed() {
            return reply;
        }
        match self.lock().level(from.drain, from.is_private()) {
            Some(level) => reply.compressed(level),
            None => reply,
        }
    }

    /// The next piece; how long it took to compress is remembered. Reading is part of it: what counts is how fast there is
    /// something to send.
    pub fn pull(&self, reply: &mut Reply) -> Result<Option<Bytes>, ReplyError> {
        let Some((level, before)) = reply.squeezed() else { return reply.next() };
        let begun = Instant::now();
        let piece = reply.next();
        let took = begun.elapsed().into();
        let after = reply.squeezed().map_or(before, |(_, bytes)| bytes);
        self.lock().worked(level, after - before, took);
        piece
    }

    fn lock(&self) -> MutexGuard<'_, Codec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
