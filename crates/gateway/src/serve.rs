//! Connections.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Gateway;
use crate::connections::{Activity, CONNECTIONS_MAX, Client, Connections, UnderWay};
use crate::stall::Unstalled;

/// The longest head of a request, URL included, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// How long a connection may take to send the head of its next request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long responses may go on once the gateway is to end; then they are broken off.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait where no connection can be accepted: none can be closed for it, or file descriptors are wanting.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Gateway {
    /// Serves until `shutdown` is ready; has ended, connections and all, within [`SHUTDOWN_TIMEOUT`] of that.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let write_timeout = self.config.write_timeout;
        let mut connections = Connections::new(self.config.connections_max.min(CONNECTIONS_MAX));
        let router = self.router();
        let ending = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        // One that has come when nobody could give way any more: it is the next to be let in.
        let mut waiting: Option<(TcpStream, Client)> = None;
        loop {
            if let Some((stream, client)) = waiting.take_if(|(_, client)| connections.make_room(*client)) {
                let activity = Activity::new();
                let stream = Unstalled::new(stream, write_timeout, activity.clone());
                let served = attend(stream, router.clone(), activity.clone(), ending.clone());
                connections.insert(client, activity, tasks.spawn(served));
            }
            let has_room = waiting.is_none() && connections.has_room();
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = tasks.join_next_with_id() => {
                    connections.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                () = tokio::time::sleep(ACCEPT_PAUSE), if !has_room => {}
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, address)) => {
                        let client = Client::at(address.ip());
                        match connections.is_past_share(client) && !connections.make_room(client) {
                            true => tracing::debug!(%address, "a connection is one too many of its client"),
                            false => waiting = Some((stream, client)),
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        connections.close_one(|_| true);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        ending.cancel();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::info!(count = tasks.len(), "connections are broken off");
            tasks.shutdown().await;
        }
    }
}

/// The body of an answer, which is under way as long as there is some of it.
struct Tracked {
    body: axum::body::Body,
    _under_way: UnderWay,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Answers what comes over one connection.
async fn attend(stream: Unstalled<TcpStream>, router: Router, activity: Activity, ending: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let (under_way, answer) = (activity.begin(), router.call(request));
        async move { Ok::<_, Infallible>(answer.await?.map(|body| Tracked { body, _under_way: under_way })) }
    });
    // A response goes out at once; where that cannot be had, it goes out a little later.
    let _ = stream.get_ref().set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection has broken");
    }
}
