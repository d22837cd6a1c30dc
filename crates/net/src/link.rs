//! A connection for asking, and the requests on it.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use firn_engine::Received;
use firn_exchange::{Compress, PeerId, Request, header_is_too_long};
use iroh::endpoint::{Connection, ReadError, RecvStream, VarInt};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    dial::is_private,
    limits::Pacer,
    patience::Patience,
    route::Route,
    serve::selected_path,
    throughput::{Gauge, Way},
};

/// Requests on one connection at once; further ones wait here.
pub(crate) const STREAMS_MAX: usize = 32;
/// On a connection on which requests wait nothing came and nothing could be sent for so long: they are given up.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_millis(2500);
/// How much is written to a stream before progress is looked at.
const WRITE_BYTES: usize = 64 << 10;
/// How many packets' contents are read from a stream at once: each time takes the connection's lock.
const READ_CHUNKS: usize = 64;
/// One packet's contents have about so many bytes.
const CHUNK_BYTES: usize = 1400;
/// Few replies are longer.
const REPLY_BYTES: usize = (1 << 20) + (128 << 10);
/// What comes at this rate, in bytes a second, comes so fast that taking it apart would not make it faster.
const FAST: u64 = 100 << 20;
/// A peer that is so near, and in a private network, is taken for fast until something has come from it.
const NEAR: Duration = Duration::from_millis(10);

/// Why a stream gave no reply.
#[derive(Debug)]
pub(crate) enum StreamError {
    Stalled,
    TooMuch,
    /// With whether the connection died before anything came, so that another one may serve.
    Broken {
        source: Box<dyn std::error::Error + Send + Sync>,
        retry: bool,
    },
}

/// A connection for asking.
pub(crate) struct Link {
    peer: PeerId,
    connection: Connection,
    gauge: Gauge,
    streams: Semaphore,
    asked_at: Mutex<Instant>,
    /// When something came or was taken on any of the streams: replies come one after the other.
    progress_at: Mutex<Instant>,
}

impl Link {
    pub(crate) fn new(peer: PeerId, connection: Connection) -> Self {
        Self {
            peer,
            gauge: Gauge::new(connection.clone(), Way::In),
            connection,
            streams: Semaphore::new(STREAMS_MAX),
            asked_at: Mutex::new(Instant::now()),
            progress_at: Mutex::new(Instant::now()),
        }
    }

    /// Sends the request, and gives the whole reply, which is taken no faster than `download` lets it.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        download: &Pacer,
        compress: Compress,
        received: &Received,
    ) -> Result<Bytes, StreamError> {
        let _permit = self.streams.acquire().await.expect("this semaphore is never closed");
        let reply = self.exchange(request, download, compress, received).await;
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        reply
    }

    async fn exchange(
        &self,
        request: &Request,
        download: &Pacer,
        compress: Compress,
        received: &Received,
    ) -> Result<Bytes, StreamError> {
        let lost = |error: iroh::endpoint::ConnectionError| StreamError::Broken {
            source: error.into(),
            retry: true,
        };
        // Directories shrink by a fifth or more, and come when nothing else has told how fast the link is.
        let at_first = || matches!(request, Request::Closure { .. }) || !self.is_near();
        let encoded = request.encode(takes_zstd(compress, self.gauge.rate(), at_first));
        let (mut send, mut receive) = self.progress(self.connection.open_bi()).await?.map_err(lost)?;
        for start in (0..encoded.len()).step_by(WRITE_BYTES) {
            let part = encoded.slice(start..encoded.len().min(start + WRITE_BYTES));
            let written = self.progress(send.write_chunk(part)).await?;
            written.map_err(|error| self.broken(error, true))?;
        }
        send.finish().map_err(|error| self.broken(error, true))?;
        self.read_reply(&mut receive, request.reply_bytes_max(), download, received).await
    }

    async fn read_reply(
        &self,
        receive: &mut RecvStream,
        reply_bytes_max: usize,
        download: &Pacer,
        received: &Received,
    ) -> Result<Bytes, StreamError> {
        // Growing copies what is there; memory that is not written to costs nothing.
        let mut reply = BytesMut::with_capacity(reply_bytes_max.min(REPLY_BYTES));
        let (mut patience, mut under_way) = (Patience::default(), None);
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        loop {
            let (begun, moved) = (Instant::now(), self.gauge.moved());
            let piece_bytes = download.piece_bytes(self.peer);
            let wanted = (piece_bytes / CHUNK_BYTES).clamp(1, READ_CHUNKS);
            let read = self.progress(receive.read_many_chunks(&mut chunks[..wanted])).await?;
            let read = read.map_err(|error: ReadError| self.broken(error, reply.is_empty()))?;
            let Some(count) = read else { return Ok(reply.freeze()) };
            let bytes: usize = chunks[..count].iter().map(Bytes::len).sum();
            if reply.len() + bytes > reply_bytes_max {
                return Err(StreamError::TooMuch);
            }
            self.gauge.count(bytes);
            let waited = patience.waited(begun.elapsed(), self.gauge.moved() - moved);
            waited.map_err(|_| StreamError::Stalled)?;
            self.make_room(received, reply.len() + bytes).await?;
            chunks[..count].iter_mut().for_each(|chunk| reply.extend_from_slice(&std::mem::take(chunk)));
            if header_is_too_long(&reply) {
                return Err(StreamError::TooMuch);
            }
            received.add(bytes as u64);
            // Only what comes after the first bytes tells how fast it comes.
            under_way.get_or_insert_with(|| self.gauge.begin());
            // What is not read here is not sent there, once the stream's window is full.
            download.pay(self.peer, bytes).await;
        }
    }

    /// Waits for memory, while the peer is not waited for.
    async fn make_room(&self, received: &Received, bytes: usize) -> Result<(), StreamError> {
        let mut room = std::pin::pin!(received.make_room(bytes));
        loop {
            match timeout(PROGRESS_TIMEOUT / 2, &mut room).await {
                Ok(made) => return made.map_err(|_| StreamError::Stalled),
                Err(_) => *self.progress_at() = Instant::now(),
            }
        }
    }

    fn is_near(&self) -> bool {
        let path = selected_path(&self.connection);
        path.is_some_and(|(address, rtt)| {
            rtt < NEAR && address.is_some_and(|address| is_private(address.ip()))
        })
    }

    /// Where the peer is, if it is reached directly.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        selected_path(&self.connection)?.0
    }

    /// By which route it goes now; `None` while none is chosen, and once it is closed.
    pub(crate) fn route(&self) -> Option<Route> {
        let path = selected_path(&self.connection).filter(|_| self.is_open());
        path.map(|(address, _)| Route::to(address.map(|address| address.ip())))
    }

    fn broken(
        &self,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        nothing_came: bool,
    ) -> StreamError {
        let retry = nothing_came && self.connection.close_reason().is_some();
        StreamError::Broken { source: error.into(), retry }
    }

    pub(crate) fn asked_at(&self) -> Instant {
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_idle_for(&self, time: Duration) -> bool {
        self.streams.available_permits() == STREAMS_MAX && self.asked_at().elapsed() >= time
    }

    /// Waits for a step of one stream for as long as any of them gets on.
    async fn progress<F: Future>(&self, step: F) -> Result<F::Output, StreamError> {
        let mut step = std::pin::pin!(step);
        let begun = Instant::now();
        loop {
            let last = begun.max(*self.progress_at());
            if let Ok(done) = timeout_at(last + PROGRESS_TIMEOUT, &mut step).await {
                *self.progress_at() = Instant::now();
                return Ok(done);
            }
            if *self.progress_at() <= last {
                return Err(StreamError::Stalled);
            }
        }
    }

    fn progress_at(&self) -> MutexGuard<'_, Instant> {
        self.progress_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        self.connection.close(code, reason);
    }
}

/// Whether a reply may come compressed, by how many bytes a second have come; where none have, `at_first` says it.
fn takes_zstd(compress: Compress, rate: Option<u64>, at_first: impl FnOnce() -> bool) -> bool {
    match compress {
        Compress::Always => true,
        Compress::Never => false,
        Compress::Auto => rate.map_or_else(at_first, |rate| rate < FAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_slowly_may_come_compressed() {
        let takes = |rate, at_first| takes_zstd(Compress::Auto, rate, || at_first);
        assert!(takes(Some(FAST - 1), false) && !takes(Some(FAST), true));
        assert!(takes(None, true) && !takes(None, false), "before anything has come");
        for (rate, at_first) in [(Some(1), false), (Some(u64::MAX), true), (None, false)] {
            assert!(takes_zstd(Compress::Always, rate, || at_first));
            assert!(!takes_zstd(Compress::Never, rate, || at_first));
        }
    }
}
