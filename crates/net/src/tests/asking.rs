//! One node asks another.

use std::net::UdpSocket;

use firn_engine::{Find, Found, Via};
use firn_exchange::{Compress, Known};
use futures::{StreamExt, future::join_all};

use super::*;
use crate::{Reach, Route};

async fn pair(manner: Manner) -> (Net, Net, PeerId) {
    let giver = start(near(1), manner).await;
    let asker = start(NetConfig { peers: vec![named(&giver)], ..near(2) }, Manner::Echo).await;
    let id = giver.status().peer;
    (giver, asker, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered() {
    let (giver, asker, id) = pair(Manner::Echo).await;
    assert_eq!(ask(&asker, id, request()).await.unwrap(), echo(&asker, &request()));
    assert_eq!(asker.route_of(&id), Some(Route::Lan));
    shut_down([giver]).await;
    until("its end is noticed", || asker.route_of(&id).is_none()).await;
    shut_down([asker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_peer_is_connected_to_before_it_is_asked_and_again_after_it_was_away() {
    let (giver, asker, id) = pair(Manner::Echo).await;
    let address = giver.status().iroh[0];
    until("it is connected", || asker.route_of(&id).is_some()).await;
    shut_down([giver]).await;
    until("its end is noticed", || asker.route_of(&id).is_none()).await;
    let giver = start_again(NetConfig { iroh_bind: vec![address], ..near(1) }, Manner::Echo).await;
    until("it is connected again", || asker.route_of(&id).is_some()).await;
    assert_eq!(giver.route_of(&asker.status().peer), None, "only who looks for peers connects to them");
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_answer_a_dial_is_not_waited_for_until_it_is_there() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let silent = StaticPeer { id: Identity::from_seed([1; 32]).peer_id(), address };
    let asker = start(NetConfig { peers: vec![silent], ..near(2) }, Manner::Echo).await;
    let fails = async || {
        let error = ask(&asker, silent.id, request()).await.unwrap_err();
        assert!(matches!(error, AskError::Unreachable(_)), "{error}");
    };
    fails().await;
    let before = Instant::now();
    for _ in 0..1000 {
        fails().await;
    }
    assert!(before.elapsed() < crate::DIAL_TIMEOUT, "{:?}", before.elapsed());
    drop(socket);
    let giver = start_again(NetConfig { iroh_bind: vec![address], ..near(1) }, Manner::Echo).await;
    until("it is connected", || asker.route_of(&silent.id).is_some()).await;
    assert_eq!(ask(&asker, silent.id, request()).await.unwrap(), echo(&asker, &request()));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_may_come_compressed_if_the_user_wants_it_so() {
    let giver = start(near(1), Manner::Echo).await;
    let config = NetConfig { peers: vec![named(&giver)], compress: Compress::Always, ..near(2) };
    let asker = start(config, Manner::Echo).await;
    let reply = ask(&asker, giver.status().peer, request()).await.unwrap();
    assert!(reply.starts_with(&request().encode(true)));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_near_stranger_directories_may_come_compressed_and_nothing_else() {
    let (giver, asker, id) = pair(Manner::Echo).await;
    let node = firn_castore::Node::Symlink { target: b"to".as_slice().try_into().unwrap() };
    let closure = Request::Closure { root: node.into(), known: Known::default() };
    for (request, takes_zstd) in [(closure, true), (request(), false)] {
        let reply = ask(&asker, id, request.clone()).await.unwrap();
        assert!(reply.starts_with(&request.encode(takes_zstd)), "{request:?}");
    }
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_streams_are_all_answered() {
    let (giver, asker, id) = pair(Manner::Long(300_000)).await;
    let replies = join_all((0..100).map(|_| ask(&asker, id, request()))).await;
    assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.len() == 300_000)));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_comes_whole() {
    let (giver, asker, id) = pair(Manner::Long(10_000_001)).await;
    assert_eq!(ask(&asker, id, request()).await.unwrap().len(), 10_000_001);
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_request_allows_is_refused() {
    let (giver, asker, id) = pair(Manner::Long(10_000_000)).await;
    let request = Request::Have { root: None, blobs: Vec::new() };
    let bytes_max = request.reply_bytes_max();
    let error = ask(&asker, id, request).await.unwrap_err();
    assert!(matches!(error, AskError::TooMuch { bytes_max: max } if max == bytes_max), "{error}");
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_stops_is_given_up() {
    let (manner, stalled) = stall();
    let (giver, asker, id) = pair(manner).await;
    let before = Instant::now();
    let error = ask(&asker, id, request()).await.unwrap_err();
    assert!(matches!(error, AskError::Stalled), "{error}");
    assert!(before.elapsed() < Duration::from_secs(5));
    drop(stalled);
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_broken_off_is_no_reply() {
    for manner in [Manner::BreakOff, Manner::Panic, Manner::PanicLater] {
        let (giver, asker, id) = pair(manner).await;
        for _ in 0..2 {
            let error = ask(&asker, id, request()).await.unwrap_err();
            assert!(matches!(error, AskError::Broken(_)), "{error}");
        }
        shut_down([asker, giver]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unreachable() {
    let unknown = Identity::from_seed([9; 32]).peer_id();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gone =
        StaticPeer { id: Identity::from_seed([8; 32]).peer_id(), address: socket.local_addr().unwrap() };
    let asker = start(NetConfig { peers: vec![gone], ..near(2) }, Manner::Echo).await;
    let error = ask(&asker, gone.id, request()).await.unwrap_err();
    assert!(matches!(error, AskError::Unreachable(_)), "{error}");
    for peer in [unknown, PeerId::from([0xff; 32])] {
        let error = ask(&asker, peer, request()).await.unwrap_err();
        assert!(matches!(error, AskError::Broken(_)), "its address may be known later: {error}");
    }
    shut_down([asker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_is_asked_again() {
    let (giver, asker, id) = pair(Manner::Echo).await;
    let address = giver.status().iroh[0];
    assert!(ask(&asker, id, request()).await.is_ok());
    shut_down([giver]).await;
    let giver = start_again(NetConfig { iroh_bind: vec![address], ..near(1) }, Manner::Echo).await;
    assert_eq!(ask(&asker, id, request()).await.unwrap(), echo(&asker, &request()));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_peers_are_found_for_everything() {
    let (giver, asker, id) = pair(Manner::Echo).await;
    assert_eq!((giver.reach(), asker.reach()), (Reach::None, Reach::Near));
    let found: Vec<Found> = asker.find(key(1)).collect().await;
    assert_eq!(found, [Found { peer: id, via: Via::Static }]);
    assert_eq!(giver.find(key(1)).collect::<Vec<_>>().await, []);
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let answerer = || Arc::new(Scripted(Manner::Echo));
    let iroh = NetConfig { iroh_bind: vec![address], ..near(1) };
    let error = Net::start(iroh, answerer()).await.err().unwrap();
    assert!(
        matches!(error, NetError::Bind { .. }) && error.to_string().contains(&address.to_string()),
        "{error}"
    );
    let libp2p = NetConfig { libp2p_bind: vec![address], ..near(1) };
    let error = Net::start(libp2p, answerer()).await.err().unwrap();
    assert!(
        matches!(error, NetError::Listen { .. }) && error.to_string().contains(&address.to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configuration_is_refused() {
    let answerer = || Arc::new(Scripted(Manner::Echo));
    let name = NetConfig { network: Some("a/b".into()), ..far(1, &[]) };
    assert!(matches!(Net::start(name, answerer()).await, Err(NetError::NetworkName { .. })));
    let tcp = far(1, &["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
    assert!(matches!(Net::start(tcp, answerer()).await, Err(NetError::Bootstrap { .. })));
    let address = "127.0.0.1:0".parse().unwrap();
    let twice = NetConfig { iroh_bind: vec![address, address], ..near(1) };
    assert!(matches!(Net::start(twice, answerer()).await, Err(NetError::BindTwice { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_what_is_under_way() {
    let (manner, stalled) = stall();
    let (giver, asker, id) = pair(manner).await;
    let asking = tokio::spawn(asker.ask(id, request(), Received::default()));
    let Stalled { begun, _end: end } = stalled;
    timeout(DEADLINE, begun).await.unwrap().unwrap();
    shut_down([giver]).await;
    assert!(timeout(DEADLINE, asking).await.unwrap().unwrap().is_err());
    let stopped = asker.stopped();
    let (ended, ()) = tokio::join!(asker.shutdown(), stopped);
    ended.unwrap();
    asker.shutdown().await.unwrap();
    drop(end);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_has_failed_is_opened_anew_where_it_was() {
    let giver = start(near(1), Manner::Echo).await;
    let asker = start(NetConfig { peers: vec![named(&giver)], ..near(2) }, Manner::Echo).await;
    let expected = echo(&asker, &request());
    for broken in [&giver, &asker] {
        assert_eq!(ask(&asker, giver.status().peer, request()).await.unwrap(), expected);
        let before = broken.status().iroh;
        broken.break_endpoint().await;
        let deadline = Instant::now() + DEADLINE;
        while ask(&asker, giver.status().peer, request()).await.is_err() {
            assert!(Instant::now() < deadline, "the endpoint stays closed");
        }
        assert_eq!(broken.status().iroh, before);
    }
    shut_down([asker, giver]).await;
}
