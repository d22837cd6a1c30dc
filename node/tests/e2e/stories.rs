//! What users do, from end to end.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    firn::{CACHE, Node, Said, firn, firn_ok, start_relay, text},
    host::Host,
    lan::Lan,
    nix::{Nix, NixConf, NixKey},
    process::eventually,
    tree::{assert_same_tree, write_site},
};

/// An announcement has reached those who store it, and a look-up those who announced.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// A peer that has moved is found where it is now: in 5 s, and much later on a busy machine.
const MOVED_WITHIN: Duration = Duration::from_secs(30);

/// No trusted key vouches for it, by the exit code.
const UNTRUSTED: i32 = 4;
/// Neither here nor at any peer, by the exit code.
const MISSING: i32 = 3;

/// `firn get`, again and again until somebody has it. Gives what came of it, be it success or not.
fn get_when_found(host: &Host, arguments: &[&str]) -> Said {
    let arguments = [&["get"], arguments].concat();
    eventually(&format!("somebody has {arguments:?}"), FOUND_WITHIN, || {
        Some(firn(host, &arguments)).filter(|said| said.code != MISSING)
    })
}

/// As [`get_when_found`]; it must succeed, and its object is given.
fn get(host: &Host, arguments: &[&str]) -> Value {
    let said = get_when_found(host, arguments);
    assert_eq!(said.code, 0, "{}: firn get {arguments:?}: {said}", host.label());
    said.json
}

/// Waits until a node's binary cache has the path.
fn wait_for_narinfo(node: &Node<'_>, store_path: &str) {
    eventually("its narinfo is there", FOUND_WITHIN, || {
        (node.narinfo(store_path).status == 200).then_some(())
    });
}

fn key_of(nix: &Nix<'_>) -> NixKey {
    nix.generate_key("cache-1")
}

/// Adds the closure with an attestation.
fn add_signed(host: &Host, key: &NixKey, path: &str) -> Value {
    firn_ok(host, &["add", "--sign-key", key.secret_file.to_str().unwrap(), "--closure", path])
}

#[test]
fn a_signed_closure_comes_from_seeders_found_on_the_dht() {
    let internet = Lan::internet();
    let hosts = ["bootstrap", "publisher", "seeder1", "seeder2", "liar", "consumer"]
        .map(|label| internet.host(label));
    let [bootstrap, publisher, seeder1, seeder2, liar, consumer] = &hosts;
    let origin = Nix::new(publisher);
    let app = origin.build_app();
    let key = key_of(&origin);

    let b = Node::start(bootstrap, &["--role", "seed"]);
    let known = ["--bootstrap", &b.multiaddr(), "--trust", &key.public];
    let p = Node::start(publisher, &[&["--role", "seed"], &known[..2]].concat());
    let added = add_signed(publisher, &key, &app);
    assert_eq!(text(&added["store_path"]), app);
    assert_eq!(added["announced"], true);

    let seed = [&["--role", "seed"], &known[..]].concat();
    let (s1, s2) = (Node::start(seeder1, &seed), Node::start(seeder2, &seed));
    get(seeder1, &[&app, "--closure"]);
    get(seeder2, &[&app, "--closure"]);
    let l = Node::start_liar(liar, "WrongByte", &seed);
    get(liar, &[&app, "--closure"]);
    eventually("the bootstrap node knows four holders of three paths", FOUND_WITHIN, || {
        (b.status()["provider_records"].as_u64() >= Some(4 * 3 * 2)).then_some(())
    });

    p.end();
    internet.unplug(publisher);

    let c = Node::start(consumer, &known);
    let nix = Nix::new(consumer);
    nix.configure(&NixConf { substituters: &[CACHE], trusted_public_keys: &[&key.public] });
    wait_for_narinfo(&c, &app);
    consumer.succeed("nix-store", &["--realise", &app]);
    nix.assert_has_closure_of(&origin, &app);

    for seeder in [&s1, &s2] {
        let peer = c.peer(seeder.id());
        assert_eq!((text(&peer["via"]), text(&peer["route"])), ("dht", "direct"), "{peer}");
        assert!(peer["received_bytes"].as_u64() > Some(0), "{peer}");
        assert_eq!(peer["lies"], Value::Array(Vec::new()), "{peer}");
    }
    let peer = c.peer(l.id());
    assert!(peer["asked"].as_u64() > Some(0), "{peer}");
    assert_ne!(peer["lies"], Value::Array(Vec::new()), "{peer}");
    assert_eq!(b.status()["store"]["paths"], 0, "the bootstrap node holds nothing");
    assert_eq!(c.peer(b.id())["received_bytes"].as_u64().unwrap_or(0), 0);

    // Once more into an empty Nix store, by the other two ways in.
    nix.reset();
    consumer.succeed("nix", &["copy", "--from", CACHE, &app]);
    nix.assert_has_closure_of(&origin, &app);
    nix.reset();
    assert_eq!(nix.build_app(), app);
    nix.assert_has_closure_of(&origin, &app);

    for node in [b, s1, s2, l, c] {
        node.end();
    }
}

#[test]
fn a_closure_with_nix_signatures_only_is_proven_by_its_nar() {
    let internet = Lan::internet();
    let hosts = ["bootstrap", "publisher", "seeder", "liar", "consumer"].map(|label| internet.host(label));
    let [bootstrap, publisher, seeder, liar, consumer] = &hosts;
    let origin = Nix::new(publisher);
    let app = origin.build_app();
    let key = key_of(&origin);
    origin.sign(&key, &app);

    let b = Node::start(bootstrap, &["--role", "seed"]);
    let known = ["--bootstrap", &b.multiaddr(), "--trust", &key.public];
    let seed = [&["--role", "seed"], &known[..]].concat();
    let p = Node::start(publisher, &seed);
    firn_ok(publisher, &["add", "--share", "--closure", &app]);
    let s = Node::start(seeder, &seed);
    get(seeder, &[&app, "--closure"]);
    // It has the true closure, and claims the root of another tree under the true signatures.
    let l = Node::start_liar(liar, "FalseRoot", &seed);
    get(liar, &[&app, "--closure"]);
    s.end();
    p.end();
    internet.unplug(publisher);

    let c = Node::start(consumer, &known);
    let nix = Nix::new(consumer);
    nix.configure(&NixConf { substituters: &[CACHE], trusted_public_keys: &[&key.public] });
    wait_for_narinfo(&c, &app);
    let narinfo = String::from_utf8(c.narinfo(&app).body).unwrap();
    assert!(narinfo.contains("\nURL: nar/sha256-"), "no root before it is proven: {narinfo}");

    // With the liar alone nothing comes, however complete its tree is.
    consumer.fail("nix-store", &["--realise", &app]);
    origin.closure(&app).iter().for_each(|path| nix.assert_lacks(path));
    let peer = c.peer(l.id());
    assert!(peer["received_bytes"].as_u64() > Some(0), "{peer}");
    assert_eq!(peer["lies"], Value::Array(Vec::new()), "it may relay in good faith: {peer}");
    assert_eq!(c.status()["store"]["paths"], 0);

    let s = Node::start(seeder, &seed);
    eventually("the true root is found beside the false one", FOUND_WITHIN, || {
        consumer.run("nix-store", &["--realise", &app]).status.success().then_some(())
    });
    nix.assert_has_closure_of(&origin, &app);
    let peer = c.peer(s.id());
    assert_eq!(peer["lies"], Value::Array(Vec::new()), "{peer}");
}

#[test]
fn neighbours_on_a_lan_find_each_other() {
    let lan = Lan::new();
    let (publisher, consumer) = (lan.host("publisher"), lan.host("consumer"));
    let origin = Nix::new(&publisher);
    let app = origin.build_app();
    let key = key_of(&origin);
    let p = Node::start(&publisher, &["--role", "lan"]);
    add_signed(&publisher, &key, &app);

    let c = Node::start(&consumer, &["--role", "lan", "--trust", &key.public]);
    let nix = Nix::new(&consumer);
    nix.configure(&NixConf { substituters: &[CACHE], trusted_public_keys: &[&key.public] });
    wait_for_narinfo(&c, &app);
    consumer.succeed("nix-store", &["--realise", &app]);
    nix.assert_has_closure_of(&origin, &app);
    assert_eq!(c.peer(p.id())["via"], "mdns");
}

#[test]
fn what_is_larger_than_the_disk_passes_through_to_nix() {
    // A store leaves 8 MiB of it free, and `data` has 14 MiB.
    const DISK_MIB: u32 = 12;
    let lan = Lan::new();
    let (publisher, believer, checker) = (lan.host("publisher"), lan.host("believer"), lan.host("checker"));
    let origin = Nix::new(&publisher);
    let app = origin.build_app();
    let (attests, signs) = (origin.generate_key("attests-1"), origin.generate_key("signs-1"));
    origin.sign(&signs, &app);
    let _p = Node::start(&publisher, &["--role", "lan"]);
    add_signed(&publisher, &attests, &app);

    // One believes the attested root, the other has nothing but Nix's signatures.
    for (consumer, key) in [(&believer, &attests), (&checker, &signs)] {
        let c = Node::start_on_small_disk(consumer, DISK_MIB, &["--role", "lan", "--trust", &key.public]);
        let nix = Nix::new(consumer);
        nix.configure(&NixConf { substituters: &[CACHE], trusted_public_keys: &[&key.public] });
        wait_for_narinfo(&c, &app);
        consumer.succeed("nix-store", &["--realise", &app]);
        nix.assert_has_closure_of(&origin, &app);
        c.end();
    }
}

/// Its id stays, and so does its process: the machine was plugged in elsewhere.
#[test]
fn a_seeder_with_a_new_address_is_found_there() {
    for (lan, role) in [(Lan::new(), "lan"), (Lan::internet(), "seed")] {
        let hosts = ["bootstrap", "seeder", "consumer"].map(|label| lan.host(label));
        let [bootstrap, seeder, consumer] = &hosts;
        let b = Node::start(bootstrap, &["--role", role]);
        let known = ["--role", role, "--bootstrap", &b.multiaddr()];
        let s = Node::start(seeder, &known);
        let c = Node::start(consumer, &known);
        let roots = ["one", "two", "three"].map(|name| {
            fs::write(seeder.path("home").join(name), name.repeat(1000)).unwrap();
            text(&firn_ok(seeder, &["add", "--share", name])["root"]).to_owned()
        });
        get(consumer, &[&roots[0]]);
        for (number, root) in [(101, &roots[1]), (102, &roots[2])] {
            lan.move_to(seeder, number);
            let begun = Instant::now();
            get(consumer, &[root]);
            eprintln!("{role}: found at its new address after {:?}", begun.elapsed());
            assert!(begun.elapsed() < MOVED_WITHIN, "{:?}", begun.elapsed());
        }
        for node in [b, s, c] {
            node.end();
        }
    }
}

#[test]
fn neighbours_find_each_other_where_there_is_no_ipv4() {
    let lan = Lan::new();
    let (owner, neighbour) = (lan.host("owner"), lan.host("neighbour"));
    for host in [&owner, &neighbour] {
        lan.speak_ipv6_alone(host);
    }
    // A second interface, where nobody is, comes first.
    neighbour.succeed("ip", &["link", "add", "aaa0", "type", "veth", "peer", "name", "aaa1"]);
    neighbour.succeed("ip", &["address", "add", "fd99::1/64", "dev", "aaa0", "nodad"]);
    neighbour.succeed("ip", &["link", "set", "aaa0", "up"]);
    neighbour.succeed("ip", &["link", "set", "aaa1", "up"]);
    // The other has something like a bridge for containers, with an address of IPv4.
    owner.succeed("ip", &["link", "add", "aaa0", "type", "veth", "peer", "name", "aaa1"]);
    owner.succeed("ip", &["address", "add", "172.17.0.1/16", "dev", "aaa0"]);
    owner.succeed("ip", &["link", "set", "aaa0", "up"]);
    owner.succeed("ip", &["link", "set", "aaa1", "up"]);
    let site = owner.path("home/site");
    write_site(&site);
    let o = Node::start(&owner, &["--role", "lan"]);
    let added = firn_ok(&owner, &["add", "--share", site.to_str().unwrap()]);
    let n = Node::start(&neighbour, &["--role", "lan"]);
    let out = neighbour.path("home/copy");
    get(&neighbour, &[text(&added["root"]), "-o", out.to_str().unwrap()]);
    assert_same_tree(&site, &out);
    assert_eq!(n.peer(o.id())["via"], "mdns");
    // Without a node, a command finds them, too.
    n.end();
    let other = neighbour.path("home/other");
    get(
        &neighbour,
        &[text(&added["root"]), "--mdns", "true", "--dial", "private", "--data-dir", other.to_str().unwrap()],
    );
}

#[test]
fn a_cloned_machine_is_named_on_both() {
    let lan = Lan::new();
    let (original, clone) = (lan.host("original"), lan.host("clone"));
    Node::start(&original, &["--role", "lan"]).end();
    let data_dir = "home/.local/share/firn";
    fs::create_dir_all(clone.path(data_dir)).unwrap();
    fs::copy(original.path(data_dir).join("node.key"), clone.path(data_dir).join("node.key")).unwrap();

    let o = Node::start(&original, &["--role", "lan"]);
    assert_eq!(o.status()["duplicates"], Value::Array(Vec::new()), "it is alone");
    let c = Node::start(&clone, &["--role", "lan"]);
    assert_eq!(o.id(), c.id());
    for (node, other) in [(&o, &clone), (&c, &original)] {
        let there = format!("{}:7335", other.address());
        eventually("it knows of the other", FOUND_WITHIN, || {
            (node.status()["duplicates"] == Value::from(vec![there.clone()])).then_some(())
        });
    }
}

#[test]
fn a_tree_goes_from_machine_to_machine_without_nix() {
    let internet = Lan::internet();
    let (publisher, consumer) = (internet.host("publisher"), internet.host("consumer"));
    let site = publisher.path("home/site");
    write_site(&site);
    // Added while no node runs; the node announces it when one does.
    let added = firn_ok(&publisher, &["add", "--share", site.to_str().unwrap()]);
    assert_eq!(added["announced"], false);
    let p = Node::start(&publisher, &["--role", "seed"]);
    let c = Node::start(&consumer, &["--bootstrap", &p.multiaddr()]);

    let out = consumer.path("home/copy");
    let got = get(&consumer, &[text(&added["root"]), "-o", out.to_str().unwrap()]);
    assert_same_tree(&site, &out);
    assert_eq!(got["fetched_bytes"], added["bytes"]);
    let again = firn(&consumer, &["get", text(&added["root"]), "-o", out.to_str().unwrap()]);
    assert_ne!(again.code, 0, "DIR exists: {again}");
    c.end();
    p.end();
}

#[test]
fn machines_that_do_not_reach_each_other_meet_at_a_relay() {
    let internet = Lan::internet();
    let hosts = ["meeting", "seeder", "consumer"].map(|label| internet.host(label));
    let [meeting, seeder, consumer] = &hosts;
    internet.isolate(seeder);
    internet.isolate(consumer);
    let site = seeder.path("home/site");
    write_site(&site);
    let added = firn_ok(seeder, &["add", "--share", site.to_str().unwrap()]);

    let (_relay, url) = start_relay(meeting);
    let m = Node::start(meeting, &["--role", "seed"]);
    let known = ["--bootstrap", &m.multiaddr(), "--relay", &url];
    let s = Node::start(seeder, &[&["--role", "seed"], &known[..]].concat());
    let c = Node::start(consumer, &known);

    let out = consumer.path("home/copy");
    let got = get(consumer, &[text(&added["root"]), "-o", out.to_str().unwrap()]);
    assert_same_tree(&site, &out);
    assert_eq!(got["fetched_bytes"], added["bytes"]);
    let peer = c.peer(s.id());
    assert_eq!((text(&peer["via"]), text(&peer["route"])), ("dht", "relayed"), "{peer}");
    for node in [c, s, m] {
        node.end();
    }
}

#[test]
fn a_path_signed_by_a_stranger_is_refused_by_us_and_by_nix() {
    let internet = Lan::internet();
    let (publisher, consumer) = (internet.host("publisher"), internet.host("consumer"));
    let origin = Nix::new(&publisher);
    let app = origin.build_app();
    let (key, other) = (key_of(&origin), origin.generate_key("other-1"));
    let p = Node::start(&publisher, &["--role", "seed"]);
    add_signed(&publisher, &key, &app);
    let known = ["--bootstrap", &p.multiaddr(), "--trust"];

    let nix = Nix::new(&consumer);
    let c = Node::start(&consumer, &[&known[..], &[&other.public]].concat());
    let said = get_when_found(&consumer, &[&app]);
    assert_eq!(said.code, UNTRUSTED, "{said}");
    assert_eq!(c.narinfo(&app).status, 404);
    let peer = c.peer(p.id());
    assert_eq!(peer["lies"], Value::Array(Vec::new()), "an unknown key is no lie");
    c.end();

    // We trust the key, Nix does not.
    let c = Node::start(&consumer, &[&known[..], &[&key.public]].concat());
    nix.configure(&NixConf { substituters: &[CACHE], trusted_public_keys: &[&other.public] });
    wait_for_narinfo(&c, &app);
    let refusal = consumer.fail("nix", &["copy", "--from", CACHE, &app]);
    assert!(refusal.contains("lacks a valid signature"), "{refusal}");
    nix.assert_lacks(&app);
}

#[test]
fn a_removed_key_takes_its_paths_out_of_view() {
    let internet = Lan::internet();
    let (publisher, consumer) = (internet.host("publisher"), internet.host("consumer"));
    let origin = Nix::new(&publisher);
    let app = origin.build_app();
    let key = key_of(&origin);
    let p = Node::start(&publisher, &["--role", "seed"]);
    add_signed(&publisher, &key, &app);
    let c = Node::start(&consumer, &["--bootstrap", &p.multiaddr(), "--trust", &key.public]);
    get(&consumer, &[&app, "--closure"]);
    p.end();
    assert_eq!(c.narinfo(&app).status, 200);
    c.end();

    let c = Node::start(&consumer, &[]);
    assert_eq!(c.narinfo(&app).status, 404);
    assert_eq!(c.status()["store"]["paths_untrusted"], 3);
    c.end();

    let c = Node::start(&consumer, &["--trust", &key.public]);
    assert_eq!(c.narinfo(&app).status, 200);
}

#[test]
fn what_is_not_shared_is_missing_to_every_peer() {
    let internet = Lan::internet();
    let hosts = ["owner", "client", "stranger"].map(|label| internet.host(label));
    let [owner, client, stranger] = &hosts;
    let (site, leaflet) = (owner.path("home/site"), owner.path("home/leaflet"));
    write_site(&site);
    fs::write(&leaflet, "for all").unwrap();
    let o = Node::start(owner, &["--role", "seed"]);
    let private = firn_ok(owner, &["add", site.to_str().unwrap()]);
    assert_eq!(private["paths"][0]["shared"], false);
    let leaflet = firn_ok(owner, &["add", "--share", leaflet.to_str().unwrap()]);

    // That the leaflet comes shows that the two talk.
    let c = Node::start(client, &["--peer", &format!("{}@{}:7334", o.id(), owner.address())]);
    get(client, &[text(&leaflet["root"])]);
    for what in [&private["root"], &private["store_path"]] {
        let said = firn(client, &["get", text(what)]);
        assert_eq!(said.code, MISSING, "{said}");
    }

    // A client gives nothing away, not even what it had from others.
    let _s = Node::start(stranger, &["--peer", &format!("{}@{}:7334", c.id(), client.address())]);
    let said = firn(stranger, &["get", text(&leaflet["root"])]);
    assert_eq!(said.code, MISSING, "{said}");

    firn_ok(owner, &["add", "--share", site.to_str().unwrap()]);
    let out = client.path("home/copy");
    get(client, &[text(&private["root"]), "-o", out.to_str().unwrap()]);
    assert_same_tree(&site, &out);
}

#[test]
fn with_all_peers_off_nix_goes_on_to_its_next_substituter() {
    let internet = Lan::internet();
    let hosts = ["bootstrap", "seeder", "consumer"].map(|label| internet.host(label));
    let [bootstrap, seeder, consumer] = &hosts;
    let origin = Nix::new(seeder);
    let app = origin.build_app();
    let key = key_of(&origin);
    origin.sign(&key, &app);
    let cache = format!("file://{}?compression=none", seeder.path("cache").display());
    seeder.succeed("nix", &["copy", "--to", &cache, &app]);

    let b = Node::start(bootstrap, &["--role", "seed"]);
    let known = ["--bootstrap", &b.multiaddr(), "--trust", &key.public];
    let _s = Node::start(seeder, &[&["--role", "seed"], &known[..2]].concat());
    add_signed(seeder, &key, &app);
    let c = Node::start(consumer, &known);
    wait_for_narinfo(&c, &app);
    c.end();

    // A node that has not yet fetched anything, and nobody to fetch it from.
    internet.unplug(seeder);
    internet.unplug(bootstrap);
    fs::remove_dir_all(consumer.path("home/.local/share/firn")).unwrap();
    let c = Node::start(consumer, &known);
    let answer = c.narinfo(&app);
    assert_eq!(answer.status, 404);
    assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);

    let nix = Nix::new(consumer);
    nix.configure(&NixConf { substituters: &[CACHE, &cache], trusted_public_keys: &[&key.public] });
    consumer.succeed("nix-store", &["--realise", &app]);
    nix.assert_has_closure_of(&origin, &app);
}

#[test]
fn an_ordinary_user_reads_the_nix_store_while_root_writes_to_it() {
    let lan = Lan::new();
    let host = lan.host("machine");
    let nix = Nix::new(&host);
    let app = nix.build_app();
    let binary = host.nobody_home().join("firn");
    fs::copy(env!("CARGO_BIN_EXE_firn"), &binary).unwrap();
    let add = || {
        let mut command = host.command_as_nobody(&binary);
        let output = command.args(["add", "--closure", &app, "--json"]).output().unwrap();
        let (said, log) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{log}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["paths"].as_array().unwrap().len(), 3, "{said}");
    };
    add();

    const WRITE: &str =
        "for number in $(seq 60); do echo $number > it; nix-store --add it || exit 1; done; echo done";
    let mut writer = host.start("sh", &["-c", WRITE]);
    writer.line(Duration::from_secs(20));
    let mut reads = 0;
    while writer.runs() {
        add();
        reads += 1;
    }
    assert!(reads > 0, "the writer was done before the first read");
}
