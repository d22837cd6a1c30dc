//! Worlds made by chance.

use firn_simnet::swarm::{SwarmPlan, run_swarm, shrink};
use firn_simnet::{Scenario, run};

/// Runs a tenth of the fixed set, so that the tests run beside each other.
fn fixed_set(tenth: u64) {
    for seed in tenth * 40..(tenth + 1) * 40 {
        let report = run(&Scenario::from_seed(seed), false);
        let violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "cargo run -p firn-simnet -- --seed {seed} --trace: {violations:#?}");
    }
}

macro_rules! tenths {
    ($($name:ident $tenth:literal),*) => {
        $(#[test]
        fn $name() {
            fixed_set($tenth);
        })*
    };
}

tenths!(
    from_0 0, from_40 1, from_80 2, from_120 3, from_160 4,
    from_200 5, from_240 6, from_280 7, from_320 8, from_360 9
);

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..40 {
        let scenario = Scenario::from_seed(seed);
        let (first, second) = (run(&scenario, true), run(&scenario, true));
        assert_eq!(first.trace, second.trace);
        assert!(!first.trace.is_empty());
    }
}

#[test]
fn the_fixed_set_meets_all_that_can_happen() {
    let reports: Vec<_> = (0..400).map(|seed| run(&Scenario::from_seed(seed), false)).collect();
    let blamed: usize = reports.iter().map(|report| report.blamed.len()).sum();
    let rejected: usize = reports.iter().map(|report| report.rejected.len()).sum();
    let most = reports.iter().map(|report| report.in_flight_most).max();
    assert!(blamed > 100 && rejected > 40 && most > Some(8), "{blamed} {rejected} {most:?}");
}

/// Runs a quarter of the fixed set of swarms.
fn fixed_swarms(quarter: u64) {
    for seed in quarter * 40..(quarter + 1) * 40 {
        let plan = SwarmPlan::from_seed(seed);
        let violations = run_swarm(&plan, false).violations;
        let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
        let replay = format!("cargo run -p firn-simnet -- swarm --seed {seed} --trace");
        assert!(violations.is_empty(), "{replay}: {violations:#?}");
    }
}

macro_rules! quarters {
    ($($name:ident $quarter:literal),*) => {
        $(#[test]
        fn $name() {
            fixed_swarms($quarter);
        })*
    };
}

quarters!(swarms_from_0 0, swarms_from_40 1, swarms_from_80 2, swarms_from_120 3);

#[test]
fn the_same_seed_gives_the_same_swarm() {
    for seed in 0..12 {
        let plan = SwarmPlan::from_seed(seed);
        let (first, second) = (run_swarm(&plan, true), run_swarm(&plan, true));
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
        assert!(!first.trace.is_empty());
    }
}

#[test]
fn a_swarm_that_fails_is_made_small() {
    let sabotage = Some(firn_simnet::swarm::SwarmSabotage::CorruptsLinks);
    let plan = SwarmPlan { sabotage, ..SwarmPlan::from_seed(1) };
    assert!(plan.nodes.len() > 4);
    let (smallest, _, _) = shrink(&plan).unwrap();
    assert_eq!((smallest.nodes.len(), smallest.faults.len()), (2, 0), "{smallest:#?}");
}
