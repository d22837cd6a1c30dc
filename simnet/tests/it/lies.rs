//! Each kind of lie alone, told by the peer that is asked first, and what must come of it.

use firn_castore::ClosureError;
use firn_exchange::{Lie, Micros, Outcome, Rejection, RootFault};
use firn_simnet::liar::LieKind;
use firn_simnet::{Aim, Expectation, Report, Role, Scenario, TreePlan, Vouching, run};
use firn_trust::{Ground, NarMismatch};

/// The liar, or the peer in its place, is the first; the honest holder is the second.
fn duel(role: Role, aim: Aim, vouching: Vouching) -> Report {
    checked(&Scenario::duel(role, aim, vouching))
}

fn checked(scenario: &Scenario) -> Report {
    let report = run(scenario, true);
    assert!(report.violations.is_empty(), "{:#?} {:#?}", report.violations, report.trace);
    report
}

fn assert_ground(report: &Report, ground: Ground) {
    let Some(Outcome::Path(path, _)) = &report.outcome else { panic!("{report:#?}") };
    assert_eq!(path.ground(), ground);
}

/// The lie for which the liar, and nobody else, was blamed.
fn blamed(report: &Report) -> &Lie {
    let [(peer, lie)] = &report.blamed[..] else { panic!("{report:#?}") };
    assert_eq!(*peer, report.peers[0]);
    assert!(report.rejected.is_empty());
    lie
}

/// Why the root that the liar named, and no other, was rejected; nobody was blamed.
fn rejected(report: &Report) -> &Rejection {
    let [(_, claimants, reason)] = &report.rejected[..] else { panic!("{report:#?}") };
    assert_eq!(claimants[..], report.peers[..1]);
    assert!(report.blamed.is_empty());
    reason
}

fn assert_harmless(report: &Report) {
    assert!(report.blamed.is_empty() && report.rejected.is_empty(), "{report:#?}");
}

/// Blamed whatever is wanted, and whatever is signed.
fn always_blamed(kind: LieKind, is_right: impl Fn(&Lie) -> bool) {
    for aim in [Aim::Path, Aim::Tree] {
        for vouching in [Vouching::Attested, Vouching::Signed] {
            let report = duel(Role::Liar(kind), aim, vouching);
            assert!(is_right(blamed(&report)), "{report:#?}");
        }
    }
}

#[test]
fn wrong_byte() {
    always_blamed(LieKind::WrongByte, |lie| matches!(lie, Lie::Blob { .. }));
}

#[test]
fn wrong_directory() {
    always_blamed(LieKind::WrongDirectory, |lie| matches!(lie, Lie::Directory(_)));
}

#[test]
fn wrong_length_header() {
    always_blamed(LieKind::WrongLengthHeader, |lie| matches!(lie, Lie::Blob { .. }));
}

#[test]
fn truncate() {
    always_blamed(LieKind::Truncate, |lie| matches!(lie, Lie::Garbage(_)));
}

#[test]
fn too_much() {
    always_blamed(LieKind::TooMuch, |lie| *lie == Lie::TooMuch);
}

#[test]
fn garbage() {
    always_blamed(LieKind::Garbage, |lie| matches!(lie, Lie::Garbage(_)));
}

#[test]
fn false_root() {
    let report = duel(Role::Liar(LieKind::FalseRoot), Aim::Path, Vouching::Signed);
    assert!(matches!(rejected(&report), Rejection::Nar(NarMismatch::Hash { .. })));
    assert_ground(&report, Ground::NarMatch);
    // Beside an attested root it is not even tried if both are known, and yields to it if not.
    let report = duel(Role::Liar(LieKind::FalseRoot), Aim::Path, Vouching::Attested);
    assert!(matches!(rejected(&report), Rejection::Nar(NarMismatch::Hash { .. })));
    assert_ground(&report, Ground::Attested);
    assert_harmless(&duel(Role::Liar(LieKind::FalseRoot), Aim::Tree, Vouching::Signed));
}

#[test]
fn wrong_length_directory() {
    // Blobs that go inline, and blobs that come in spans.
    for seed in 0..8 {
        let role = Role::Liar(LieKind::WrongLengthDirectory);
        let report = checked(&Scenario { seed, ..Scenario::duel(role, Aim::Path, Vouching::Signed) });
        let reason = rejected(&report);
        let Rejection::Fault(RootFault::BlobSize { blob, actual }) = reason else { panic!("{reason}") };
        assert_eq!(blob.size, actual + 1);
        assert_ground(&report, Ground::NarMatch);
    }
    assert_harmless(&duel(Role::Liar(LieKind::WrongLengthDirectory), Aim::Tree, Vouching::Signed));
}

#[test]
fn entries_bomb() {
    let report = duel(Role::Liar(LieKind::EntriesBomb), Aim::Path, Vouching::Signed);
    let reason = rejected(&report);
    let too_many = matches!(
        reason,
        Rejection::Fault(RootFault::Closure(ClosureError::TooManyEntries(entries))) if *entries >= 1 << 60
    );
    assert!(too_many, "{reason}");
    assert_ground(&report, Ground::NarMatch);
    assert_harmless(&duel(Role::Liar(LieKind::EntriesBomb), Aim::Tree, Vouching::Signed));
}

#[test]
fn false_signatures_speak_for_nothing_and_nobody_is_blamed() {
    for aim in [Aim::Path, Aim::Tree, Aim::Claims] {
        for vouching in [Vouching::Attested, Vouching::Signed] {
            assert_harmless(&duel(Role::Liar(LieKind::FalseSignature), aim, vouching));
        }
    }
}

#[test]
fn an_altered_ca_is_not_what_was_attested_and_nobody_is_blamed() {
    let report = duel(Role::Liar(LieKind::AlteredCa), Aim::Path, Vouching::Attested);
    assert_harmless(&report);
    // The Nix signature beside the attestation holds.
    assert_ground(&report, Ground::NarMatch);
}

#[test]
fn who_relays_what_others_have_signed_falsely_is_not_blamed() {
    for vouching in [Vouching::Attested, Vouching::Signed] {
        for aim in [Aim::Path, Aim::Tree, Aim::Claims] {
            for role in [Role::Tainted, Role::Outdated] {
                assert_harmless(&duel(role, aim, vouching));
            }
        }
        // With nobody else there, one true signature among false ones is enough.
        let mut alone = Scenario::duel(Role::Tainted, Aim::Path, vouching);
        alone.peers.pop();
        let report = checked(&alone);
        let Some(Outcome::Path(path, _)) = &report.outcome else { panic!("{report:#?}") };
        let ground = match vouching {
            Vouching::Attested => Ground::Attested,
            Vouching::Signed => Ground::NarMatch,
        };
        assert_eq!((path.ground(), path.signatures().len()), (ground, 1));
        // What only a replaced key has signed is not believed, and that is all.
        alone.peers[0].role = Role::Outdated;
        alone.expects = Expectation::End;
        let report = checked(&alone);
        assert_harmless(&report);
        assert!(matches!(report.outcome, Some(Outcome::Untrusted)), "{report:#?}");
    }
}

#[test]
fn altered_ca_under_a_nix_signature_alone_is_dropped() {
    for has_ca in [false, true] {
        let role = Role::Liar(LieKind::AlteredCa);
        let report = checked(&Scenario { has_ca, ..Scenario::duel(role, Aim::Path, Vouching::Signed) });
        assert_harmless(&report);
        let Some(Outcome::Path(path, _)) = &report.outcome else { panic!("{report:#?}") };
        assert_eq!(path.facts().ca, None);
    }
}

#[test]
fn a_true_ca_under_a_nix_signature_stays_for_it_makes_the_path() {
    let duel = Scenario::duel(Role::Holder, Aim::Path, Vouching::Signed);
    let report = checked(&Scenario { has_ca: true, ..duel });
    let Some(Outcome::Path(path, _)) = &report.outcome else { panic!("{report:#?}") };
    assert!(path.facts().ca.is_some());
    assert_eq!(path.facts().deriver, None);
}

#[test]
fn who_stalls_dribbles_or_hangs_up_only_takes_time() {
    for kind in [LieKind::Stall, LieKind::Dribble, LieKind::HangUp] {
        for aim in [Aim::Path, Aim::Tree, Aim::Claims] {
            for seed in 0..3 {
                let slow = Scenario::duel(Role::Liar(kind), aim, Vouching::Attested);
                assert_harmless(&checked(&Scenario { seed, ..slow }));
            }
        }
    }
}

#[test]
fn a_proof_of_other_bytes() {
    always_blamed(LieKind::OtherBytes, |lie| matches!(lie, Lie::Blob { .. }));
}

#[test]
fn more_than_was_asked_for() {
    always_blamed(LieKind::MoreThanAsked, |lie| matches!(lie, Lie::Directory(_)));
}

#[test]
fn everything_twice() {
    always_blamed(LieKind::Twice, |lie| {
        matches!(lie, Lie::EmptyClaim | Lie::Garbage(_) | Lie::NotAsked | Lie::Directory(_))
    });
}

#[test]
fn a_body_that_expands_without_end() {
    always_blamed(LieKind::ZstdBomb, |lie| matches!(lie, Lie::TooMuch | Lie::Blob { .. }));
}

#[test]
fn sizes_that_claim_each_other() {
    let report = duel(Role::Liar(LieKind::FalseSizes), Aim::Path, Vouching::Signed);
    let reason = rejected(&report);
    assert!(matches!(reason, Rejection::Fault(RootFault::Closure(_))), "{reason}");
    assert_ground(&report, Ground::NarMatch);
    assert_harmless(&duel(Role::Liar(LieKind::FalseSizes), Aim::Tree, Vouching::Signed));
}

#[test]
fn a_file_of_two_to_the_sixty_third_bytes() {
    let report = duel(Role::Liar(LieKind::HugeFile), Aim::Path, Vouching::Signed);
    let reason = rejected(&report);
    assert!(matches!(reason, Rejection::Fault(RootFault::BlobTooLong(_))), "{reason}");
    assert_ground(&report, Ground::NarMatch);
}

#[test]
fn who_relays_a_false_root_in_good_faith_is_not_blamed() {
    let report = duel(Role::Relayer, Aim::Path, Vouching::Signed);
    assert!(matches!(rejected(&report), Rejection::Nar(NarMismatch::Hash { .. })));
    assert_ground(&report, Ground::NarMatch);
}

#[test]
fn a_second_attested_root_is_no_lie() {
    let report = duel(Role::Other, Aim::Path, Vouching::Attested);
    assert_harmless(&report);
    assert_ground(&report, Ground::Attested);
}

#[test]
fn two_that_each_have_a_damaged_blob_have_all_together() {
    let mut scenario = Scenario::duel(Role::Damaged, Aim::Path, Vouching::Attested);
    scenario.peers[1].role = Role::Damaged;
    assert_harmless(&checked(&scenario));
}

#[test]
fn a_link_that_breaks_once_costs_no_peer() {
    let mut scenario = Scenario::duel(Role::Holder, Aim::Path, Vouching::Attested);
    scenario.peers.pop();
    scenario.tree = TreePlan::Large;
    scenario.limits.failures_max = 2;
    let link = &mut scenario.peers[0].link;
    link.bytes_per_second = Some(4_000_000);
    link.outages = vec![(Micros::from_millis(300), Micros::from_millis(350))];
    let report = checked(&scenario);
    let lost = report.trace.iter().filter(|line| line.contains("(lost")).count();
    assert!(lost > 1, "{:#?}", report.trace);
}

#[test]
fn liars_in_a_crowd_do_not_keep_one_honest_peer_from_delivering() {
    let mut scenario = Scenario::duel(Role::Liar(LieKind::ALL[0]), Aim::Path, Vouching::Signed);
    let liar = scenario.peers[0].clone();
    for kind in &LieKind::ALL[1..] {
        scenario.peers.insert(0, firn_simnet::PeerPlan { role: Role::Liar(*kind), ..liar.clone() });
    }
    let report = checked(&scenario);
    assert_ground(&report, Ground::NarMatch);
    assert!(report.blamed.len() >= 4, "{report:#?}");
}
