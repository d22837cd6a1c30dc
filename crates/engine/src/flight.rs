//! One fetch under way: the machine, what it asked for, what is being stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use firn_bao::VerifiedSpan;
use firn_castore::{BlobDigest, Closure, Root};
use firn_exchange::{
    AskId, Fellow, Fetch, Goal, Input, Key, Known, Lie, Limits, Micros, Outcome, Output, PeerId, Rejection,
    Request, Verified, check, check_bytes_max, fellows,
};
use firn_nix::StorePath;
use firn_store::{MissingBlob, Store, StoreError, hash_nar, missing_spans};
use firn_trust::{NarMatch, NarMismatch, Policy, SignedNarInfo};
use futures::future::{AbortHandle, Abortable, BoxFuture, ready};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::heard::{Heard, Undelivered};
use crate::index::{Coming, Index};
use crate::ledger::{Ledger, RejectedRoot};
use crate::pool::Pool;
use crate::recall::recall;
use crate::replies::ReplyMemory;
use crate::slow::Slow;
use crate::{Ask, AskError, EngineError, Find, Found, Progress, Received, Via, telling, uses};

/// How many writes of verified spans may be under way before the fetch waits for the store.
const KEEPS_MAX: usize = 8;

/// The store writes about one byte more for this number of bytes of contents: a blob's parents are 64 bytes for 16 KiB.
const BESIDE_CONTENTS: u64 = 128;
/// What it writes beside that for each blob, in bytes, about.
const BESIDE_BLOB_BYTES: u64 = 256;

/// What a flight works with.
#[derive(Clone)]
pub(crate) struct Crew {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) ask: Arc<dyn Ask>,
    pub(crate) find: Arc<dyn Find>,
    pub(crate) pool: Pool,
    pub(crate) memory: ReplyMemory,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) slow: Arc<Slow>,
    pub(crate) undelivered: Arc<Undelivered>,
    pub(crate) limits: Limits,
    pub(crate) seed: u64,
    pub(crate) me: PeerId,
    /// Who asks this node for which tree.
    pub(crate) askers: broadcast::Sender<(Root, Fellow)>,
}

/// Something that the network or the pool has brought.
enum Event {
    Reply { id: AskId, peer: PeerId, result: Result<Reply, AskError> },
    Cancelled,
    Recalled { coming: Option<Coming>, known: Known },
    Looked(Vec<MissingBlob>),
    Hashed(Result<NarMatch, NarMismatch>),
}

/// What a reply proves, and whom it hints at.
struct Reply {
    result: Result<Verified, Lie>,
    fellows: Vec<Fellow>,
}

/// What has come to the store.
enum Kept {
    /// The Directories of this tree.
    Tree(Coming),
    /// So many bytes of contents.
    Contents(u64),
}

/// A request under way.
struct Asking {
    since: Instant,
    abort: AbortHandle,
    received: Received,
}

/// What a flight tells of itself, and is told.
pub(crate) struct Cockpit {
    pub(crate) progress: watch::Sender<Progress>,
    /// For which blob a reader waits.
    pub(crate) reading: watch::Receiver<Option<BlobDigest>>,
    /// Whoever announces what is here is to look again.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) heard: Heard,
}

/// Where a flight goes.
pub(crate) struct Plan {
    pub(crate) goal: Goal,
    /// Whether others may have what comes.
    pub(crate) may_share: bool,
    /// What of the tree is wanted; `None` for all that is not here.
    pub(crate) part: Option<Part>,
}

/// A part of a tree.
#[derive(Clone)]
pub(crate) struct Part {
    /// The tree's Directories, if they are known.
    pub(crate) closure: Option<Arc<Closure>>,
    /// What is wanted of its blobs.
    pub(crate) blobs: Vec<MissingBlob>,
}

struct Flight {
    crew: Crew,
    heard: Heard,
    /// Whether nothing but claims is looked for: for these no slow peer is waited for.
    is_for_claims: bool,
    index: Arc<Index>,
    changes: watch::Sender<u64>,
    reading: watch::Receiver<Option<BlobDigest>>,
    askers: broadcast::Receiver<(Root, Fellow)>,
    may_share: bool,
    part: Option<Part>,
    /// What others may have of the tree while it comes.
    coming: Option<Coming>,
    /// Whose holders are looked for.
    root: Option<Root>,
    /// Whether it was told that nothing is left to be asked for.
    in_endgame: bool,
    fetch: Fetch,
    begun: Instant,
    progress: watch::Sender<Progress>,
    events: FuturesUnordered<BoxFuture<'static, Result<Event, EngineError>>>,
    asks: BTreeMap<AskId, Asking>,
    finds: SelectAll<BoxStream<'static, Input>>,
    /// Whether a peer that may have it has lied, now or earlier, and is asked nothing.
    has_liars: Arc<AtomicBool>,
    /// Verified spans that are not with the store yet.
    spans: Vec<VerifiedSpan>,
    keeps: FuturesUnordered<BoxFuture<'static, Result<Kept, EngineError>>>,
}

/// Runs a fetch to its end. All that it found is in the store when it returns, though not committed; peers see what came
/// for as long as the second result lives.
pub(crate) async fn fly(
    crew: Crew,
    index: Arc<Index>,
    plan: Plan,
    cockpit: Cockpit,
) -> Result<(Outcome, Option<Coming>), EngineError> {
    let Cockpit { progress, reading, changes, heard } = cockpit;
    let Plan { goal, may_share, part } = plan;
    let flight = Flight {
        heard,
        is_for_claims: matches!(goal, Goal::Claims(_)),
        fetch: Fetch::new(goal, crew.me, crew.limits, crew.seed),
        askers: crew.askers.subscribe(),
        crew,
        index,
        changes,
        reading,
        may_share,
        part,
        coming: None,
        root: None,
        in_endgame: false,
        begun: Instant::now(),
        progress,
        events: FuturesUnordered::new(),
        asks: BTreeMap::new(),
        finds: SelectAll::new(),
        has_liars: Arc::default(),
        spans: Vec::new(),
        keeps: FuturesUnordered::new(),
    };
    flight.run().await
}

impl Flight {
    async fn run(mut self) -> Result<(Outcome, Option<Coming>), EngineError> {
        loop {
            self.tell_received();
            while let Some(output) = self.fetch.poll(self.now()) {
                if let Some(outcome) = self.carry_out(output).await? {
                    return Ok((outcome, self.coming));
                }
            }
            self.tell_endgame();
            self.keep_spans();
            while self.keeps.len() > KEEPS_MAX {
                self.kept_one().await?;
            }
            self.wait().await?;
        }
    }

    fn now(&self) -> Micros {
        self.begun.elapsed().into()
    }

    /// Waits until something comes or the machine's time is up.
    async fn wait(&mut self) -> Result<(), EngineError> {
        let deadline = self.fetch.deadline().map(|at| self.begun + std::time::Duration::from_micros(at.0));
        let alarm = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(event) = self.events.next() => self.take(event?),
            Some(input) = self.finds.next() => self.found(input),
            Some(kept) = self.keeps.next() => self.kept(kept?),
            Ok(()) = self.reading.changed() => {
                let blob = *self.reading.borrow_and_update();
                blob.into_iter().for_each(|blob| self.fetch.handle(self.now(), Input::Reading(blob)));
            }
            // Of more than can be remembered meanwhile, the first are forgotten.
            Ok((root, asker)) = self.askers.recv() => {
                if self.root.as_ref() == Some(&root) {
                    self.heard_of(&[asker]);
                }
            }
            () = alarm => {}
        }
        Ok(())
    }

    /// The machine gives up on who sends nothing, so it must know who does.
    fn tell_received(&mut self) {
        let now = self.now();
        for (id, asking) in &self.asks {
            let bytes = asking.received.bytes();
            self.fetch.handle(now, Input::Received { id: *id, bytes });
        }
    }

    fn tell_endgame(&mut self) {
        let in_endgame = self.fetch.is_all_asked();
        if in_endgame && !self.in_endgame {
            tracing::debug!(requests = self.asks.len(), "endgame: all that is missing has been asked for");
        }
        self.in_endgame = in_endgame;
    }

    fn take(&mut self, event: Event) {
        let input = match event {
            Event::Cancelled => return,
            Event::Reply { id, peer, result: Ok(Reply { result, fellows }) } => {
                let since = self.asks.remove(&id).map(|asking| asking.since);
                self.note_answer(peer, since, &result);
                self.heard_of(&fellows);
                let result = result.map(|verified| self.without_empty_words(peer, verified));
                Input::Answered { id, result }
            }
            Event::Recalled { coming, known } => {
                let closure = coming.as_ref().map(|coming| coming.closure().clone());
                if let Some(coming) = coming {
                    telling::tree(coming.closure());
                    self.has_tree(coming);
                }
                Input::Recalled { closure, known }
            }
            Event::Reply { id, peer, result: Err(error) } => {
                self.asks.remove(&id);
                tracing::debug!(?peer, %error, "no answer");
                self.crew.ledger.failed(peer);
                match error {
                    AskError::Unreachable(_) => {
                        self.heard.unreachable(&peer);
                        Input::Unreachable(id)
                    }
                    _ => Input::Failed(id),
                }
            }
            Event::Looked(missing) => {
                let bytes = bytes_of(&missing);
                tracing::debug!(blobs = missing.len(), bytes, "of its contents this is missing");
                self.progress.send_modify(|progress| {
                    progress.bytes_total = progress.bytes_done.saturating_add(bytes);
                    progress.blobs_total = missing.len() as u64;
                });
                Input::Missing(missing)
            }
            Event::Hashed(result) => Input::Hashed(result.map(Box::new)),
        };
        self.fetch.handle(self.now(), input);
    }

    /// Whom a peer has named, and who asks for the tree itself, may have it as well, or will have a part of it.
    fn heard_of(&mut self, fellows: &[Fellow]) {
        let Some(root) = self.root.clone() else { return };
        for fellow in fellows {
            let found = Found { peer: fellow.peer, via: Via::Fellow };
            if self.crew.find.hint(fellow) && self.crew.ledger.found(found, uses::now()) {
                self.found(Input::Found { key: Key::Root(root.clone()), peer: fellow.peer });
            }
        }
    }

    /// Somebody was found, or a look-up is over.
    fn found(&mut self, input: Input) {
        let peer = match &input {
            Input::Found { peer, .. } => Some(*peer),
            _ => None,
        };
        if let Some(peer) = peer.filter(|peer| !self.fetch.knows(peer)) {
            let via = self.crew.ledger.via(&peer).map(tracing::field::display);
            tracing::debug!(?peer, via, "a peer is found");
        }
        self.fetch.handle(self.now(), input);
        if let Some(peer) = peer.filter(|peer| self.is_for_claims && self.crew.slow.contains(peer)) {
            self.fetch.handle(self.now(), Input::Slow(peer));
        }
    }

    /// Of what a peer claims, what it was asked for of late and did not give is left out: else it would hide what others have.
    fn without_empty_words(&self, peer: PeerId, verified: Verified) -> Verified {
        let Verified::Claims(mut claims) = verified else { return verified };
        if self.is_for_claims {
            claims.retain(|claim| !self.crew.undelivered.contains(&claim.facts().root, peer));
        }
        if claims.is_empty() { Verified::Missing } else { Verified::Claims(claims) }
    }

    /// The Directories are here: readers may begin, and others may have what comes.
    fn has_tree(&mut self, coming: Coming) {
        self.progress.send_modify(|progress| progress.closure = Some(coming.closure().clone()));
        self.coming = Some(coming);
    }

    fn note_answer(&self, peer: PeerId, since: Option<Instant>, result: &Result<Verified, Lie>) {
        if let Ok(Verified::Busy { after }) = result {
            tracing::debug!(?peer, after_ms = after.map(|after| after.0 / 1000), "a peer is busy");
        } else {
            self.heard.settled(&peer);
            if let Some(since) = since {
                self.crew.slow.answered(&peer, since.elapsed());
            }
        }
        let bytes = result.as_ref().map_or(0, Verified::contents_bytes);
        if bytes == 0 {
            return;
        }
        self.crew.ledger.gave(peer, bytes);
        let mut is_first = false;
        self.progress.send_modify(|progress| is_first = progress.given(peer, bytes));
        if is_first {
            tracing::debug!(?peer, "a peer begins to give");
        }
    }

    /// Does what the machine wants; gives the outcome once there is one and all is stored.
    async fn carry_out(&mut self, output: Output) -> Result<Option<Outcome>, EngineError> {
        match output {
            Output::Find(key) => self.find(key),
            Output::Ask { peer, id, request } => self.ask(peer, id, request),
            Output::Cancel(id) => {
                if let Some(asking) = self.asks.remove(&id) {
                    asking.abort.abort();
                }
            }
            Output::KeepClosure(closure) => self.keep_tree(closure),
            Output::Recall { root, path } => self.recall(root, path),
            Output::Look(closure) => self.look(closure),
            Output::Keep(span) => self.spans.push(span),
            Output::HashNar(signed, closure) => {
                self.keep_everything().await?;
                self.hash(signed, closure);
            }
            Output::Blame { peer, lie } => {
                tracing::warn!(%peer, %lie, "a peer lies and is dropped");
                self.crew.ledger.lied(peer, lie, uses::now());
                self.has_liars.store(true, Ordering::Relaxed);
            }
            Output::Reject { root, claimants, reason } => {
                tracing::warn!(%root, %reason, "a root is rejected");
                match reason {
                    Rejection::Undeliverable => {
                        self.crew.undelivered.add(&root, self.heard.who_was_reached())
                    }
                    Rejection::Fault(_) | Rejection::Nar(_) => {
                        self.crew.undelivered.add(&root, claimants.iter().copied());
                    }
                }
                self.coming = None;
                self.progress.send_modify(|progress| progress.closure = None);
                self.crew.ledger.rejected(RejectedRoot { root, claimants, reason });
            }
            Output::Done(outcome) => {
                self.keep_everything().await?;
                let is_missing =
                    matches!(outcome, Outcome::NotFound | Outcome::Rejected(Rejection::Undeliverable));
                return match is_missing && self.has_liars.load(Ordering::Relaxed) {
                    true => Err(EngineError::Blamed),
                    false => Ok(Some(outcome)),
                };
            }
        }
        Ok(None)
    }

    fn find(&mut self, key: Key) {
        match &key {
            Key::Path(_) => tracing::debug!("whoever vouches for the path is looked for"),
            Key::Root(root) => {
                tracing::debug!(root = telling::short(root), "holders of the tree are looked for");
                self.root = Some(root.clone());
            }
        }
        let (ledger, has_liars) = (self.crew.ledger.clone(), self.has_liars.clone());
        let ended = Input::FindEnded(key.clone());
        let found = self.crew.find.find(key.clone()).filter_map(move |found: Found| {
            let may_be_asked = ledger.found(found, uses::now());
            has_liars.fetch_or(!may_be_asked, Ordering::Relaxed);
            ready(may_be_asked.then(|| Input::Found { key: key.clone(), peer: found.peer }))
        });
        self.finds.push(found.chain(futures::stream::once(ready(ended))).boxed());
    }

    fn ask(&mut self, peer: PeerId, id: AskId, request: Request) {
        self.crew.ledger.asked(peer);
        let crew = self.crew.clone();
        let (abort, registration) = AbortHandle::new_pair();
        let received = Received::new(&crew.memory);
        self.asks.insert(id, Asking { since: Instant::now(), abort, received: received.clone() });
        self.heard.asked(peer);
        if self.is_for_claims {
            self.heard.asked_for_claims(peer);
        }
        let reply = tokio::spawn(ask_and_check(crew, peer, request, received).in_current_span());
        let reply = AbortOnDropHandle::new(reply).map(|ended| ended.unwrap_or(Err(EngineError::Ending)));
        let reply = Abortable::new(reply, registration);
        let event = reply.map(move |reply| match reply {
            Ok(result) => result.map(|result| Event::Reply { id, peer, result }),
            Err(_) => Ok(Event::Cancelled),
        });
        self.events.push(event.boxed());
    }

    fn recall(&mut self, root: Root, path: Option<StorePath>) {
        if path.is_some() {
            self.progress.send_modify(|progress| progress.path.clone_from(&path));
        }
        let (index, may_share) = (self.index.clone(), self.may_share);
        if let Some(closure) = self.part.as_ref().and_then(|part| part.closure.clone()) {
            let coming = Some(index.coming(closure, may_share));
            return self.events.push(ready(Ok(Event::Recalled { coming, known: Known::default() })).boxed());
        }
        let Crew { store, pool, .. } = self.crew.clone();
        let recall = move || {
            let (closure, known) = recall(&*store, &index, &root, path.as_ref())?;
            let coming = closure.map(|closure| index.coming(closure, may_share));
            Ok::<_, StoreError>(Event::Recalled { coming, known })
        };
        self.events.push(async move { pool.run(recall).await?.map_err(Into::into) }.boxed());
    }

    fn look(&mut self, closure: Arc<Closure>) {
        if let Some(part) = &self.part {
            let wanted = Event::Looked(part.blobs.clone());
            return self.events.push(ready(Ok(wanted)).boxed());
        }
        let Crew { store, pool, .. } = self.crew.clone();
        let look = move || {
            let missing = missing_spans(&*store, &closure)?;
            check_room(&*store, &missing)?;
            Ok::<_, EngineError>(missing)
        };
        self.events.push(async move { pool.run(look).await?.map(Event::Looked) }.boxed());
    }

    fn hash(&mut self, signed: SignedNarInfo, closure: Arc<Closure>) {
        tracing::debug!("all of it is here, and its NAR is hashed");
        let Crew { store, pool, .. } = self.crew.clone();
        let hash = move || hash_nar(&*store, signed, closure).map(Event::Hashed);
        self.events.push(async move { pool.run(hash).await?.map_err(Into::into) }.boxed());
    }

    /// Hands the Directories to the store. Nothing waits for that but whoever reads the tree, here or elsewhere.
    fn keep_tree(&mut self, closure: Arc<Closure>) {
        telling::tree(&closure);
        let Crew { store, pool, .. } = self.crew.clone();
        let (index, may_share) = (self.index.clone(), self.may_share);
        let keep = move || {
            let directories: Vec<_> = closure.directories().cloned().collect();
            store.keep_directories(&directories)?;
            Ok::<_, StoreError>(index.coming(closure, may_share))
        };
        self.keeps.push(async move { Ok(Kept::Tree(pool.run(keep).await??)) }.boxed());
    }

    /// Hands what has come to the store.
    fn keep_spans(&mut self) {
        if self.spans.is_empty() {
            return;
        }
        let spans = std::mem::take(&mut self.spans);
        let Crew { store, pool, .. } = self.crew.clone();
        let keep = move || {
            let bytes = spans.iter().map(|span| span.bytes().len() as u64).sum();
            store.keep_spans(&spans).map(|()| bytes)
        };
        self.keeps.push(async move { Ok(Kept::Contents(pool.run(keep).await??)) }.boxed());
    }

    async fn kept_one(&mut self) -> Result<(), EngineError> {
        if let Some(kept) = self.keeps.next().await {
            self.kept(kept?);
        }
        Ok(())
    }

    fn kept(&mut self, kept: Kept) {
        let gave_nothing = self.coming.is_none() || self.progress.borrow().bytes_done == 0;
        match kept {
            // Another one may be at hand by now.
            Kept::Tree(coming) if self.root.as_ref() != Some(coming.closure().root()) => {}
            Kept::Tree(coming) => self.has_tree(coming),
            Kept::Contents(bytes) => self.progress.send_modify(|progress| progress.bytes_done += bytes),
        }
        if gave_nothing && self.coming.is_some() && self.progress.borrow().bytes_done > 0 {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    async fn keep_everything(&mut self) -> Result<(), EngineError> {
        self.keep_spans();
        while !self.keeps.is_empty() {
            self.kept_one().await?;
        }
        Ok(())
    }
}

fn bytes_of(missing: &[MissingBlob]) -> u64 {
    missing.iter().map(MissingBlob::bytes).fold(0, u64::saturating_add)
}

/// Refuses what the disk has no room for before any of it is asked for.
fn check_room(store: &dyn Store, missing: &[MissingBlob]) -> Result<(), EngineError> {
    let Some(free) = store.free_bytes()? else { return Ok(()) };
    let bytes = bytes_of(missing);
    let beside = bytes / BESIDE_CONTENTS + missing.len() as u64 * BESIDE_BLOB_BYTES;
    match bytes.saturating_add(beside) {
        bytes if bytes > free => Err(EngineError::NoRoom { bytes, free }),
        _ => Ok(()),
    }
}

/// Whether the peer answers the request, and not by *busy*.
pub(crate) async fn is_answered(crew: Crew, peer: PeerId, request: Request) -> bool {
    let reply = ask_and_check(crew, peer, request, Received::default()).await;
    matches!(reply, Ok(Ok(Reply { result, .. })) if !matches!(result, Ok(Verified::Busy { .. })))
}

async fn ask_and_check(
    crew: Crew,
    peer: PeerId,
    request: Request,
    received: Received,
) -> Result<Result<Reply, AskError>, EngineError> {
    let begun = Instant::now();
    let reply: Bytes = match crew.ask.ask(peer, request.clone(), received).await {
        Ok(reply) => {
            let (kind, ms) = (request.kind(), begun.elapsed().as_millis() as u64);
            tracing::trace!(?peer, kind, bytes = reply.len(), ms, "a reply");
            reply
        }
        Err(AskError::TooMuch { .. }) => {
            return Ok(Ok(Reply { result: Err(Lie::TooMuch), fellows: Vec::new() }));
        }
        Err(error) => return Ok(Err(error)),
    };
    let policy = crew.policy.clone();
    let memory = crew.memory.check(check_bytes_max(&request, &reply)).await;
    let check = move || {
        let _memory = memory;
        let fellows = fellows(&reply);
        Reply { result: check(&request, reply, &policy), fellows }
    };
    crew.pool.run(check).await.map(Ok)
}
