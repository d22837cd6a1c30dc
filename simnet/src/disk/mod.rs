//! The store on a disk that loses what it may, and fails when it likes.
//!
//! [`FakeDisk`] keeps what it has promised and nothing else. [`run_disk`] puts a store on one, works with it, ends its
//! process at any call, and looks after each opening whether the store has kept its own promises. One seed is one run.

mod acts;
mod checks;
mod contents;
mod fake;
mod faults;
mod holdings;
mod keeping;
mod lives;
mod machine;
mod model;
mod names;
mod pool;
mod story;

#[cfg(test)]
mod tests;

pub use fake::FakeDisk;
pub use faults::{Fault, FaultKind, Flaw, Plan};
pub use pool::Pool;
pub use story::{Breach, DiskReport, Violation as DiskViolation, run_disk};
