//! The node's end of the control socket.

use std::{pin::Pin, sync::Arc, time::Duration};

use firn_proto::control::{
    AddEvent, AddReply, AddRequest, AdoptEvent, AdoptReply, AdoptRequest, CollectEvent, CollectReply,
    CollectRequest, GetEvent, GetReply, GetRequest, PinReply, PinRequest, PinsReply, PinsRequest, Progress,
    StatsReply, StatsRequest, StatusReply, StatusRequest, UnpinReply, UnpinRequest, VerifyEvent, VerifyReply,
    VerifyRequest, add_event, adopt_event, collect_event, get_event, verify_event,
};
use futures::{Stream, future::BoxFuture, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use super::{
    ControlSocket, MESSAGE_BYTES_MAX,
    generated::control_server::{Control, ControlServer},
};
use crate::{
    failure::Failure,
    operations::{Operations, Report},
};

/// The least time between two progress events of a request.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The socket broke.
#[derive(Debug, thiserror::Error)]
#[error("the control socket broke: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

impl ControlSocket {
    /// Answers requests until `shutdown`, then lets open requests end. Dropping the future ends them at once.
    pub async fn serve(
        self,
        operations: Arc<dyn Operations>,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { listener, file } = self;
        let service = ControlServer::new(Service(operations))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
            .await?;
        drop(file);
        Ok(())
    }
}

struct Service(Arc<dyn Operations>);

type EventStream<E> = Pin<Box<dyn Stream<Item = Result<E, Status>> + Send>>;

/// Answers with the events of an operation.
macro_rules! streamed {
    ($service:expr, $operation:ident, $request:expr) => {{
        let operations = $service.0.clone();
        let events = events(move |report| {
            Box::pin(async move { operations.$operation($request.into_inner(), report).await })
        });
        Ok(Response::new(Box::pin(events)))
    }};
}

#[tonic::async_trait]
impl Control for Service {
    type AddStream = EventStream<AddEvent>;
    type GetStream = EventStream<GetEvent>;
    type VerifyStream = EventStream<VerifyEvent>;
    type AdoptStream = EventStream<AdoptEvent>;
    type CollectStream = EventStream<CollectEvent>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.0.status().await?))
    }

    async fn add(&self, request: Request<AddRequest>) -> Result<Response<Self::AddStream>, Status> {
        streamed!(self, add, request)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        streamed!(self, get, request)
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        streamed!(self, verify, request)
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<Self::AdoptStream>, Status> {
        streamed!(self, adopt, request)
    }

    async fn collect(
        &self,
        request: Request<CollectRequest>,
    ) -> Result<Response<Self::CollectStream>, Status> {
        streamed!(self, collect, request)
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        Ok(Response::new(self.0.stats().await?))
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<PinReply>, Status> {
        Ok(Response::new(self.0.pin(request.into_inner()).await?))
    }

    async fn unpin(&self, request: Request<UnpinRequest>) -> Result<Response<UnpinReply>, Status> {
        Ok(Response::new(self.0.unpin(request.into_inner()).await?))
    }

    async fn pins(&self, _: Request<PinsRequest>) -> Result<Response<PinsReply>, Status> {
        Ok(Response::new(self.0.pins().await?))
    }
}

/// An event that is either progress or the reply.
trait Event: Send + 'static {
    type Reply: Send + 'static;

    fn progress(progress: Progress) -> Self;
    fn reply(reply: Self::Reply) -> Self;
}

macro_rules! event {
    ($event:ty, $module:ident, $reply:ty) => {
        impl Event for $event {
            type Reply = $reply;

            fn progress(progress: Progress) -> Self {
                Self { event: Some($module::Event::Progress(progress)) }
            }

            fn reply(reply: $reply) -> Self {
                Self { event: Some($module::Event::Reply(reply)) }
            }
        }
    };
}

event!(AddEvent, add_event, AddReply);
event!(GetEvent, get_event, GetReply);
event!(VerifyEvent, verify_event, VerifyReply);
event!(AdoptEvent, adopt_event, AdoptReply);
event!(CollectEvent, collect_event, CollectReply);

struct Running<R> {
    operation: BoxFuture<'static, Result<R, Failure>>,
    progress: watch::Receiver<Progress>,
    next_progress: Instant,
}

/// Runs an operation within the stream of its events: when the command goes away the stream is dropped, and the
/// operation with it.
fn events<E: Event>(
    start: impl FnOnce(Report) -> BoxFuture<'static, Result<E::Reply, Failure>>,
) -> impl Stream<Item = Result<E, Status>> + Send {
    let (report, progress) = watch::channel(Progress::default());
    let running = Running { operation: start(report), progress, next_progress: Instant::now() };
    stream::unfold(Some(running), |running| async move {
        let mut running = running?;
        let Running { operation, progress, next_progress } = &mut running;
        let changed = async {
            sleep_until(*next_progress).await;
            progress.changed().await
        };
        let event = tokio::select! {
            biased;
            result = operation => match result {
                Ok(reply) => return Some((Ok(E::reply(reply)), None)),
                Err(failure) => return Some((Err(failure.into()), None)),
            },
            Ok(()) = changed => E::progress(running.progress.borrow_and_update().clone()),
        };
        running.next_progress = Instant::now() + PROGRESS_INTERVAL;
        Some((Ok(event), Some(running)))
    })
}
