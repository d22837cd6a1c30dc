//! Rates, and how they are shared out.

use futures::future::join_all;

use super::*;
use crate::RateLimits;

fn rate(bytes: u64) -> Option<std::num::NonZeroU64> {
    Some(bytes.try_into().unwrap())
}

async fn asker(giver: &Net, seed: u8, limits: RateLimits) -> Net {
    start(NetConfig { peers: vec![named(giver)], limits, ..near(seed) }, Manner::Echo).await
}

/// How long it takes to have so many replies of so many streams at once.
async fn time_of(asker: &Net, giver: &Net, streams: usize) -> Duration {
    let (begun, id) = (Instant::now(), giver.status().peer);
    let replies = join_all((0..streams).map(|_| ask(asker, id, request()))).await;
    replies.into_iter().for_each(|reply| drop(reply.unwrap()));
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_limit_holds_and_is_shown() {
    let limits = RateLimits { upload: rate(2 << 20), ..RateLimits::default() };
    let giver = start(NetConfig { limits, ..near(1) }, Manner::Long(1 << 20)).await;
    let asker = asker(&giver, 2, RateLimits::default()).await;
    let took = time_of(&asker, &giver, 6).await;
    assert!((Duration::from_millis(2500)..Duration::from_millis(4500)).contains(&took), "{took:?}");
    let (given, taken) = (giver.status().traffic, asker.status().traffic);
    let id = asker.status().peer;
    assert!((1 << 20..3 << 20).contains(&given.all.upload), "{given:?}");
    assert_eq!((given.peers[&id].upload, given.peers[&id].connections), (given.all.upload, 1));
    assert!((1 << 20..3 << 20).contains(&taken.peers[&giver.status().peer].download), "{taken:?}");
    assert!(asker.download_rate(&giver.status().peer) > 1 << 20 && asker.download_rate(&id) == 0);
    assert_eq!((given.limits, given.turned_away), (limits, 0));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_limit_holds_and_nothing_stalls() {
    let giver = start(near(1), Manner::Long(256 << 10)).await;
    let limits = RateLimits { download_peer: rate(512 << 10), ..RateLimits::default() };
    let asker = asker(&giver, 2, limits).await;
    // 4 MiB, each stream of which gets 16 KiB a second.
    let took = time_of(&asker, &giver, 16).await;
    assert!((Duration::from_secs(7)..Duration::from_secs(10)).contains(&took), "{took:?}");
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_many_streams_does_not_starve_one_with_one() {
    let limits = RateLimits { upload: rate(1 << 20), ..RateLimits::default() };
    let giver = start(NetConfig { limits, ..near(1) }, Manner::Long(1 << 20)).await;
    let (greedy, modest) =
        (asker(&giver, 2, RateLimits::default()).await, asker(&giver, 3, RateLimits::default()).await);
    let id = giver.status().peer;
    let greed = (0..32).map(|_| tokio::spawn(greedy.ask(id, request(), Received::default())));
    let greed: Vec<_> = greed.collect();
    until("the greedy one is served", || giver.status().traffic.all.requests == 32).await;
    // Alone it would take a second, and as one of 33 equals 33.
    let took = time_of(&modest, &giver, 1).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    greed.into_iter().for_each(|asking| asking.abort());
    shut_down([modest, greedy, giver]).await;
}
