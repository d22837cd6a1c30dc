//! Swarms: nodes that fetch from each other while others come, go and lie.
//!
//! One seed makes a [`SwarmPlan`]: trees, nodes with what each has and wants, and a list of [`Fault`]s. [`run_swarm`]
//! gives each node a store, a view of what it shares and the production machine, and lets bytes flow between them as a
//! fluid that the links of both ends share fairly. A fetching node gives what it has verified so far.
//!
//! Deliberately absent: packets, but that what is no longer than one does not wait for the rest. What a congestion control
//! does within a round trip is not the machine's concern.

mod bound;
mod carry;
mod chance;
mod draw;
mod errand;
mod fluid;
mod ground;
mod life;
mod node;
mod plan;
mod report;
mod run;
mod shrink;
mod wire;

pub use draw::draw;
pub use errand::Tally;
pub use plan::{
    Fault, FaultKind, Holding, Nature, NodePlan, Number, Part, Published, Quirks, SwarmPlan, SwarmSabotage,
    Want,
};
pub use report::{Curve, FetchReport, Mark, MarkKind, NodeReport, SwarmReport, SwarmViolation};
pub use run::run_swarm;
pub use shrink::shrink;
