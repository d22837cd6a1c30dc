//! The control socket: how a command reaches the node that runs on the same data directory.
//!
//! gRPC over a Unix socket that only the node's own user can open. The messages are those of
//! `proto/firn/control.proto`; the stubs are generated here.

mod client;
mod server;
mod socket;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    tonic::include_proto!("firn.control.v1");
}

pub use client::{ConnectError, ControlClient};
pub use server::ServeError;
pub use socket::{BindError, ControlSocket, SocketPathError, socket_path};

/// The largest message on the socket: the reply to `add --closure` names each path of a closure.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests;
