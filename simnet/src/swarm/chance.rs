//! Plans made by chance.

use firn_exchange::{Limits, Micros};

use super::plan::{Fault, FaultKind, Holding, Nature, NodePlan, Part, Published, Quirks, SwarmPlan, Want};
use crate::dice::Dice;
use crate::liar::LieKind;
use crate::scenario::Vouching;
use crate::tree::TreePlan;

/// Most swarms are small, so that thousands of them can be run.
const NODES_MAX: u64 = 14;
/// And a few are not.
const NODES_MANY: u64 = 40;

impl SwarmPlan {
    /// The plan that this seed makes.
    pub fn from_seed(seed: u64) -> Self {
        let dice = &mut Dice::new(seed ^ 0x0073_7761_726d);
        let trees: Vec<Published> = (0..1 + u64::from(dice.percent(20))).map(|_| published(dice)).collect();
        let weather = Weather::of(dice);
        let heals_at = Micros::from_millis(if weather.is_lossy { dice.between(1_000..30_000) } else { 0 });
        let mut nodes = nodes(trees.len(), weather, dice);
        let faults = if weather.is_stormy { faults(&mut nodes, dice) } else { Vec::new() };
        let mut limits = Limits::default();
        if dice.percent(15) {
            limits.in_flight_max = dice.between(8..32) as usize;
            limits.in_flight_peer_max = dice.between(2..8) as usize;
            limits.bytes_in_flight_max = dice.between(512 << 10..8 << 20);
        }
        Self {
            seed,
            trees,
            nodes,
            faults,
            heals_at,
            limits,
            find_takes: Micros::from_millis(dice.between(1..800)),
            retry_after: Micros::from_millis(dice.between(500..5_000)),
            drivers_give_up: dice.percent(75),
            compresses: dice.percent(15),
            quirks: Quirks { repeats_answers: dice.percent(10), answers_nothing: dice.percent(10) },
            sabotage: None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Weather {
    is_stormy: bool,
    is_lossy: bool,
    has_liars: bool,
    is_late: bool,
}

impl Weather {
    /// A quarter of all swarms is quiet, so that waste has no excuse there.
    fn of(dice: &mut Dice) -> Self {
        if dice.percent(25) {
            let is_late = dice.percent(30);
            return Self { is_stormy: false, is_lossy: false, has_liars: false, is_late };
        }
        Self {
            is_stormy: dice.percent(50),
            is_lossy: dice.percent(30),
            has_liars: dice.percent(60),
            is_late: dice.percent(40),
        }
    }
}

fn published(dice: &mut Dice) -> Published {
    let tree = match dice.between(0..100) {
        0..5 => TreePlan::File,
        5..7 => TreePlan::Symlink,
        7..17 => TreePlan::Many,
        17..45 => TreePlan::Small,
        45..65 => TreePlan::Fixed,
        _ => TreePlan::Large,
    };
    Published { tree, vouching: dice.pick(&[Vouching::Attested, Vouching::Signed]) }
}

fn nodes(trees: usize, weather: Weather, dice: &mut Dice) -> Vec<NodePlan> {
    let most = if dice.percent(4) { NODES_MANY } else { NODES_MAX };
    let count = dice.between(2..most) as u32;
    let mut nodes: Vec<NodePlan> = (0..count).map(|number| node(number, weather, dice)).collect();
    for tree in 0..trees {
        holders(tree, &mut nodes, dice);
    }
    for node in &mut nodes {
        if weather.has_liars && node.holds.is_empty() && dice.percent(30) {
            become_liar(node, trees, dice);
        } else if weather.has_liars && node.holds.is_empty() && dice.percent(8) {
            node.nature = Nature::Ignorant;
        } else {
            wants(node, trees, weather, dice);
        }
    }
    nodes
}

/// What a second brings, in bytes: from a slow line to a fast one.
fn rate(dice: &mut Dice) -> u64 {
    let slowest = dice.pick(&[200_000, 1_000_000, 10_000_000]);
    dice.between(slowest..slowest * 10)
}

fn node(number: u32, weather: Weather, dice: &mut Dice) -> NodePlan {
    let up = rate(dice);
    let (loss_percent, busy_percent) = match weather.is_lossy {
        true => (dice.between(0..40), if dice.percent(30) { dice.between(0..80) } else { 0 }),
        false => (0, 0),
    };
    NodePlan {
        up,
        down: up * dice.between(1..8),
        latency: Micros(dice.between(100..80_000)),
        jitter: Micros(dice.between(0..20_000)),
        loss_percent,
        busy_percent,
        joins_at: Micros::from_millis(if dice.percent(20) { dice.between(0..5_000) } else { 0 }),
        ..NodePlan::new(number)
    }
}

/// One has all of it, or a few have it together.
fn holders(tree: usize, nodes: &mut [NodePlan], dice: &mut Dice) {
    let shares = if dice.percent(20) { dice.between(2..4).min(nodes.len() as u64) as u32 } else { 1 };
    let first = dice.between(0..nodes.len() as u64) as usize;
    for index in 0..shares {
        let part = if shares == 1 { Part::Whole } else { Part::Share { index, of: shares } };
        let place = (first + index as usize) % nodes.len();
        nodes[place].holds.push(Holding { tree, part });
        nodes[place].joins_at = Micros(0);
    }
    if nodes.len() > 3 && dice.percent(40) {
        let place = dice.between(0..nodes.len() as u64) as usize;
        let held = nodes[place].holds.iter().any(|holding| holding.tree == tree);
        if !held {
            nodes[place].holds.push(Holding { tree, part: Part::Whole });
        }
    }
}

fn become_liar(node: &mut NodePlan, trees: usize, dice: &mut Dice) {
    // A few share one lie.
    let seed = if dice.percent(40) { 7 } else { dice.number() };
    node.nature = Nature::Liar(dice.pick(&LieKind::ALL), seed);
    node.holds = (0..trees).map(|tree| Holding { tree, part: Part::Whole }).collect();
}

fn wants(node: &mut NodePlan, trees: usize, weather: Weather, dice: &mut Dice) {
    for tree in 0..trees {
        let is_here = node.holds.iter().any(|holding| holding.tree == tree && holding.part == Part::Whole);
        if is_here || dice.percent(10) {
            continue;
        }
        let at = if weather.is_late { dice.between(0..10_000) } else { dice.between(0..500) };
        node.wants.push(Want { tree, at: Micros::from_millis(at), by_path: dice.percent(50) });
    }
}

fn faults(nodes: &mut [NodePlan], dice: &mut Dice) -> Vec<Fault> {
    let mut faults = Vec::new();
    for node in nodes.iter() {
        if !node.is_honest() || !dice.percent(40) {
            continue;
        }
        // One thing after the other.
        let mut at = node.joins_at.0 / 1000;
        for _ in 0..dice.between(1..4) {
            at += dice.between(50..6_000);
            let lasts = dice.between(20..8_000);
            let what = match dice.between(0..100) {
                0..45 => FaultKind::Crash(Some(Micros::from_millis(lasts))),
                45..90 => FaultKind::Outage(Micros::from_millis(lasts)),
                90..95 => FaultKind::Crash(None),
                _ => FaultKind::Leave,
            };
            let fault = Fault { node: node.number, at: Micros::from_millis(at), what };
            faults.push(fault);
            if fault.heals_at().is_none() {
                break;
            }
            at += lasts + 1;
        }
    }
    faults
}
