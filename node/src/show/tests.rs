use std::path::Path;

use firn_proto::control::{Damage, GotPath};

use super::*;

/// The keys of an object and of the objects in its lists, as the help has them.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields = map.iter().map(|(key, value)| key.clone() + &shape(value)).collect::<Vec<_>>();
            fields.sort();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => items.first().map(|item| format!("[{}]", shape(item))).unwrap_or_default(),
        _ => String::new(),
    }
}

#[test]
fn status_names_peers_and_liars() {
    let peer = PeerStatus {
        id: "ab".into(),
        via: "dht".into(),
        received_bytes: 2048,
        asked: 1,
        shared: vec!["/nix/store/x".into()],
        lies: vec!["a wrong byte".into()],
        ..PeerStatus::default()
    };
    let reply = StatusReply {
        running: true,
        data_dir: "/d".into(),
        role: "seed".into(),
        peers: vec![peer],
        store: Some(StoreStatus { paths: 3, paths_untrusted: 1, ..StoreStatus::default() }),
        ..StatusReply::default()
    };
    let answer = status(&reply);
    assert_eq!(
        shape(&answer.json),
        "{data_dir,http,iroh,multiaddrs,network,peer_id,\
         peers[{answered,asked,connected,id,lies[],received_bytes,sent_bytes,shared[],via}],provider_records,role,\
         running,\
         store{nar_bytes,paths,paths_shared,paths_untrusted,trees,trees_shared},trusted_keys,uptime_seconds,version}"
    );
    assert_eq!(answer.json["peers"][0]["via"], "dht");
    assert_eq!(answer.json["http"], Value::Null);
    for line in ["peer ab: dht", "gave 2.00 KiB in 1 answer;", "  had /nix/store/x", "  LIED: a wrong byte"] {
        assert!(answer.text.contains(line), "{line} is not in\n{}", answer.text);
    }
    assert!(answer.text.contains("1 more are out of view"), "{}", answer.text);
}

#[test]
fn add_prints_the_store_path_and_the_root_for_scripts() {
    let path = |name: &str, shared| AddedPath {
        store_path: name.into(),
        root: format!("firn:{name}"),
        shared,
        ..AddedPath::default()
    };
    let reply =
        AddReply { paths: vec![path("dep", false), path("app", false)], files: 1, ..AddReply::default() };
    let answer = add(&reply);
    assert_eq!(answer.text, "app\nfirn:app\n");
    assert!(answer.remarks.contains("2 paths, 1 file"), "{}", answer.remarks);
    assert!(answer.remarks.contains("shared with nobody"), "{}", answer.remarks);
    assert_eq!(
        shape(&answer.json),
        "{announced,bytes,files,paths[{nar_hash,nar_size,root,shared,signed_by,store_path}],root,store_path}"
    );
    let answer = add(&AddReply { paths: vec![path("app", true)], ..reply });
    assert!(answer.remarks.contains("will be announced when a node runs"), "{}", answer.remarks);
}

#[test]
fn get_tells_who_gave_what() {
    let share =
        PeerShare { id: "ab".into(), via: "dht".into(), asked: 2, bytes: 1024, lies: vec!["no".into()] };
    let got = GotPath { root: "firn:x".into(), ..GotPath::default() };
    let reply = GetReply { paths: vec![got], peers: vec![share], ..GetReply::default() };
    let answer = get(&reply, Some(Path::new("/o")));
    assert_eq!(answer.text, "firn:x\n");
    assert_eq!(
        shape(&answer.json),
        "{bytes,fetched_bytes,files,out,paths[{root,store_path,was_here}],peers[{asked,bytes,id,lies[],via}],root,\
         seconds,store_path}"
    );
    assert_eq!(answer.json["out"], "/o");
    assert_eq!(answer.json["store_path"], Value::Null);
    for part in ["peer ab (via dht) gave 1.00 KiB in 2 answers", "LIED: no", "written to /o"] {
        assert!(answer.remarks.contains(part), "{part} is not in\n{}", answer.remarks);
    }
}

#[test]
fn verify_names_what_is_damaged() {
    let damage = Damage { subject: "/nix/store/x".into(), what: "a flipped byte".into() };
    let answer = verify(&VerifyReply { checked: 2, bytes: 3, damages: vec![damage] });
    assert_eq!(answer.text, "/nix/store/x: a flipped byte\n");
    assert_eq!(answer.remarks, "read 2 paths and trees, 3 B; 1 damage\n");
    assert_eq!(shape(&answer.json), "{bytes,checked,damages[{subject,what}]}");
}

#[test]
fn networks_are_called_by_their_words() {
    use crate::config::{private, public};
    let tenth: ipnet::IpNet = "1.2.3.0/24".parse().unwrap();
    assert_eq!(dial_words(&[public(), private(), vec![tenth]].concat()), ["public", "private", "1.2.3.0/24"]);
    assert!(dial_words(&[]).is_empty());
}
