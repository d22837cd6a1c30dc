//! The peer protocol.
mod ids;
pub use ids::{Key, PeerId, PeerIdError};
