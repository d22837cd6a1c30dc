//! What a node can be asked to do, wherever it runs.

mod add;
mod adopt;
mod collect;
mod get;
mod givers;
mod ops;
mod pins;
mod repair;
mod size;
mod stats;
mod subject;
mod verify;

use firn_proto::control::{
    AddReply, AddRequest, AdoptReply, AdoptRequest, CollectReply, CollectRequest, GetReply, GetRequest,
    PinReply, PinRequest, PinsReply, Progress, StatsReply, StatusReply, UnpinReply, UnpinRequest,
    VerifyReply, VerifyRequest,
};
use tokio::sync::watch;

pub use adopt::Adopting;
pub(crate) use adopt::is_store_dir;
pub use ops::Ops;

use crate::failure::Failure;

/// Where a long operation writes how far it has come. Only the latest state counts; nobody needs to read it.
pub type Report = watch::Sender<Progress>;

/// The requests of `control.proto`.
///
/// A command calls this without knowing who answers: the node over the control socket
/// ([`ControlClient`](crate::control::ControlClient)), or this process with the store opened for the one command
/// ([`Ops`], as in the node itself). The control socket's server calls it too. Dropping the future of an operation cancels it.
#[tonic::async_trait]
pub trait Operations: Send + Sync {
    /// What the node is and has done.
    async fn status(&self) -> Result<StatusReply, Failure>;

    /// Takes a tree or a path of the Nix store into the store.
    async fn add(&self, request: AddRequest, report: Report) -> Result<AddReply, Failure>;

    /// Gets a tree or a path, from peers where it is not here, and writes it out where that is asked for.
    async fn get(&self, request: GetRequest, report: Report) -> Result<GetReply, Failure>;

    /// Reads what the store holds and checks every byte; gets again what is damaged where that is asked for.
    async fn verify(&self, request: VerifyRequest, report: Report) -> Result<VerifyReply, Failure>;

    /// Adopts the Nix store, or paths of it, where they are.
    async fn adopt(&self, request: AdoptRequest, report: Report) -> Result<AdoptReply, Failure>;

    /// Evicts what is over the limit, and deletes what nothing needs.
    async fn collect(&self, request: CollectRequest, report: Report) -> Result<CollectReply, Failure>;

    /// What the store holds, and what that takes.
    async fn stats(&self) -> Result<StatsReply, Failure>;

    /// Keeps something though room is wanted.
    async fn pin(&self, request: PinRequest) -> Result<PinReply, Failure>;

    /// Lets something go when room is wanted.
    async fn unpin(&self, request: UnpinRequest) -> Result<UnpinReply, Failure>;

    /// All pins.
    async fn pins(&self) -> Result<PinsReply, Failure>;
}
