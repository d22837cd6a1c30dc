//! The endpoint for as long as the node runs: where iroh fails, it is opened anew.
//!
//! A panic in one of iroh's tasks ends that task alone, but leaves an endpoint that connects to nobody and takes nobody in.
//! It is looked for by asking the endpoint for the address of a peer that does not exist, which takes no packet.

use std::{mem::ManuallyDrop, net::SocketAddr, sync::Arc, time::Duration};

use iroh::{
    Endpoint, EndpointAddr, SecretKey,
    endpoint::{ConnectError, ConnectWithOptsError},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Binding, bind};
use crate::{error::NetError, transfer::ALPN};

/// How often the endpoint is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// An endpoint that answers nothing for so long has failed; on a busy machine it may take seconds.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an endpoint that has failed may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait before the endpoint is opened again, at first and at most. Its ports are not free at once.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An endpoint that has worked for so long did not fail because it was opened.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// An endpoint that is replaced by a new one, with the same key and the same ports, where it has failed.
pub(crate) struct KeptEndpoint {
    binding: Binding,
    /// `None` while one that has failed is being replaced: its sockets are free once nobody holds it any more.
    current: watch::Sender<Option<Endpoint>>,
}

impl KeptEndpoint {
    /// Binds it for the first time.
    pub(crate) async fn open(mut binding: Binding) -> Result<Arc<Self>, NetError> {
        let endpoint = bind(&binding).await?;
        binding.addresses = endpoint.bound_sockets();
        Ok(Arc::new(Self { binding, current: watch::Sender::new(Some(endpoint)) }))
    }

    /// The endpoint as it is now, if there is one.
    pub(crate) fn get(&self) -> Option<Endpoint> {
        self.current.borrow().clone()
    }

    /// The endpoint as soon as there is one.
    pub(crate) async fn opened(&self) -> Endpoint {
        let mut current = self.current.subscribe();
        let endpoint = current.wait_for(Option::is_some).await.expect("the sender is in self");
        endpoint.clone().expect("it was waited for")
    }

    /// Where it is bound, also while it is being replaced.
    pub(crate) fn bound(&self) -> &[SocketAddr] {
        &self.binding.addresses
    }

    /// Is told each time that the endpoint has failed, and each time that it was replaced.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Endpoint>> {
        self.current.subscribe()
    }

    /// Says goodbye to all peers, for so long. Whoever is gone does not answer: iroh waits 3 s for that, in the background.
    pub(crate) async fn close(&self, patience: Duration) {
        let Some(endpoint) = self.get() else { return };
        let closing = tokio::spawn(async move {
            // Where the process ends first it is leaked: iroh takes one that is dropped unclosed for an error.
            let endpoint = ManuallyDrop::new(endpoint);
            endpoint.close().await;
            drop(ManuallyDrop::into_inner(endpoint));
        });
        if timeout(patience, closing).await.is_err() {
            tracing::debug!("some iroh connections were not closed in time");
        }
    }

    /// Replaces the endpoint each time it fails, until the node stops.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = PAUSE_MIN;
        loop {
            let opened_at = Instant::now();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.failed() => {}
            }
            if stop.is_cancelled() {
                return;
            }
            tracing::error!("the QUIC endpoint has failed and is opened anew; its connections are lost");
            if opened_at.elapsed() > SOUND_AFTER {
                pause = PAUSE_MIN;
            }
            self.close(CLOSE_TIMEOUT).await;
            self.current.send_replace(None);
            let opened = self.open_again(&mut pause);
            let Some(endpoint) = stop.run_until_cancelled(opened).await else { return };
            tracing::warn!(addresses = ?endpoint.bound_sockets(), "the QUIC endpoint works again");
            self.current.send_replace(Some(endpoint));
        }
    }

    async fn open_again(&self, pause: &mut Duration) -> Endpoint {
        loop {
            sleep(*pause).await;
            *pause = (*pause * 2).min(PAUSE_MAX);
            match bind(&self.binding).await {
                Ok(endpoint) => return endpoint,
                Err(error) => tracing::warn!(%error, "the QUIC endpoint cannot be opened yet"),
            }
        }
    }

    /// Ends when the endpoint has failed.
    async fn failed(&self) {
        let endpoint = self.opened().await;
        loop {
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = endpoint.closed() => return,
            }
            if !timeout(LOOK_TIMEOUT, works(&endpoint)).await.unwrap_or(false) {
                return;
            }
        }
    }
}

/// Whether the endpoint's own tasks still answer. They find no address of a peer that nobody has named.
async fn works(endpoint: &Endpoint) -> bool {
    let nobody = EndpointAddr::new(SecretKey::from_bytes(&[0; 32]).public());
    !matches!(
        endpoint.connect(nobody, ALPN).await,
        Err(ConnectError::Connect {
            source: ConnectWithOptsError::InternalConsistencyError { .. }
                | ConnectWithOptsError::EndpointClosed { .. },
            ..
        })
    )
}
