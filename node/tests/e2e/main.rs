//! End to end: the real `firn` and the real Nix on hosts that are network namespaces.
//!
//! A [`lan::Lan`] is a switch in a namespace of its own; a [`host::Host`] is a namespace with one address on it, its
//! own home and its own `/nix`. Tests may run side by side: they share no name, no address and no directory.
//! It takes root, `ip`, `setpriv`, `curl`, `python3` and Debian's `nix-bin`, all of which scripts/test.sh installs.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(unreachable_pub)] // A test binary has no outside: `pub` says what its modules offer each other.

mod firn;
mod harness;
mod host;
mod lan;
mod mishaps;
mod nix;
mod process;
mod stories;
mod swarm;
mod tree;
