//! What a node can be asked to do, wherever it runs.

mod add;
mod get;
mod ops;
mod size;
mod subject;
mod verify;

use firn_proto::control::{
    AddReply, AddRequest, GetReply, GetRequest, Progress, StatusReply, VerifyReply, VerifyRequest,
};
use tokio::sync::watch;

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

    /// Reads what the store holds and checks every byte.
    async fn verify(&self, request: VerifyRequest, report: Report) -> Result<VerifyReply, Failure>;
}
