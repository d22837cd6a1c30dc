//! A NAR as a stream of bytes, from a tree that is here or on its way.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_castore::Closure;
use firn_exchange::Rejection;
use firn_nix::NarLayout;
use firn_store::Hold;
use firn_trust::{Admitted, Ground, NarMismatch, TrustedPath};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::flights::{FlightKey, Landed, Seat};
use crate::passing;
use crate::reader::Reader;
use crate::{Engine, EngineError, Resolved};

/// A NAR that can be had.
pub struct Nar {
    size: u64,
    is_proven: bool,
    contents: Contents,
}

/// Where its bytes come from.
pub(crate) struct Contents {
    pub(crate) engine: Engine,
    pub(crate) resolved: Resolved,
}

/// A NAR whose tree is known.
pub struct OpenNar {
    layout: Arc<NarLayout>,
    engine: Engine,
    resolved: Resolved,
    /// What is here stays as long as it is read.
    hold: Hold,
    /// The flight that brings the blobs; `None` where all should be here.
    seat: Option<Seat>,
    /// Whether the disk has no room for it.
    has_no_room: bool,
}

impl Nar {
    pub(crate) fn new(size: u64, is_proven: bool, contents: Contents) -> Self {
        Self { size, is_proven, contents }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether its root is believed, so that any part of it may be given away.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Waits until its bytes can be given away: for the Directories if the root is believed, for the whole tree and its
    /// NAR match if it is not.
    pub async fn open(self) -> Result<OpenNar, EngineError> {
        let Contents { engine, resolved } = self.contents;
        let facts = resolved.facts();
        let hold = engine.store().hold_tree(&facts.root);
        let here = match engine.0.index.path(facts.path.hash()) {
            None => None,
            // What turns out to be lost is brought then.
            Some(_) if engine.can_bring(&resolved) => engine.0.directories(facts).await?,
            Some(_) => engine.0.whole(facts).await?,
        };
        let (closure, seat, has_no_room) = match here {
            Some(closure) => (closure, None, false),
            None => match engine.bring(&resolved).await {
                Ok((closure, seat)) => (closure, seat, false),
                Err(error) if error.is_no_room() => {
                    (passing::closure(&engine.0, &facts.root).await?, None, true)
                }
                Err(error) => return Err(error),
            },
        };
        let layout = engine.0.layouts.share(NarLayout::new(closure)?);
        let actual = layout.nar_size();
        if actual != self.size {
            let mismatch = NarMismatch::Size { signed: self.size, actual };
            return Err(EngineError::Rejected(Rejection::Nar(mismatch)));
        }
        Ok(OpenNar { layout, engine, resolved, hold, seat, has_no_room })
    }

    /// These bytes of it, as [`OpenNar::read`] gives them, once some of its contents have come, or are all here. A path of
    /// whose contents nothing comes within this time is forgotten: what peers claim of it is looked for anew.
    pub async fn read_begun(
        self,
        range: Range<u64>,
        within: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, EngineError>>, EngineError> {
        let (engine, resolved) = (self.contents.engine.clone(), self.contents.resolved.clone());
        let begin = async {
            let mut reader = self.open().await?.reader(range)?;
            reader.begun().await?;
            Ok(reader.stream())
        };
        let Resolved::Proven(path) = resolved else { return begin.await };
        let mut begin = pin!(begin);
        match tokio::time::timeout(within, &mut begin).await {
            Ok(begun) => begun,
            Err(_) => {
                // While `begin` lives, so does the flight.
                engine.give_up(&path);
                Err(EngineError::TimedOut)
            }
        }
    }
}

impl OpenNar {
    /// The tree.
    pub fn closure(&self) -> &Arc<Closure> {
        self.layout.closure()
    }

    /// These bytes of it. What has not come yet is waited for; an error ends the stream.
    ///
    /// Where something of a path is lost, here or while it is read, it comes from peers, unless the user has added it
    /// and no trusted key has signed it: then [`EngineError::Gone`] says what.
    ///
    /// The last bytes of a NAR that is on its way come once it has been committed: whoever has it all stops reading, and
    /// with the last reader the flight ends.
    ///
    /// What the disk has no room for is passed on without being kept. Of a NAR that is not proven, it is nothing but the
    /// whole, and the last of it comes once its hash was found to be the signed one.
    pub fn read(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, EngineError>> {
        match self.reader(range) {
            Ok(reader) => reader.stream(),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    fn reader(self, range: Range<u64>) -> Result<Reader, EngineError> {
        let Self { layout, engine, resolved, hold, seat, has_no_room } = self;
        let mut reader = Reader::new(engine, resolved, hold, layout, range, seat);
        if has_no_room {
            reader.pass()?;
        }
        Ok(reader)
    }
}

impl Engine {
    /// How much memory those who read NARs hold now, in bytes.
    pub fn nar_bytes_held(&self) -> u64 {
        self.0.nar_memory.bytes()
    }

    /// The tree of a path that is not here, and the flight that brings its blobs unless that has landed.
    pub(crate) async fn bring(
        &self,
        resolved: &Resolved,
    ) -> Result<(Arc<Closure>, Option<Seat>), EngineError> {
        let path = match resolved {
            Resolved::Signed(_) => return Ok((self.board(resolved).closure_of_landed().await?, None)),
            Resolved::Proven(path) => self.said_by_others(path)?,
        };
        let seat = self.board(&Resolved::Proven(path.clone()));
        let closure = seat.clone().closure().await;
        if let Some(closure) = closure.ok().filter(|closure| *closure.root() == path.facts().root) {
            return Ok((closure, Some(seat)));
        }
        let seat = self.board_tree(&path);
        Ok((seat.clone().closure().await?, Some(seat)))
    }

    /// Forgets a path that was waited for too long, and for a while the word of the peers that could be reached and gave nothing.
    fn give_up(&self, path: &Arc<TrustedPath>) {
        let (hash, root) = (*path.facts().path.hash(), &path.facts().root);
        for key in [FlightKey::Path(hash), FlightKey::Tree(root.clone(), Some(hash))] {
            if let Some(seat) = self.0.flights.under_way(&key) {
                self.0.crew.undelivered.add(root, seat.heard.who_was_reached());
            }
        }
        self.0.index.disown(&hash, Some(root));
    }

    /// Whether others may give it.
    fn can_bring(&self, resolved: &Resolved) -> bool {
        match resolved {
            Resolved::Proven(path) => self.said_by_others(path).is_ok(),
            Resolved::Signed(_) => true,
        }
    }

    /// The path as others may give it: what only this user has said of it would come back as what they say.
    fn said_by_others(&self, path: &Arc<TrustedPath>) -> Result<Arc<TrustedPath>, EngineError> {
        if path.ground() != Ground::AddedHere {
            return Ok(path.clone());
        }
        match self.0.crew.policy.admit(path.claim().clone()) {
            Ok(Admitted::Attested(path)) => Ok(Arc::new(path)),
            Ok(Admitted::Signed(_)) | Err(_) => Err(EngineError::NotFound),
        }
    }
}

impl Seat {
    /// Waits for the tree's Directories.
    async fn closure(mut self) -> Result<Arc<Closure>, EngineError> {
        loop {
            if let Some(closure) = self.progress.borrow_and_update().closure.clone() {
                return Ok(closure);
            }
            tokio::select! {
                landed = self.landing.clone() => return closure_of(landed?),
                Ok(()) = self.progress.changed() => {}
            }
        }
    }

    async fn closure_of_landed(self) -> Result<Arc<Closure>, EngineError> {
        closure_of(self.landing.await?)
    }

    /// Whether the flight has ended well; what it has brought so far counts as seen.
    pub(crate) fn look(&mut self) -> bool {
        self.progress.mark_unchanged();
        matches!(self.landing.clone().now_or_never(), Some(Ok(_)))
    }

    /// Waits for a change.
    pub(crate) async fn wait(&mut self) -> Result<(), EngineError> {
        tokio::select! {
            landed = self.landing.clone() => landed.map(|_| ()),
            Ok(()) = self.progress.changed() => Ok(()),
        }
    }
}

fn closure_of(landed: Landed) -> Result<Arc<Closure>, EngineError> {
    match landed {
        Landed::Here(fetched) => Ok(fetched.closure),
        Landed::Claims(_) => Err(EngineError::NotFound),
    }
}
