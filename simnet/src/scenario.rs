//! What a run is made of, as plain data: who is there, over which links, and what is wanted.

use firn_exchange::{Limits, Micros};

use crate::dice::Dice;
use crate::liar::LieKind;
use crate::tree::TreePlan;

/// What the consumer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The path, whatever its root.
    Path,
    /// The tree of a root that its user knows.
    Tree,
    /// Only what is said of the path.
    Claims,
}

/// What the publisher's key, which the consumer trusts, has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouching {
    /// Nix's fingerprint, and path and root.
    Attested,
    /// Nix's fingerprint alone.
    Signed,
}

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Honest, and has all.
    Holder,
    /// Honest, and has all; beside the true signatures it tells what its user has got from elsewhere: signatures by a key that
    /// was replaced under the publisher's name, of other facts, and by strangers.
    Tainted,
    /// As [`Role::Tainted`], but none of its signatures is true: the publisher's key was replaced under its name.
    Outdated,
    /// Honest; the disk has damaged one blob of the tree, each such peer's another one.
    Damaged,
    /// Honest, and knows nothing of it.
    Ignorant,
    /// Honest; trusts a key that the consumer does not trust, and by that key believes another root of the path.
    Relayer,
    /// Honest; holds a second root of the path, which the publisher's key attests too.
    Other,
    /// Lies.
    Liar(LieKind),
}

impl Role {
    /// Whether it may never be blamed.
    pub fn is_honest(self) -> bool {
        !matches!(self, Role::Liar(_))
    }
}

/// The way to a peer and back.
#[derive(Debug, Clone)]
pub struct Link {
    /// One way.
    pub latency: Micros,
    /// Added to it, by chance, at most.
    pub jitter: Micros,
    /// `None`: so fast that it does not matter.
    pub bytes_per_second: Option<u64>,
    /// How many of a hundred messages are lost until it heals.
    pub loss_percent: u64,
    /// When it loses no more.
    pub heals_at: Micros,
    /// From when to when nothing gets through; what is under way is lost.
    pub outages: Vec<(Micros, Micros)>,
    /// Whether the asker learns of a loss by nothing but silence.
    pub is_silent: bool,
}

impl Link {
    /// A link that loses nothing.
    pub fn sound(latency: Micros) -> Self {
        Self {
            latency,
            jitter: Micros(0),
            bytes_per_second: None,
            loss_percent: 0,
            heals_at: Micros(0),
            outages: Vec::new(),
            is_silent: false,
        }
    }
}

/// A peer and the way to it.
#[derive(Debug, Clone)]
pub struct PeerPlan {
    /// What it is.
    pub role: Role,
    /// How it is reached.
    pub link: Link,
    /// How long a look-up takes to find it.
    pub found_after: Micros,
    /// How many of a hundred requests it puts off until its link heals.
    pub busy_percent: u64,
}

/// What must come of it, besides that nothing false is believed and nobody blamed without guilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// The honest peers together have all and can be reached: it must succeed.
    Success,
    /// It must end by its deadline, whatever comes of it.
    End,
}

/// A deliberate fault of the consumer or of the world, by which the checkers themselves are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Bytes change between the check and the store.
    KeepsOtherBytes,
    /// Bytes of honest peers change on their way.
    CorruptsLinks,
    /// What was kept is lost.
    ForgetsBlobs,
    /// Answers are not taken.
    IgnoresAnswers,
    /// The consumer trusts a key that its user does not.
    TrustsAnybody,
    /// The consumer asks for more at once than it may.
    AsksForTooMuch,
}

/// All that a run is made of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Decides all that the rest leaves open.
    pub seed: u64,
    /// What the tree is like.
    pub tree: TreePlan,
    /// What is wanted.
    pub aim: Aim,
    /// What is signed.
    pub vouching: Vouching,
    /// Whether the path is named after its contents.
    pub has_ca: bool,
    /// How far the fetch may go.
    pub limits: Limits,
    /// Who is there.
    pub peers: Vec<PeerPlan>,
    /// Whether a root's holders are found by its root; else only those who claim it for the path are known.
    pub finds_roots: bool,
    /// How long the consumer's disk takes to be looked through.
    pub look_takes: Micros,
    /// How long the NAR takes to be hashed.
    pub hash_takes: Micros,
    /// How long a look-up goes on after the last find.
    pub find_lasts: Micros,
    /// What must come of it.
    pub expects: Expectation,
    /// Only to check the checkers.
    pub sabotage: Option<Sabotage>,
}

impl Scenario {
    /// A quiet world in which the first peer is asked first: it is near, and the honest holder is far away.
    pub fn duel(first: Role, aim: Aim, vouching: Vouching) -> Self {
        let near = PeerPlan {
            role: first,
            link: Link::sound(Micros::from_millis(1)),
            found_after: Micros(0),
            busy_percent: 0,
        };
        let far = PeerPlan {
            role: Role::Holder,
            link: Link::sound(Micros::from_millis(100)),
            found_after: Micros::from_millis(900),
            ..near.clone()
        };
        Self {
            seed: 1,
            tree: TreePlan::Fixed,
            aim,
            vouching,
            has_ca: false,
            limits: Limits::default(),
            peers: vec![near, far],
            finds_roots: true,
            look_takes: Micros::from_millis(1),
            hash_takes: Micros::from_millis(5),
            find_lasts: Micros::from_millis(10),
            expects: Expectation::Success,
            sabotage: None,
        }
    }

    /// The scenario that this seed makes.
    pub fn from_seed(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let expects = if dice.percent(85) { Expectation::Success } else { Expectation::End };
        let weather = dice.pick(&[Weather::Calm, Weather::Outages, Weather::Lossy]);
        let limits = limits(expects, weather, dice);
        let aim = dice.pick(&[Aim::Path, Aim::Path, Aim::Path, Aim::Tree, Aim::Claims]);
        Self {
            seed,
            tree: tree(dice),
            aim,
            vouching: dice.pick(&[Vouching::Attested, Vouching::Signed, Vouching::Signed]),
            has_ca: dice.percent(30),
            limits,
            peers: peers(expects, weather, limits.failures_max, dice),
            finds_roots: aim == Aim::Tree || dice.percent(60),
            look_takes: duration(dice, 50, 15_000),
            hash_takes: duration(dice, 100, 15_000),
            find_lasts: duration(dice, 1_000, 10_000),
            expects,
            sabotage: None,
        }
    }
}

/// What the links of honest peers suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Calm,
    /// Short ones, fewer than a peer may fail.
    Outages,
    /// For a long time; only patience helps.
    Lossy,
}

/// Mostly short, at times long.
fn duration(dice: &mut Dice, short_ms: u64, long_ms: u64) -> Micros {
    let max = if dice.percent(90) { short_ms } else { long_ms };
    Micros(dice.between(0..max * 1000))
}

fn limits(expects: Expectation, weather: Weather, dice: &mut Dice) -> Limits {
    let mut limits = Limits::default();
    match weather {
        Weather::Calm => {}
        Weather::Outages => limits.failures_max = dice.between(2..5) as u32,
        Weather::Lossy => limits.failures_max = u32::MAX,
    }
    if dice.percent(30) {
        limits.in_flight_max = dice.between(1..8) as usize;
        limits.in_flight_peer_max = dice.between(1..4) as usize;
    }
    if expects == Expectation::End {
        limits.deadline = Some(Micros::from_millis(dice.between(100..120_000)));
    }
    limits
}

fn tree(dice: &mut Dice) -> TreePlan {
    match dice.between(0..100) {
        0..10 => TreePlan::File,
        10..13 => TreePlan::Symlink,
        13..20 => TreePlan::Many,
        20..40 => TreePlan::Large,
        _ => TreePlan::Small,
    }
}

fn peers(expects: Expectation, weather: Weather, failures_max: u32, dice: &mut Dice) -> Vec<PeerPlan> {
    let mut roles = match expects {
        Expectation::End => vec![],
        Expectation::Success if dice.percent(15) => vec![Role::Damaged, Role::Damaged],
        Expectation::Success => {
            let role = dice.pick(&[Role::Holder, Role::Holder, Role::Tainted]);
            vec![role; dice.between(1..4) as usize]
        }
    };
    let others = [
        Role::Ignorant,
        Role::Relayer,
        Role::Other,
        Role::Damaged,
        Role::Tainted,
        Role::Outdated,
        Role::Outdated,
    ];
    roles.extend((0..dice.between(0..3)).map(|_| dice.pick(&others)));
    let liars = dice.between(0..5);
    roles.extend((0..liars).map(|_| Role::Liar(dice.pick(&LieKind::ALL))));
    roles.into_iter().map(|role| peer(role, weather, failures_max, dice)).collect()
}

fn peer(role: Role, weather: Weather, failures_max: u32, dice: &mut Dice) -> PeerPlan {
    let latency = duration(dice, 200, 2_000);
    let found_after = duration(dice, 800, 20_000);
    let mut link = Link {
        jitter: Micros(dice.between(0..50_000)),
        bytes_per_second: dice.percent(30).then(|| dice.between(4_000_000..100_000_000)),
        is_silent: dice.percent(50),
        ..Link::sound(latency)
    };
    let mut busy_percent = 0;
    match weather {
        Weather::Calm => {}
        Weather::Outages => {
            for _ in 0..dice.between(0..u64::from(failures_max)) {
                let from = found_after.0 + dice.between(0..1_000_000);
                link.outages.push((Micros(from), Micros(from + dice.between(1..100_000))));
            }
        }
        Weather::Lossy => {
            link.loss_percent = dice.between(0..100);
            link.heals_at = Micros::from_millis(dice.between(0..60_000));
            busy_percent = if dice.percent(20) { dice.between(0..100) } else { 0 };
        }
    }
    PeerPlan { role, link, found_after, busy_percent }
}
