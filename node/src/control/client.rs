//! The command's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use firn_proto::control::{
    AddReply, AddRequest, AdoptReply, AdoptRequest, CollectReply, CollectRequest, GetReply, GetRequest,
    PinReply, PinRequest, PinsReply, PinsRequest, StatsReply, StatsRequest, StatusReply, StatusRequest,
    UnpinReply, UnpinRequest, VerifyReply, VerifyRequest, add_event, adopt_event, collect_event, get_event,
    verify_event,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{MESSAGE_BYTES_MAX, generated::control_client};
use crate::{
    failure::Failure,
    operations::{Operations, Report},
};

/// Why a node that may well run could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket is there but can't be opened, by this user perhaps.
    #[error("can't open the node's control socket {socket}: {source}", socket = socket.display())]
    Socket {
        /// Where.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answers is no firn node.
    #[error("what answers on the control socket {socket} is no firn node: {source}", socket = socket.display())]
    Protocol {
        /// Where.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// The running node, asked over its socket.
#[derive(Debug, Clone)]
pub struct ControlClient {
    stub: control_client::ControlClient<Channel>,
}

/// The stream of events ended before the reply came.
#[derive(Debug, thiserror::Error)]
#[error("the node broke off without a reply")]
struct NoReply;

impl ControlClient {
    /// Connects to the node; `None` if none runs.
    pub async fn connect(socket: &Path) -> Result<Option<Self>, ConnectError> {
        // Tried first without gRPC, whose error does not tell whether anybody listens.
        match UnixStream::connect(socket).await {
            Ok(_) => {}
            Err(error) => match error.kind() {
                // Where its directory is none, opening the store tells so better.
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused => {
                    return Ok(None);
                }
                _ => return Err(ConnectError::Socket { socket: socket.into(), source: error }),
            },
        }
        let path = socket.to_path_buf();
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is not looked up: the connector knows where to go.
        let channel = Endpoint::from_static("http://control.invalid")
            .connect_with_connector(connector)
            .await
            .map_err(|source| ConnectError::Protocol { socket: socket.into(), source })?;
        let stub = control_client::ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Some(Self { stub }))
    }
}

/// Passes progress on until the reply comes.
macro_rules! reply_of {
    ($events:expr, $report:expr, $module:ident) => {{
        let mut events = $events.await?.into_inner();
        loop {
            match events.message().await?.and_then(|message| message.event) {
                Some($module::Event::Progress(progress)) => $report.send_replace(progress),
                Some($module::Event::Reply(reply)) => break Ok(reply),
                None => break Err(Failure::failed(NoReply)),
            };
        }
    }};
}

#[tonic::async_trait]
impl Operations for ControlClient {
    async fn status(&self) -> Result<StatusReply, Failure> {
        Ok(self.stub.clone().status(StatusRequest {}).await?.into_inner())
    }

    async fn add(&self, request: AddRequest, report: Report) -> Result<AddReply, Failure> {
        reply_of!(self.stub.clone().add(request), report, add_event)
    }

    async fn get(&self, request: GetRequest, report: Report) -> Result<GetReply, Failure> {
        reply_of!(self.stub.clone().get(request), report, get_event)
    }

    async fn verify(&self, request: VerifyRequest, report: Report) -> Result<VerifyReply, Failure> {
        reply_of!(self.stub.clone().verify(request), report, verify_event)
    }

    async fn adopt(&self, request: AdoptRequest, report: Report) -> Result<AdoptReply, Failure> {
        reply_of!(self.stub.clone().adopt(request), report, adopt_event)
    }

    async fn collect(&self, request: CollectRequest, report: Report) -> Result<CollectReply, Failure> {
        reply_of!(self.stub.clone().collect(request), report, collect_event)
    }

    async fn stats(&self) -> Result<StatsReply, Failure> {
        Ok(self.stub.clone().stats(StatsRequest {}).await?.into_inner())
    }

    async fn pin(&self, request: PinRequest) -> Result<PinReply, Failure> {
        Ok(self.stub.clone().pin(request).await?.into_inner())
    }

    async fn unpin(&self, request: UnpinRequest) -> Result<UnpinReply, Failure> {
        Ok(self.stub.clone().unpin(request).await?.into_inner())
    }

    async fn pins(&self) -> Result<PinsReply, Failure> {
        Ok(self.stub.clone().pins(PinsRequest {}).await?.into_inner())
    }
}
