//! Peers without a network: what is asked is answered by the production code, in the peer's manner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use firn_engine::{Ask, AskError, Engine, Find, Found, Received, Via};
use firn_exchange::{Fellow, Key, Micros, PeerId, Request, SharedView, answer, busy};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::watch;

use super::DEADLINE;

/// What a peer makes of a request and of the honest answer to it.
pub(crate) type Manner =
    Arc<dyn Fn(&Request, Bytes) -> BoxFuture<'static, Result<Bytes, AskError>> + Send + Sync>;

/// All peers. Whoever looks for something finds every one of them.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Inner>);

#[derive(Default)]
struct Inner {
    peers: Mutex<BTreeMap<PeerId, (SharedView, Manner)>>,
    asked: Mutex<Vec<(PeerId, Request)>>,
    /// Requests that have neither been answered nor given up.
    under_way: watch::Sender<usize>,
    lookups_go_on: Mutex<bool>,
}

impl Net {
    /// Peers see what the engine shares, now and later.
    pub(crate) fn join(&self, id: PeerId, engine: &Engine, manner: Manner) {
        self.0.peers.lock().unwrap().insert(id, (engine.shared_view(), manner));
    }

    /// From now on the peer cannot be reached.
    pub(crate) fn leave(&self, id: &PeerId) {
        self.0.peers.lock().unwrap().remove(id).unwrap();
    }

    /// From now on no look-up comes to an end.
    pub(crate) fn let_lookups_go_on(&self) {
        *self.0.lookups_go_on.lock().unwrap() = true;
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self) -> Vec<(PeerId, Request)> {
        self.0.asked.lock().unwrap().clone()
    }

    /// How many requests so far were of a kind.
    pub(crate) fn count(&self, is_of_kind: impl Fn(&Request) -> bool) -> usize {
        self.asked().iter().filter(|(_, request)| is_of_kind(request)).count()
    }

    /// How many requests so far went to a peer.
    pub(crate) fn count_to(&self, id: &PeerId) -> usize {
        self.asked().iter().filter(|(peer, _)| peer == id).count()
    }

    /// Waits until so many requests are under way.
    pub(crate) async fn until_under_way(&self, is_enough: impl FnMut(&usize) -> bool) {
        let mut under_way = self.0.under_way.subscribe();
        tokio::time::timeout(DEADLINE, under_way.wait_for(is_enough)).await.unwrap().unwrap();
    }
}

impl Find for Net {
    fn find(&self, _key: Key) -> BoxStream<'static, Found> {
        let peers: Vec<PeerId> = self.0.peers.lock().unwrap().keys().copied().collect();
        let found = stream::iter(peers.into_iter().map(|peer| Found { peer, via: Via::Static }));
        match *self.0.lookups_go_on.lock().unwrap() {
            true => found.chain(stream::pending()).boxed(),
            false => found.boxed(),
        }
    }

    fn hint(&self, fellow: &Fellow) -> bool {
        self.0.peers.lock().unwrap().contains_key(&fellow.peer)
    }
}

impl Ask for Net {
    fn ask(
        &self,
        peer: PeerId,
        request: Request,
        _: Received,
    ) -> BoxFuture<'static, Result<Bytes, AskError>> {
        self.0.asked.lock().unwrap().push((peer, request.clone()));
        let Some((view, manner)) = self.0.peers.lock().unwrap().get(&peer).cloned() else {
            return async { Err(AskError::Unreachable("it has left".into())) }.boxed();
        };
        let guard = UnderWay::new(self.0.clone());
        async move {
            let _guard = guard;
            let honest = answer(&view, request.encode(false)).collect().unwrap();
            manner(&request, honest).await
        }
        .boxed()
    }
}

struct UnderWay(Arc<Inner>);

impl UnderWay {
    fn new(net: Arc<Inner>) -> Self {
        net.under_way.send_modify(|count| *count += 1);
        Self(net)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

/// Answers, whatever it is asked.
pub(crate) fn honest() -> Manner {
    Arc::new(|_, reply| async { Ok(reply) }.boxed())
}

/// Answers what is not of this kind.
pub(crate) fn silent_on(is_of_kind: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Manner {
    Arc::new(move |request, reply| match is_of_kind(request) {
        true => futures::future::pending().boxed(),
        false => async { Ok(reply) }.boxed(),
    })
}

/// Answers, but what is of this kind by *busy*.
pub(crate) fn busy_with(is_of_kind: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Manner {
    Arc::new(move |request, reply| {
        let reply = if is_of_kind(request) { busy(Micros(1_000_000)) } else { reply };
        async { Ok(reply) }.boxed()
    })
}

/// Answers, but cannot be reached while it is away.
pub(crate) fn comes_and_goes(is_away: watch::Receiver<bool>) -> Manner {
    Arc::new(move |_, reply| {
        let reply = match *is_away.borrow() {
            true => Err(AskError::Unreachable("it is away".into())),
            false => Ok(reply),
        };
        async { reply }.boxed()
    })
}

/// Answers once the gate is open; before that it is silent.
pub(crate) fn silent_until(gate: watch::Receiver<bool>) -> Manner {
    Arc::new(move |_, reply| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.map_err(|error| AskError::Broken(error.into()))?;
            Ok(reply)
        }
        .boxed()
    })
}

/// Answers so many requests for contents. Every other one breaks, once the gate is open.
pub(crate) fn dies_after(count: usize, gate: watch::Receiver<bool>) -> Manner {
    let left = Mutex::new(count);
    Arc::new(move |request, reply| {
        let mut left = left.lock().unwrap();
        let dies = is_for_contents(request) && *left == 0;
        *left = left.saturating_sub(usize::from(is_for_contents(request)));
        let mut gate = gate.clone();
        async move {
            if !dies {
                return Ok(reply);
            }
            gate.wait_for(|open| *open).await.map_err(|error| AskError::Broken(error.into()))?;
            Err(AskError::Broken("it has died".into()))
        }
        .boxed()
    })
}

/// A gate that nobody closes.
pub(crate) fn open_gate() -> watch::Receiver<bool> {
    watch::channel(true).1
}

/// Answers requests for contents only once told to.
pub(crate) fn waits_with_contents(gate: watch::Receiver<bool>) -> Manner {
    Arc::new(move |request, reply| {
        let (mut gate, is_free) = (gate.clone(), !is_for_contents(request));
        async move {
            if !is_free {
                gate.wait_for(|open| *open).await.map_err(|error| AskError::Broken(error.into()))?;
            }
            Ok(reply)
        }
        .boxed()
    })
}

/// Gives contents whose last byte is wrong.
pub(crate) fn spoils_contents() -> Manner {
    Arc::new(|request, reply| {
        let mut reply = BytesMut::from(&reply[..]);
        if is_for_contents(request) {
            *reply.last_mut().unwrap() ^= 1;
        }
        async { Ok(reply.freeze()) }.boxed()
    })
}

pub(crate) fn is_for_claims(request: &Request) -> bool {
    matches!(request, Request::Path(_))
}

pub(crate) fn is_for_closure(request: &Request) -> bool {
    matches!(request, Request::Closure { .. })
}

pub(crate) fn is_for_contents(request: &Request) -> bool {
    matches!(request, Request::Batch(_) | Request::Ranges { .. })
}
