//! A deterministic simulation of peers, links and liars, and of a disk.
//!
//! One seed makes a [`Scenario`]: a tree, peers of every [`Role`], links with latency and loss. [`run`] lets the
//! production machine (`Fetch`, `check`, `answer`, `NarHasher`) loose in it on a clock of its own, and a referee that
//! believes none of them watches: nothing false is kept or let out, nobody honest is blamed, and if the honest peers
//! together have all and can be reached, the fetch succeeds though liars go on lying. The same seed gives the same run.
//!
//! [`swarm`] lets many nodes fetch from each other.
//! [`disk`] does the same for the store alone: it runs on a disk that loses, reorders and refuses.
//!
//! [`liar`] stands for itself: real nodes can wrap it too. Deliberately absent: sockets, threads, the wall clock, and
//! everything above floor 5.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod dice;
pub mod disk;
pub mod liar;
mod referee;
mod run;
mod scenario;
pub mod swarm;
mod tree;
mod world;

pub use referee::{Violation, is_documented};
pub use run::{Report, run};
pub use scenario::{Aim, Expectation, Link, PeerPlan, Role, Sabotage, Scenario, Vouching};
pub use tree::TreePlan;
