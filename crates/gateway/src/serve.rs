//! Connections.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Gateway;
use crate::stall::Unstalled;

/// The most connections at once; others wait to be accepted. Nix opens up to 25.
pub const CONNECTIONS_MAX: usize = 256;
/// The longest head of a request, URL included, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// How long a connection may take to send the head of its next request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long responses may go on once the gateway is to end; then they are broken off.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait where no connection can be accepted, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Gateway {
    /// Serves until `shutdown` is ready; has ended, connections and all, within [`SHUTDOWN_TIMEOUT`] of that.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let write_timeout = self.config.write_timeout;
        let router = self.router();
        let ending = CancellationToken::new();
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let stream = Unstalled::new(stream, write_timeout);
                        connections.spawn(attend(stream, router.clone(), ending.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        ending.cancel();
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::info!(count = connections.len(), "connections are broken off");
            connections.shutdown().await;
        }
    }
}

/// Answers what comes over one connection.
async fn attend(stream: Unstalled<TcpStream>, router: Router, ending: CancellationToken) {
    // A response goes out at once; where that cannot be had, it goes out a little later.
    let _ = stream.get_ref().set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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
