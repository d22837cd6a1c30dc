//! Whole worlds: many by chance, some by name, and some that are broken on purpose.
#![allow(clippy::unwrap_used, clippy::panic)]

mod disk;
mod lies;
mod sabotage;
mod seeds;
mod swarm;
