//! What is answered to whom, what a reply can prove, and what the machine makes of it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod altered;
mod fetch;
mod replies;
mod squeezed;
mod view;
mod world;
