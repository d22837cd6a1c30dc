//! One request and its reply.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use firn_exchange::{REQUEST_BYTES_MAX, busy};
use futures::FutureExt;
use iroh::endpoint::{RecvStream, SendStream};
use tokio::time::{Instant, timeout};

use super::{
    BROKEN_OFF_CODE, BrokenOff, Peer, REQUEST_TIMEOUT, ReplyBody, Serving,
    connections::Counted,
    gate::{Entered, Reserved},
    log_panic,
};
use crate::{patience::Patience, throughput::Gauge};

/// The longest request for which no memory is reserved: those for spans, claims and trees are shorter.
const SHORT_REQUEST_BYTES: usize = 4 << 10;
/// How much of a request is read at once.
const READ_BYTES: usize = 64 << 10;

/// A stream of a connection, and who is at its other end.
pub(super) struct Stream<'a> {
    pub(super) serving: &'a Serving,
    pub(super) counted: &'a Counted,
    pub(super) drain: &'a Gauge,
    pub(super) from: Peer,
    pub(super) send: SendStream,
}

/// Nothing more can be done on this stream: it is reset.
struct Lost;

/// A request, or that it cannot be answered now.
enum Read<'a> {
    Request(Bytes, Option<Reserved<'a>>),
    Busy,
}

impl<'a> Stream<'a> {
    pub(super) async fn serve(mut self, mut receive: RecvStream) {
        if self.answer(&mut receive).await.is_err() && self.send.reset(BROKEN_OFF_CODE).is_err() {
            tracing::trace!("the stream was closed already");
        }
    }

    async fn answer(&mut self, receive: &mut RecvStream) -> Result<(), Lost> {
        let Some(entered) = self.serving.gate.enter(self.from.id, self.from.group()) else {
            // It is read all the same, for an asker that is not heard to the end takes that for an error.
            let discard = timeout(REQUEST_TIMEOUT, discard(receive));
            let (discarded, ()) = tokio::join!(discard, self.counted.supersede_silent());
            discarded.map_err(|_| Lost)??;
            return self.say_busy().await;
        };
        let read = timeout(REQUEST_TIMEOUT, self.read(receive, &entered)).await.map_err(|_| Lost)??;
        let Read::Request(request, reserved) = read else { return self.say_busy().await };
        let (from, answerer) = (self.from, self.serving.answerer.clone());
        let body = self.serving.blocking(move || answerer.answer(from, request)).await?;
        drop(reserved);
        let Some(mut reserved) = self.reserve(&entered, body.memory_bytes()).await else {
            return self.say_busy().await;
        };
        let mut patience = Patience::default();
        self.send_body(body, &mut reserved, &mut patience).await?;
        self.end(&mut patience).await
    }

    /// Reads a request; one that is not short only where there is memory for it, and for what is made of it.
    async fn read(&self, receive: &mut RecvStream, entered: &Entered<'a>) -> Result<Read<'a>, Lost> {
        let (mut request, mut reserved) = (BytesMut::new(), None);
        while let Some(chunk) = receive.read_chunk(READ_BYTES).await.map_err(|_| Lost)? {
            if request.len() + chunk.len() > REQUEST_BYTES_MAX {
                return Err(Lost);
            }
            if request.len() + chunk.len() > SHORT_REQUEST_BYTES && reserved.is_none() {
                reserved = self.reserve(entered, 2 * REQUEST_BYTES_MAX).await;
                if reserved.is_none() {
                    discard(receive).await?;
                    return Ok(Read::Busy);
                }
            }
            request.extend_from_slice(&chunk);
        }
        Ok(Read::Request(request.freeze(), reserved))
    }

    /// Waits for so much memory; not for long. The peer's older connections that look dead hold none of it meanwhile.
    async fn reserve(&self, entered: &Entered<'a>, bytes: usize) -> Option<Reserved<'a>> {
        let mut reserve = pin!(entered.reserve(bytes));
        tokio::select! {
            biased;
            reserved = &mut reserve => return reserved,
            () = self.counted.supersede_silent() => {}
        }
        reserve.await
    }

    /// Instead of a reply.
    async fn say_busy(&mut self) -> Result<(), Lost> {
        let after = self.serving.busy_for();
        let mut patience = Patience::default();
        self.write(busy(after), &mut patience).await?;
        self.end(&mut patience).await
    }

    /// Sends one piece while the next one is read; so a reply holds two pieces in memory, and no thread while the peer is
    /// slow.
    async fn send_body(
        &mut self,
        body: Box<dyn ReplyBody>,
        reserved: &mut Reserved<'_>,
        patience: &mut Patience,
    ) -> Result<(), Lost> {
        let (mut body, mut piece) = pull(self.serving, body).await?;
        while let Some(bytes) = piece {
            reserved.shrink(body.memory_bytes());
            let pull = pull(self.serving, body);
            let (sent, pulled) = tokio::join!(self.send_piece(bytes, patience), pull);
            sent?;
            (body, piece) = pulled?;
        }
        Ok(())
    }

    async fn send_piece(&mut self, mut bytes: Bytes, patience: &mut Patience) -> Result<(), Lost> {
        while !bytes.is_empty() {
            let upload = &self.serving.upload;
            let part = bytes.split_to(bytes.len().min(upload.piece_bytes(self.from.id)));
            upload.pay(self.from.id, part.len()).await;
            self.write(part, patience).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes, patience: &mut Patience) -> Result<(), Lost> {
        let length = bytes.len();
        let chunks = &mut [bytes];
        let mut chunks = &mut chunks[..];
        while !chunks.is_empty() {
            // As long as the connection takes everything at once there is nothing to measure.
            if let Some(written) = self.send.write_many_chunks(&mut chunks).now_or_never() {
                written.map_err(|_| Lost)?;
                continue;
            }
            let (begun, moved, _under_way) = (Instant::now(), self.drain.moved(), self.drain.begin());
            let written = timeout(patience.left(), self.send.write_many_chunks(&mut chunks)).await;
            let taken = written.unwrap_or(Ok(0)).map_err(|_| Lost)?;
            let moved = self.drain.moved() - moved + taken as u64;
            patience.waited(begun.elapsed(), moved).map_err(|_| Lost)?;
        }
        self.drain.count(length);
        Ok(())
    }

    /// The reply is whole. Until the peer has it, it takes memory here. It may be on its way for long, for all of it that the
    /// peer has leave for is in QUIC's hands.
    async fn end(&mut self, patience: &mut Patience) -> Result<(), Lost> {
        self.send.finish().map_err(|_| Lost)?;
        let _under_way = self.drain.begin();
        let mut stopped = std::pin::pin!(self.send.stopped());
        loop {
            let (begun, sent) = (Instant::now(), self.drain.wire_bytes());
            match timeout(patience.left(), &mut stopped).await {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(_)) | Err(_)) => return Err(Lost),
                Err(_) => {
                    patience.waited(begun.elapsed(), self.drain.wire_bytes() - sent).map_err(|_| Lost)?
                }
            }
        }
    }
}

async fn pull(
    serving: &Serving,
    mut body: Box<dyn ReplyBody>,
) -> Result<(Box<dyn ReplyBody>, Option<Bytes>), Lost> {
    let pulled = serving.blocking(move || body.next().map(|piece| (body, piece))).await?;
    pulled.map_err(|BrokenOff| Lost)
}

/// Reads what comes to its end, and keeps nothing of it.
async fn discard(receive: &mut RecvStream) -> Result<(), Lost> {
    let mut length = 0;
    while let Some(chunk) = receive.read_chunk(READ_BYTES).await.map_err(|_| Lost)? {
        length += chunk.len();
        if length > REQUEST_BYTES_MAX {
            return Err(Lost);
        }
    }
    Ok(())
}

impl Serving {
    /// Runs what may block, on a thread, when there is one for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let _read = self.gate.read().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done),
            Err(ended) => {
                log_panic(Err(ended));
                Err(Lost)
            }
        }
    }
}
