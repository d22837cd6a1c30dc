//! What honest peers tell, whatever others have signed: it is believed or it is not, and they are not blamed for it.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use firn_trust::REFERENCES_MAX;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::world::{Firn, Node, error, lines, nix_sign, nix_store_add, write_tree};

/// Gets it from this node alone.
fn get(consumer: &Firn, node: &Node, what: &str, keys: &[&str]) -> (i32, Value) {
    let peer = node.peer();
    let mut arguments = vec!["get", what, "--iroh", "127.0.0.1:0", "--peer", &peer];
    keys.iter().for_each(|key| arguments.extend(["--trust", key]));
    consumer.json(&arguments, &[])
}

fn assert_nobody_is_blamed(consumer: &Firn) {
    assert!(!consumer.path(".local/share/firn/liars.json").exists());
}

/// Changes the database of the Nix store below the home.
fn edit(firn: &Firn, sql: &str) {
    let database = firn.path("nix-root/nix/var/nix/db/db.sqlite");
    Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

/// A tree in a Nix store below the home, which has no other ground than its signatures; gives its store path and the key.
fn signed_by_nix(firn: &Firn) -> (String, String) {
    write_tree(&firn.path("tree"));
    let path = nix_store_add(&firn.path(""), &firn.path("tree"));
    edit(firn, "update ValidPaths set ca = null");
    let key = nix_sign(&firn.path(""), &path);
    (path, key)
}

#[test]
fn a_signature_by_a_key_that_was_replaced_is_not_believed_and_that_is_all() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    write_tree(&seeder.path("tree"));
    seeder.key("cache-1", "old");
    let new = seeder.key("cache-1", "new");
    let add = |arguments: &[&str]| lines(&seeder.run(&[&["add", "tree"], arguments].concat(), &[])).remove(0);
    let one = add(&["--name", "one", "--sign-key", "old"]);
    let two = add(&["--name", "two", "--sign-key", "new"]);
    let both = add(&["--name", "both", "--sign-key", "old", "--sign-key", "new"]);
    let node = seeder.node(&["--role", "seed"]);
    for (path, expected) in [(&one, 4), (&both, 0), (&two, 0)] {
        let (code, got) = get(&consumer, &node, path, &[&new]);
        assert_eq!(code, expected, "{path}: {got}");
    }
    assert_nobody_is_blamed(&consumer);
    node.end();
}

#[test]
fn what_nix_keeps_beside_a_true_signature_is_passed_over() {
    for how in [&["add", "--share"][..], &["adopt", "--share"], &["adopt", "/nix/store", "--once"]] {
        let (seeder, consumer) = (Firn::new(), Firn::new());
        let (path, nix_key) = signed_by_nix(&seeder);
        let victim = seeder.key("victim-1", "victim");
        // A true signature among text that is none, and among false ones in the names of trusted and of other keys.
        let no_key_made = format!("{}==", "A".repeat(86));
        let odd = format!("nonsense another-1:AAAA victim-1:{no_key_made} nix-1:{no_key_made}");
        let many: String = (0..40).map(|number| format!(" stranger-{number}:{no_key_made}")).collect();
        let sigs = format!("sigs = '{odd}{many} ' || sigs || ' {odd}'");
        edit(&seeder, &format!("update ValidPaths set deriver = 'x', {sigs}"));

        let root = seeder.path("nix-root");
        let root = ["--nix-root", root.to_str().unwrap()];
        let node = seeder.node(&["--role", "seed", "--trust", &nix_key]);
        let what = (!how.contains(&"--once")).then_some(path.as_str());
        let arguments: Vec<&str> = how.iter().chain(&root).copied().chain(what).collect();
        let (code, added) = seeder.json(&arguments, &[]);
        assert_eq!(code, 0, "{how:?}: {added}");
        let (code, got) = get(&consumer, &node, &path, &[&nix_key, &victim]);
        assert_eq!(code, 0, "{how:?}: {got}");
        assert_nobody_is_blamed(&consumer);
        node.end();
    }
}

#[test]
fn what_peers_cannot_be_told_of_is_not_said_to_be_shared() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    let (path, _) = signed_by_nix(&seeder);
    let key = seeder.key("cache-1", "key");
    let root = seeder.path("nix-root");
    let in_nix = |arguments: &[&str]| {
        seeder.json(&[arguments, &["--nix-root", root.to_str().unwrap(), &path]].concat(), &[])
    };
    edit(
        &seeder,
        &format!(
            "begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i <= {REFERENCES_MAX})
             insert into ValidPaths(path, hash, registrationTime, narSize)
             select '/nix/store/00000000000000000000000000000000-' || i, 'sha256:' || printf('%064d', 0), 0, 1 from n;
             insert into Refs select referrer.id, reference.id from ValidPaths referrer, ValidPaths reference
             where referrer.path = '{path}' and reference.path like '/nix/store/0000000000000000000000000000000%';
             commit;"
        ),
    );
    let node = seeder.node(&["--role", "seed"]);
    for how in [&["add", "--sign-key", "key"][..], &["add", "--share"], &["adopt", "--share"]] {
        let (code, json) = in_nix(how);
        let error = json["error"].as_str().unwrap_or_else(|| panic!("{how:?}: {json}"));
        assert_eq!(code, 1, "{error}");
        assert!(error.contains(&REFERENCES_MAX.to_string()) && error.contains("--share"), "{error}");
    }
    assert_eq!(seeder.json(&["status"], &[]).1["store"]["paths"], 0);

    // For this machine alone there is no such limit, also after a restart.
    let (code, added) = in_nix(&["add"]);
    assert_eq!((code, &added["paths"][0]["shared"]), (0, &false.into()), "{added}");
    node.end();
    let (_, got) = seeder.json(&["get", &path], &[]);
    assert_eq!(got["paths"][0]["was_here"], true, "{got}");

    let node = seeder.node(&["--role", "seed"]);
    let other = lines(&seeder.run(&["add", "--sign-key", "key", "tree", "--name", "other"], &[])).remove(0);
    assert_eq!(get(&consumer, &node, &path, &[&key]).0, 3, "it is shared with nobody");
    assert_eq!(get(&consumer, &node, &other, &[&key]).0, 0);
    assert_nobody_is_blamed(&consumer);
    node.end();
}

#[test]
fn who_gets_nothing_because_the_only_holder_is_blamed_is_told_so() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    write_tree(&seeder.path("tree"));
    let root = lines(&seeder.run(&["add", "--share", "tree"], &[])).remove(1);
    let node = seeder.node(&["--role", "seed"]);
    let peer = node.peer();
    let liar = peer.split_once('@').unwrap().0;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let liars = json!({ "liars": [{ "peer": liar, "reason": "a wrong byte", "at": now }] });
    fs::create_dir_all(consumer.path(".local/share/firn")).unwrap();
    fs::write(consumer.path(".local/share/firn/liars.json"), liars.to_string()).unwrap();
    let (code, got) = get(&consumer, &node, &root, &[]);
    let error = error(&got);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("has lied") && error.contains("firn status"), "{error}");
    node.end();
}
