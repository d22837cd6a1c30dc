//! NAR layouts of random trees, and all of Nix's formats against the Nix that is installed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod layout;
mod nix;
mod stock_nix;
mod tree;
