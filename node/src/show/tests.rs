use std::path::Path;

use firn_proto::control::{
    AddReply, AddedPath, AdoptReply, AdoptStatus, CollectReply, Damage, Evicted, Giver, GotPath, LiarStatus,
    PeerStatus, PinReply, PinnedItem, PinsReply, StatsReply, StatusReply, StoreStatus, TrafficStatus,
    TransferStatus, UnpinReply, VerifyReply,
};

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
        route: "relayed".into(),
        connected: true,
        received_bytes: 2048,
        asked: 1,
        shared: vec!["/nix/store/x".into()],
        lies: vec!["a wrong byte".into()],
        upload_rate: 1024,
        requests: 1,
        ..PeerStatus::default()
    };
    let traffic = TrafficStatus {
        upload_rate: 1024,
        upload_rate_max: Some(1 << 20),
        upload_peer_rate_max: Some(64 << 10),
        connections: 2,
        requests: 1,
        turned_away: 3,
        ..TrafficStatus::default()
    };
    let giver = Giver { id: "ef".into(), route: "direct".into(), rate: 1024, ..Giver::default() };
    let transfer = TransferStatus {
        subject: "firn:x".into(),
        done_bytes: 1024,
        total_bytes: 2048,
        seconds: 3,
        peers: vec![giver],
    };
    let reply = StatusReply {
        running: true,
        data_dir: "/d".into(),
        role: "seed".into(),
        peers: vec![peer],
        transfers: vec![transfer],
        peers_more: 7,
        traffic: Some(traffic),
        duplicates: vec!["10.0.0.9:7335".into()],
        liars: vec![LiarStatus {
            id: "cd".into(),
            reason: "a false root".into(),
            at: crate::remembered::now().0 - 3 * 60 * 60 - 60,
        }],
        store: Some(StoreStatus { paths: 3, paths_untrusted: 1, ..StoreStatus::default() }),
        ..StatusReply::default()
    };
    let answer = status(&reply);
    assert_eq!(
        shape(&answer.json),
        "{adopt,data_dir,duplicates[],http,iroh,liars[{at,id,reason}],multiaddrs,network,peer_id,\
         peers[{answered,asked,connected,connections,download_rate,id,lies[],received_bytes,requests,route,sent_bytes,\
         shared[],\
         upload_rate,via}],peers_more,provider_records,role,running,\
         store{adopted_bytes,disk_bytes,disk_bytes_max,nar_bytes,paths,paths_shared,paths_untrusted,trees,trees_shared,\
         trouble},traffic{connections,download_peer_rate_max,download_rate,download_rate_max,requests,turned_away,\
         upload_peer_rate_max,upload_rate,upload_rate_max},\
         transfers[{done_bytes,peers[{bytes,id,rate,route,via}],seconds,subject,total_bytes}],trusted_keys,uptime_seconds,version}"
    );
    assert_eq!(answer.json["traffic"]["download_rate_max"], Value::Null);
    let limited = "gives        1.00 KiB/s of 1.00 MiB/s, at most 64.00 KiB/s a peer\n\
                   takes        0 B/s\n\
                   asked        1 request under way on 2 connections; 3 requests told to come again later\n";
    assert!(answer.text.contains(limited), "{}", answer.text);
    assert!(
        answer.text.contains("  now: takes 1.00 KiB/s, gives 0 B/s; 1 request under way\n"),
        "{}",
        answer.text
    );
    assert_eq!(answer.json["peers"][0]["via"], "dht");
    assert_eq!(answer.json["http"], Value::Null);
    for line in [
        "peer ab: dht, connected (relayed); ",
        "fetching firn:x: 1.00 KiB of 2.00 KiB in 3 seconds\n  ef ",
        " 1.00 KiB/s  direct\n",
        "gave 2.00 KiB in 1 answer;",
        "  had /nix/store/x",
        "  LIED: a wrong byte",
        "also at      10.0.0.9:7335: another node has this identity",
        "and 7 peers more",
    ] {
        assert!(answer.text.contains(line), "{line} is not in\n{}", answer.text);
    }
    let liar = "liar cd: lied 3 hours ago, and is asked nothing for 7 days: a false root\n";
    assert!(answer.text.contains(liar), "{}", answer.text);
    assert!(answer.text.contains("1 more are out of view"), "{}", answer.text);
}

/// What others have named comes as it is in JSON, and in text as one line that steers no terminal.
#[test]
fn no_text_of_others_steers_a_terminal_or_forges_a_line() {
    const EVIL: &str = "x\u{1b}[31m\u{9b}1m\u{202e}\nfirn: forged";
    let evil = || EVIL.to_owned();
    let bytes = || EVIL.as_bytes().to_vec().into();
    let added =
        AddedPath { store_path: evil(), root: evil(), signed_by: vec![evil()], ..AddedPath::default() };
    let giver = Giver { id: evil(), via: evil(), route: evil(), ..Giver::default() };
    let adopt_status = AdoptStatus { store_dir: bytes(), last_failure: evil(), ..AdoptStatus::default() };
    let peer = PeerStatus {
        id: evil(),
        via: evil(),
        route: evil(),
        connected: true,
        shared: vec![evil()],
        lies: vec![evil()],
        ..PeerStatus::default()
    };
    let share =
        PeerShare { id: evil(), via: evil(), route: evil(), lies: vec![evil()], ..PeerShare::default() };
    let got = GotPath { store_path: evil(), root: evil(), was_here: false };
    let pinned = PinnedItem { subject: evil(), reason: evil() };
    let damage = Damage { subject: evil(), what: evil(), repaired: false, unrepaired_because: evil() };
    let answers = [
        status(&StatusReply {
            running: true,
            data_dir: bytes(),
            role: evil(),
            peer_id: evil(),
            http_address: evil(),
            iroh_addresses: vec![evil()],
            multiaddrs: vec![evil()],
            network: evil(),
            version: evil(),
            trusted_keys: vec![evil()],
            adopt: Some(adopt_status.clone()),
            peers: vec![peer],
            transfers: vec![TransferStatus {
                subject: evil(),
                peers: vec![giver],
                ..TransferStatus::default()
            }],
            liars: vec![LiarStatus { id: evil(), reason: evil(), at: 0 }],
            store: Some(StoreStatus { trouble: evil(), ..StoreStatus::default() }),
            ..StatusReply::default()
        }),
        add(&AddReply {
            paths: vec![added.clone()],
            missing_references: vec![evil()],
            ..AddReply::default()
        }),
        adopt(&AdoptReply { status: Some(adopt_status), goes_on: true, paths: vec![added] }),
        get(&GetReply { paths: vec![got], peers: vec![share], ..GetReply::default() }, Some(Path::new(EVIL))),
        verify(&VerifyReply { damages: vec![damage], ..VerifyReply::default() }),
        collect(&CollectReply {
            evicted: vec![Evicted { subject: evil(), used_at: 0 }],
            ..CollectReply::default()
        }),
        pin(&PinReply { pin: Some(pinned.clone()), is_here: true }),
        unpin(&UnpinReply { subject: evil() }),
        pins(&PinsReply { pins: vec![pinned] }),
    ];
    for answer in answers {
        for text in [&answer.text, &answer.remarks] {
            assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("firn: forged")), "{text}");
        }
        assert!(answer.text.contains("\\u{1b}[31m"), "{}", answer.text);
        assert!(answer.json.to_string().contains("\\u001b"), "{}", answer.json);
    }
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
    assert_eq!(&*answer.text, "app\nfirn:app\n");
    assert!(answer.remarks.contains("2 paths, 1 file"), "{}", answer.remarks);
    assert!(answer.remarks.contains("shared with nobody"), "{}", answer.remarks);
    assert_eq!(
        shape(&answer.json),
        "{announced,bytes,files,in_place,missing_references,\
         paths[{nar_hash,nar_size,root,shared,signed_by,store_path,was_known}],root,store_path}"
    );
    let answer = add(&AddReply { paths: vec![path("app", true)], ..reply });
    assert!(answer.remarks.contains("will be announced when a node runs"), "{}", answer.remarks);
    assert!(!answer.remarks.contains("references"), "{}", answer.remarks);
    let missing = |count: usize| AddReply {
        missing_references: vec!["/nix/store/x".into(); count],
        ..AddReply::default()
    };
    for (count, told) in
        [(1, "1 path that it references is not here"), (2, "2 paths that it references are not")]
    {
        let remarks = add(&missing(count)).remarks;
        assert!(remarks.contains(told) && remarks.contains("--closure"), "{remarks}");
    }
}

#[test]
fn get_tells_who_gave_what() {
    let share = PeerShare {
        id: "ab".into(),
        via: "dht".into(),
        asked: 2,
        bytes: 1024,
        lies: vec!["no".into()],
        route: "LAN".into(),
    };
    let got = GotPath { root: "firn:x".into(), ..GotPath::default() };
    let reply = GetReply { paths: vec![got], peers: vec![share], ..GetReply::default() };
    let answer = get(&reply, Some(Path::new("/o")));
    assert_eq!(&*answer.text, "firn:x\n");
    assert_eq!(
        shape(&answer.json),
        "{bytes,fetched_bytes,files,out,paths[{root,store_path,was_here}],peers[{asked,bytes,id,lies[],route,via}],root,\
         seconds,store_path}"
    );
    assert_eq!(answer.json["out"], "/o");
    assert_eq!(answer.json["store_path"], Value::Null);
    for part in ["peer ab (LAN, via dht) gave 1.00 KiB in 2 answers", "LIED: no", "written to /o"] {
        assert!(answer.remarks.contains(part), "{part} is not in\n{}", answer.remarks);
    }
}

#[test]
fn what_was_known_and_what_stays_in_place_is_told() {
    let path = AddedPath { was_known: true, ..AddedPath::default() };
    let known = add(&AddReply { paths: vec![path.clone()], ..AddReply::default() });
    assert!(known.remarks.contains("known already"), "{}", known.remarks);
    let paths = vec![path.clone(), AddedPath::default(), path];
    let in_place = add(&AddReply { paths, in_place: true, ..AddReply::default() });
    assert!(in_place.remarks.contains("2 of 3 paths known already"), "{}", in_place.remarks);
    assert!(in_place.remarks.contains("they must stay there"), "{}", in_place.remarks);
}

#[test]
fn verify_names_what_is_damaged() {
    let damage =
        Damage { subject: "/nix/store/x".into(), what: "a flipped byte".into(), ..Damage::default() };
    let reply = VerifyReply { checked: 2, bytes: 3, damages: vec![damage.clone()], fetched_bytes: 0 };
    let answer = verify(&reply);
    assert_eq!(&*answer.text, "/nix/store/x: a flipped byte\n");
    assert!(answer.remarks.starts_with("checked 2 paths and trees, 3 B; 1 damage\n"), "{}", answer.remarks);
    assert!(answer.remarks.contains("`firn verify --repair`"), "{}", answer.remarks);
    assert_eq!(
        shape(&answer.json),
        "{bytes,checked,damages[{repaired,subject,unrepaired_because,what}],fetched_bytes}"
    );
    let repaired = Damage { repaired: true, ..damage.clone() };
    let stays = Damage { unrepaired_because: "nobody has it".into(), ..damage };
    let well = verify(&VerifyReply { damages: vec![repaired.clone()], ..reply.clone() });
    assert_eq!(well.remarks.lines().count(), 1, "there is nothing to do: {}", well.remarks);
    let answer = verify(&VerifyReply { damages: vec![repaired, stays], fetched_bytes: 9, ..reply });
    assert_eq!(
        &*answer.text,
        "/nix/store/x: a flipped byte; repaired\n\
         /nix/store/x: a flipped byte; not repaired: nobody has it\n"
    );
    assert!(answer.remarks.contains("2 damages, 1 repaired with 9 B from peers\n"), "{}", answer.remarks);
    assert!(answer.remarks.contains("added again"), "{}", answer.remarks);
}

#[test]
fn gc_tells_what_went_and_what_is_left() {
    let evicted = Evicted { subject: "/nix/store/x".into(), used_at: 0 };
    let reply = CollectReply {
        evicted: vec![evicted],
        blobs: 1,
        directories: 2,
        bytes: 2048,
        disk_bytes: 3000,
        disk_bytes_max: Some(1024),
        ..CollectReply::default()
    };
    let answer = collect(&reply);
    assert_eq!(&*answer.text, "/nix/store/x\n");
    assert_eq!(answer.json["evicted"][0]["used_at"], Value::Null);
    assert!(
        answer.remarks.contains("1 path or tree evicted\ndeleted 1 blob, 2 directories"),
        "{}",
        answer.remarks
    );
    assert!(answer.remarks.contains("more than 1.00 KiB: the rest is pinned"), "{}", answer.remarks);
    let answer = collect(&CollectReply { dry_run: true, ..reply });
    assert!(answer.remarks.contains("1 path or tree would be evicted\nbesides that"), "{}", answer.remarks);
    assert!(answer.remarks.ends_with("the store would take about 952 B of 1.00 KiB\n"), "{}", answer.remarks);
}

#[test]
fn stats_tell_what_is_saved_and_what_it_costs() {
    let reply = StatsReply {
        total_bytes: 30,
        unique_bytes: 20,
        blob_bytes: 25,
        adopted_bytes: 5,
        disk_bytes: 26,
        ..StatsReply::default()
    };
    let answer = stats(&reply);
    assert_eq!((&answer.json["dedup_ratio"], &answer.json["overhead_bytes"]), (&1.5.into(), &6.into()));
    assert!(answer.text.contains("1.50 times"), "{}", answer.text);
    let empty = stats(&StatsReply::default());
    assert_eq!(empty.json["dedup_ratio"], 1.0);
}

#[test]
fn adopting_tells_how_far_it_is_and_what_is_left_out() {
    let status = AdoptStatus {
        store_dir: "/nix/store".into(),
        total_paths: 9,
        adopted_paths: 3,
        waiting_paths: 4,
        untrusted_paths: 1,
        failed_paths: 1,
        last_failure: "no".into(),
        ..AdoptStatus::default()
    };
    let answer = adopt(&AdoptReply { status: Some(status), goes_on: true, paths: Vec::new() });
    let told = "/nix/store: 3 of 9 paths adopted, 0 B, 4 to go, 1 without a trusted signature, 1 failed, lastly: no\n";
    assert!(answer.remarks.starts_with(told), "{}", answer.remarks);
    assert!(answer.remarks.contains("goes on"), "{}", answer.remarks);
    assert_eq!(answer.json["store"]["total_paths"], 9);
}

#[test]
fn networks_are_called_by_their_words() {
    use crate::config::{private, public};
    let tenth: ipnet::IpNet = "1.2.3.0/24".parse().unwrap();
    assert_eq!(dial_words(&[public(), private(), vec![tenth]].concat()), ["public", "private", "1.2.3.0/24"]);
    assert!(dial_words(&[]).is_empty());
}
