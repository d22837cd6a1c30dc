//! The wire and store messages of firn, as prost makes them from the `.proto` files beside this crate.
//!
//! There is no logic here and there are no services: what a message means, and which of its bytes are acceptable,
//! is decided by the crate that owns the matching type (`firn-castore` for Directories, `firn-trust` for claims,
//! `firn-exchange` for the peer protocol).

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/firn_proto.rs"));
}

pub use generated::firn::control::v1 as control;
pub use generated::firn::exchange::v0 as exchange;
pub use generated::firn::store::v1 as store;
pub use generated::snix::castore::v1 as castore;
pub use generated::snix::store::v1 as pathinfo;
