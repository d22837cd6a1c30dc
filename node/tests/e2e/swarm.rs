//! Several who want the same tree at the same time.

use std::{path::PathBuf, thread, time::Duration};

use serde_json::Value;

use crate::{
    firn::{Node, firn_ok, text},
    host::Host,
    lan::Lan,
    process::eventually,
    tree::{assert_same_tree, write_noise},
};

/// What the seeder gives in a second: the tree takes it four seconds.
const UPLOAD_MAX: &str = "2M";
/// The most that one request asks for: so much more than was missing may come, since it had come but was not kept yet.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// What a killed node's connections hold of the seeder until they time out, in half a minute, keeps it out no longer.
const RESUMED_SECONDS_MAX: f64 = 15.0;
/// Half of the tree has come to one of three who share what the seeder gives.
const HALF_WITHIN: Duration = Duration::from_secs(60);

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The sum of this over all peers that a node knows.
fn sum(node: &Node<'_>, what: &str) -> u64 {
    node.status()["peers"].as_array().unwrap().iter().map(|peer| number(&peer[what])).sum()
}

fn out(host: &Host) -> PathBuf {
    host.path("home/out")
}

fn get(host: &Host, root: &str) -> Value {
    let got = firn_ok(host, &["get", root, "-o", out(host).to_str().unwrap()]);
    assert_eq!(got["root"], root);
    got
}

/// Who has asked the seeder for the same is named to them by the seeder, and they know of each other by nothing else.
#[test]
fn consumers_of_a_slow_seeder_help_each_other_and_one_that_was_killed_goes_on() {
    let lan = Lan::new();
    let hosts = ["seeder", "first", "second", "third"].map(|label| lan.host(label));
    let [seeder, first, second, third] = &hosts;
    let tree = seeder.path("home/tree");
    write_noise(&tree);
    let added = firn_ok(seeder, &["add", "--share", tree.to_str().unwrap()]);
    let (root, bytes) = (text(&added["root"]), number(&added["bytes"]));

    let on_the_lan = ["--role", "lan", "--mdns", "false"];
    let s = Node::start(seeder, &[&on_the_lan[..], &["--upload-max", UPLOAD_MAX]].concat());
    let named = format!("{}@{}:7334", s.id(), seeder.address());
    let settings = [&on_the_lan[..], &["--peer", &named]].concat();
    let [a, b, c] = [first, second, third].map(|host| Node::start(host, &settings));

    let left = thread::scope(|scope| {
        let others = [first, second].map(|host| scope.spawn(move || get(host, root)));
        let _cut_short = third.start(env!("CARGO_BIN_EXE_firn"), &["get", root, "--json"]);
        let had = eventually("half of it is with the third", HALF_WITHIN, || {
            Some(sum(&c, "received_bytes")).filter(|had| *had >= bytes / 2)
        });
        c.kill();
        for other in others {
            other.join().unwrap();
        }
        bytes.saturating_sub(had)
    });
    assert!(left > 0, "it was killed before the end");
    for (node, other) in [(&a, &b), (&b, &a)] {
        let peer = node.peer(other.id());
        assert_eq!(peer["via"], "fellow", "{peer}");
        assert!(number(&peer["received_bytes"]) > 0, "{peer}");
    }

    let c = Node::start(third, &settings);
    let got = get(third, root);
    let again = number(&got["fetched_bytes"]);
    assert!(again <= left + bytes / 100 + PIECE_BYTES_MAX, "{left} of {bytes} were missing: {got}");
    assert!(got["seconds"].as_f64() < Some(RESUMED_SECONDS_MAX), "{got}");
    for host in [first, second, third] {
        assert_same_tree(&tree, &out(host));
    }

    let sent = sum(&s, "sent_bytes");
    assert!((bytes..2 * bytes).contains(&sent), "the seeder gave {sent} for three trees of {bytes}");
    for node in [s, a, b, c] {
        node.end();
    }
}
