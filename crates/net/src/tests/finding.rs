//! Nodes find each other with nothing but the address of one.

use futures::future::join_all;
use iroh::TransportAddr;
use libp2p::{
    kad::{Quorum, Record},
    swarm::SwarmEvent,
};

use super::*;
use crate::{
    DialRules, Reach,
    address::{AddressRecord, record_key},
    swarm::{self, BehaviourEvent, SwarmConfig, kad_protocol},
    transport::Silent,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_found_and_asked_by_the_address_of_another_node_alone() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    provider.announce(vec![key(1), key(2)]).await;
    let consumer = start(far(3, &entrance), Manner::Echo).await;
    assert_eq!(consumer.reach(), Reach::Dht, "a first dial is open");
    find(&consumer, 2, provider.status().peer).await;
    assert_eq!(ask(&consumer, provider.status().peer, request()).await.unwrap(), echo(&consumer, &request()));
    assert_eq!(consumer.find(key(77)).collect::<Vec<_>>().await, []);
    until("it shows what it announces", || provider.status().announced == 2).await;
    assert_eq!(bootstrap.status().announced, 0);

    // What is announced no longer is not renewed; what is new is found.
    provider.announce(vec![key(2), key(3)]).await;
    find(&consumer, 3, provider.status().peer).await;
    shut_down([consumer, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_before_the_bootstrap_node_ran_is_found_after() {
    let config = server(1, &[]);
    let early = start(config.clone(), Manner::Echo).await;
    let entrance = entrance(&early).await;
    let address = crate::dial::quic_address(&entrance[0]).unwrap();
    shut_down([early]).await;

    let provider = start(server(2, &entrance), Manner::Echo).await;
    provider.announce(vec![key(1)]).await;
    let consumer = start(far(3, &entrance), Manner::Echo).await;
    assert_eq!(consumer.find(key(1)).collect::<Vec<_>>().await, [], "nobody is there");
    assert_eq!(consumer.reach(), Reach::None, "the first dial is over");

    let bootstrap = start_again(NetConfig { libp2p_bind: vec![address], ..config }, Manner::Echo).await;
    find(&consumer, 1, provider.status().peer).await;
    assert!(ask(&consumer, provider.status().peer, request()).await.is_ok());
    shut_down([consumer, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moved_is_reached_at_its_new_address() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    let (id, before) = (provider.status().peer, provider.status().iroh);
    provider.announce(vec![key(1)]).await;
    let consumer = start(far(3, &entrance), Manner::Echo).await;
    find(&consumer, 1, id).await;
    assert!(ask(&consumer, id, request()).await.is_ok());
    shut_down([provider]).await;

    let provider = start(server(2, &entrance), Manner::Echo).await;
    assert_ne!(provider.status().iroh, before);
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    while ask(&consumer, id, request()).await.is_err() {
        looks.tick().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "not reached in time");
    }
    shut_down([consumer, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_address_is_neither_kept_nor_believed() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    let id = provider.status().peer;
    provider.announce(vec![key(1)]).await;
    let before = start(far(3, &entrance), Manner::Echo).await;
    find(&before, 1, id).await;
    assert!(ask(&before, id, request()).await.is_ok(), "the true record is there");

    forge(&entrance, id).await;

    let after = start(far(4, &entrance), Manner::Echo).await;
    find(&after, 1, id).await;
    assert_eq!(ask(&after, id, request()).await.unwrap(), echo(&after, &request()));
    shut_down([before, after, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_node_that_forgot_everything_is_told_again() {
    let config = server(1, &[]);
    let bootstrap = start(config.clone(), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let address = crate::dial::quic_address(&entrance[0]).unwrap();
    let provider = start(server(2, &entrance), Manner::Echo).await;
    let other = start(server(3, &entrance), Manner::Echo).await;
    provider.announce(vec![key(1)]).await;
    find(&other, 1, provider.status().peer).await;
    shut_down([bootstrap]).await;

    let bootstrap = start_again(NetConfig { libp2p_bind: vec![address], ..config }, Manner::Echo).await;
    let consumer = start(far(4, &entrance), Manner::Echo).await;
    find(&consumer, 1, provider.status().peer).await;
    shut_down([consumer, other, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_gone_hold_up_no_look_up_for_long() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let gone = join_all((10..15).map(|seed| start(server(seed, &entrance), Manner::Echo))).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    for net in gone.iter().chain([&provider]) {
        net.announce(vec![key(1)]).await;
    }
    until("all announced", || bootstrap.status().provider_records == 6).await;
    shut_down(gone).await;
    let consumer = start(far(3, &entrance), Manner::Echo).await;
    until("it joined", || consumer.status().dht_peers > 0).await;
    let look_up = async |byte| {
        let before = Instant::now();
        let found: Vec<Found> = consumer.find(key(byte)).collect().await;
        (found.len(), before.elapsed())
    };
    let (found, first) = look_up(1).await;
    let (missed, second) = look_up(77).await;
    assert_eq!((found, missed), (6, 0));
    assert!(first < Duration::from_secs(9) && second < Duration::from_secs(1), "{first:?} {second:?}");
    shut_down([consumer, provider, bootstrap]).await;
}

/// Puts a record of the forger's own under the key of this peer, at every node.
async fn forge(entrance: &[Multiaddr], victim: PeerId) {
    let forger = Identity::from_seed([66; 32]);
    let nowhere = vec![TransportAddr::Ip("127.0.0.1:9".parse().unwrap())];
    let forged = AddressRecord::sign(&forger, nowhere).unwrap();
    let mut swarm = swarm::build(&SwarmConfig {
        identity: forger,
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        named: BTreeSet::new(),
        rules: DialRules::near().with_loopback(),
        silent: Silent::default(),
        protocol: kad_protocol(None).unwrap(),
        is_server: false,
    })
    .unwrap();
    swarm.dial(entrance[0].clone()).unwrap();
    let put = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                    let kad = &mut swarm.behaviour_mut().kad;
                    kad.add_address(&peer_id, endpoint.get_remote_address().clone());
                    let record = Record::new(record_key(victim), forged.as_bytes().to_vec());
                    kad.put_record_to(record, [peer_id].into_iter(), Quorum::One);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Kad(libp2p::kad::Event::OutboundQueryProgressed {
                    result: libp2p::kad::QueryResult::PutRecord(result),
                    ..
                })) => return result.unwrap(),
                _ => {}
            }
        }
    };
    timeout(DEADLINE, put).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_other_names_are_apart() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    let elsewhere = NetConfig { network: Some("elsewhere".into()), ..far(3, &entrance) };
    let consumer = start(elsewhere, Manner::Echo).await;
    until("the provider joined", || provider.status().dht_peers == 1).await;
    until("the consumer is connected", || !consumer.status().connected.is_empty()).await;
    provider.announce(vec![key(1)]).await;
    assert_eq!(consumer.find(key(1)).collect::<Vec<_>>().await, []);
    assert_eq!(consumer.status().dht_peers, 0);
    shut_down([consumer, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_is_dropped_leaves_the_others_alone() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    provider.announce(vec![key(1)]).await;
    let consumer = start(far(3, &entrance), Manner::Echo).await;
    for dropped in 0..200 {
        assert!(
            timeout(Duration::from_millis(1), consumer.find(key(dropped)).count()).await.is_err()
                || dropped > 0
        );
    }
    find(&consumer, 1, provider.status().peer).await;
    shut_down([consumer, provider, bootstrap]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_that_panics_is_opened_anew_where_it_was_and_what_it_announced_is_announced_again() {
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(server(2, &entrance), Manner::Echo).await;
    let id = provider.status().peer;
    provider.announce(vec![key(1)]).await;
    let before = start(far(3, &entrance), Manner::Echo).await;
    find(&before, 1, id).await;

    // With the swarm goes what it kept for others.
    bootstrap.discovery().unwrap().panic().await;
    until("it is another swarm", || bootstrap.status().provider_records == 0).await;
    until("it listens again", || !bootstrap.status().libp2p.is_empty()).await;
    assert_eq!(bootstrap.status().libp2p, entrance);
    provider.discovery().unwrap().panic().await;

    let after = start(far(4, &entrance), Manner::Echo).await;
    find(&after, 1, id).await;
    assert_eq!(ask(&after, id, request()).await.unwrap(), echo(&after, &request()));
    find(&before, 1, id).await;
    assert_eq!(provider.status().announced, 1);
    shut_down([before, after, provider, bootstrap]).await;
}

/// A node on loopback with the identity of another one.
async fn clone_of(seed: u8, change: impl FnOnce(&mut NetConfig)) -> Net {
    let mut config = server(seed, &[]);
    change(&mut config);
    start(config, Manner::Echo).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_the_identity_of_another_one_is_recognised_by_a_handshake() {
    let original = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&original).await;
    assert_eq!(original.status().duplicates, []);
    let clone = clone_of(1, |config| config.bootstrap = entrance.clone()).await;
    let dialled = crate::dial::quic_address(&entrance[0]).unwrap();
    until("the clone knows", || clone.status().duplicates == [dialled]).await;
    until("the original knows", || original.status().duplicates.len() == 1).await;
    shut_down([clone, original]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_named_to_itself_is_nobody_else() {
    let early = start(server(1, &[]), Manner::Echo).await;
    let (entrance, at) = (entrance(&early).await, named(&early));
    let libp2p = crate::dial::quic_address(&entrance[0]).unwrap();
    shut_down([early]).await;
    let config = NetConfig {
        iroh_bind: vec![at.address],
        libp2p_bind: vec![libp2p],
        bootstrap: entrance,
        peers: vec![at],
        ..server(1, &[])
    };
    let net = start_again(config, Manner::Echo).await;
    until("it has dialled itself", || net.discovery().unwrap().view.borrow().met_itself > 0).await;
    assert_eq!(net.status().duplicates, []);
    shut_down([net]).await;

    let elsewhere = clone_of(1, |config| config.peers = vec![at]).await;
    assert_eq!(elsewhere.status().duplicates, [at.address], "the configuration says so");
    shut_down([elsewhere]).await;
}
