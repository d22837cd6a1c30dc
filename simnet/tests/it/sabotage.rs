//! The checkers themselves are checked: each world here is broken on purpose, and they must notice.

use firn_exchange::Limits;
use firn_simnet::liar::LieKind;
use firn_simnet::{Aim, Role, Sabotage, Scenario, TreePlan, Violation, Vouching, run};

fn violations(sabotage: Sabotage, scenario: Scenario) -> Vec<Violation> {
    assert!(run(&scenario, false).violations.is_empty(), "without sabotage all is well");
    run(&Scenario { sabotage: Some(sabotage), ..scenario }, false).violations
}

fn assert_noticed(violations: &[Violation], is_it: impl Fn(&Violation) -> bool) {
    assert!(violations.iter().any(is_it), "{violations:#?}");
}

fn quiet(first: Role, vouching: Vouching) -> Scenario {
    Scenario::duel(first, Aim::Path, vouching)
}

#[test]
fn bytes_that_change_before_they_are_kept() {
    let found = violations(Sabotage::KeepsOtherBytes, quiet(Role::Holder, Vouching::Attested));
    assert_noticed(&found, |violation| matches!(violation, Violation::FalseBytes(_)));
}

#[test]
fn bytes_of_a_false_tree_that_change_before_they_are_kept() {
    // No store of the world holds that tree's blobs, so that their digests alone can tell.
    let found =
        violations(Sabotage::KeepsOtherBytes, quiet(Role::Liar(LieKind::FalseRoot), Vouching::Signed));
    assert_noticed(&found, |violation| matches!(violation, Violation::FalseBytes(_)));
}

#[test]
fn an_honest_peer_that_is_blamed() {
    let found = violations(Sabotage::CorruptsLinks, quiet(Role::Holder, Vouching::Attested));
    assert_noticed(&found, |violation| matches!(violation, Violation::HonestBlamed(..)));
    let found = violations(Sabotage::CorruptsLinks, quiet(Role::Relayer, Vouching::Signed));
    assert_noticed(&found, |violation| matches!(violation, Violation::HonestBlamed(..)));
}

#[test]
fn a_liar_that_is_blamed_for_what_it_does_not_do() {
    let scenario = quiet(Role::Liar(LieKind::FalseRoot), Vouching::Signed);
    let found = violations(Sabotage::CorruptsLinks, scenario);
    assert_noticed(&found, |violation| {
        matches!(violation, Violation::BlamedForAnother(LieKind::FalseRoot, _))
    });
}

#[test]
fn a_store_that_forgets() {
    for aim in [Aim::Path, Aim::Tree] {
        let scenario = Scenario::duel(Role::Holder, aim, Vouching::Attested);
        let found = violations(Sabotage::ForgetsBlobs, scenario);
        assert_noticed(&found, |violation| matches!(violation, Violation::NotWhole(_)));
    }
}

#[test]
fn a_fetch_that_does_not_succeed_though_it_must() {
    let found = violations(Sabotage::IgnoresAnswers, quiet(Role::Holder, Vouching::Attested));
    assert_noticed(&found, |violation| matches!(violation, Violation::Unsuccessful(_)));
    // And one that never ends.
    let patient = Limits { failures_max: u32::MAX, ..Limits::default() };
    let scenario = Scenario { limits: patient, ..quiet(Role::Holder, Vouching::Attested) };
    let found = violations(Sabotage::IgnoresAnswers, scenario);
    assert_noticed(&found, |violation| matches!(violation, Violation::Endless));
}

#[test]
fn a_consumer_that_trusts_a_key_of_nobodys() {
    let found = violations(Sabotage::TrustsAnybody, quiet(Role::Relayer, Vouching::Signed));
    assert_noticed(&found, |violation| matches!(violation, Violation::FalseRoot(_)));
    let scenario = Scenario::duel(Role::Relayer, Aim::Claims, Vouching::Signed);
    let found = violations(Sabotage::TrustsAnybody, scenario);
    assert_noticed(&found, |violation| matches!(violation, Violation::FalseFacts(_)));
}

#[test]
fn more_requests_than_there_may_be() {
    let few = Limits { in_flight_max: 1, in_flight_peer_max: 1, ..Limits::default() };
    let scenario = Scenario { limits: few, tree: TreePlan::Large, ..quiet(Role::Holder, Vouching::Attested) };
    let found = violations(Sabotage::AsksForTooMuch, scenario);
    assert_noticed(&found, |violation| matches!(violation, Violation::TooManyInFlight(_)));
    assert_noticed(&found, |violation| matches!(violation, Violation::TooManyOfPeer(..)));
}
