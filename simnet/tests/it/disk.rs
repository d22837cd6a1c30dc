//! The store on a disk that loses what it may; and that it would be noticed if the disk lost more.

use std::sync::LazyLock;

use firn_simnet::disk::{Breach, Flaw, Pool, run_disk};

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

fn all_is_well(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let report = run_disk(&POOL, seed, None);
        let events = report.events.join("\n");
        assert_eq!(
            report.violation, None,
            "cargo run -p firn-simnet -- disk --seed {seed} --trace: {events}"
        );
    }
}

#[test]
fn seeds_from_0() {
    all_is_well(0..150);
}

#[test]
fn seeds_from_150() {
    all_is_well(150..300);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..40 {
        assert_eq!(run_disk(&POOL, seed, None), run_disk(&POOL, seed, None));
    }
}

#[test]
fn runs_meet_all_that_can_happen() {
    let reports: Vec<_> = (0..300).map(|seed| run_disk(&POOL, seed, None)).collect();
    let sum = |what: fn(&firn_simnet::disk::DiskReport) -> u64| reports.iter().map(what).sum::<u64>();
    assert!(sum(|report| report.commits) > 500);
    assert!(sum(|report| report.crashes) > 300);
    assert!(sum(|report| report.faults) > 300);
    assert!(sum(|report| report.losses) > 5);
    assert!(sum(|report| report.resumed) > 500);
    for event in ["-- killed", "-- the power failed", "closed", "repairs"] {
        let seen = reports.iter().any(|report| report.events.iter().any(|seen| seen == event));
        assert!(seen, "{event}");
    }
}

/// What is noticed of a disk that breaks this promise, within few seeds.
fn noticed(flaw: Flaw) -> Vec<Breach> {
    let reports = (0..60).map(|seed| run_disk(&POOL, seed, Some(flaw)));
    reports.filter_map(|report| report.violation).map(|violation| violation.breach).collect()
}

#[test]
fn a_disk_that_does_not_sync_is_noticed() {
    let breaches = noticed(Flaw::NoDiskSync);
    assert!(breaches.len() > 10, "{breaches:?}");
}

#[test]
fn files_that_do_not_sync_are_noticed() {
    let breaches = noticed(Flaw::NoFileSync);
    assert!(breaches.len() > 10, "{breaches:?}");
}

#[test]
fn reads_of_false_bytes_are_noticed() {
    let breaches = noticed(Flaw::ReadsWrong);
    assert!(breaches.len() > 10, "{breaches:?}");
}
