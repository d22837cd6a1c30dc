//! The command line: what is run, and what is told of it.

pub(crate) mod disks;
pub(crate) mod seeds;
pub(crate) mod swarms;
pub(crate) mod totals;
pub(crate) mod worlds;
