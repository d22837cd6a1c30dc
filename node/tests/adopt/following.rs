//! The adopter beside an engine without peers.

use std::{fs, path::Path, sync::Arc, time::Duration};

use firn_bao::Span;
use firn_engine::{Engine, EngineConfig, Nobody};
use firn_exchange::Limits;
use firn_nix::StorePath;
use firn_node::{
    adopter::{AdoptConfig, AdoptStatus, Adopter},
    nixdb::NixStore,
};
use firn_store::{DiskStore, Reason, Visible, closure};
use firn_trust::{Ground, Policy};
use tokio::time::{Instant, timeout};

use crate::world::{NixRoot, noise};

const SOON: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// An engine with its adopter.
struct Node {
    engine: Engine,
    adopter: Adopter,
}

impl Node {
    async fn start(nix: &NixRoot, data_dir: &Path) -> Self {
        let store = Arc::new(DiskStore::open(&data_dir.join("store")).unwrap());
        let policy = Policy::new(vec![nix.public_key.parse().unwrap()]);
        let (ask, find) = (Arc::new(Nobody), Arc::new(Nobody));
        let config = EngineConfig { limits: Limits::default(), seed: 1, me: [0; 32].into() };
        let engine = Engine::open(store, policy.clone(), ask, find, config).await.unwrap();
        let config = AdoptConfig::new(NixStore::at(nix.path(), None));
        let config = AdoptConfig { poll: Duration::from_millis(100), ..config };
        let adopter = Adopter::start(engine.clone(), policy, config).unwrap();
        Self { engine, adopter }
    }

    /// Waits until the status is as the test wants it.
    async fn until(&self, what: &str, is_so: impl Fn(&AdoptStatus) -> bool) -> AdoptStatus {
        let mut changes = self.adopter.subscribe();
        let waited = timeout(SOON, changes.wait_for(|status| is_so(status))).await;
        match waited {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("not within {SOON:?}: {what}: {:?}", self.adopter.status()),
        }
    }

    async fn settled(&self, adopted: u64) -> AdoptStatus {
        self.until(&format!("{adopted} adopted"), |status| status.settled && status.adopted == adopted).await
    }

    fn has(&self, path: &StorePath) -> bool {
        self.engine.path(path.hash()).is_some()
    }

    /// Whether all blobs of a path can be read.
    fn is_whole(&self, path: &StorePath) -> bool {
        let Some(path) = self.engine.path(path.hash()) else { return false };
        let store = self.engine.store();
        let closure = closure(&**store, &path.facts().root).unwrap().unwrap();
        closure.blobs().iter().all(|blob| store.read_span(blob, Span::whole(blob.size)).unwrap().is_some())
    }

    async fn stop(self) {
        let begun = Instant::now();
        self.adopter.stop().await.unwrap();
        assert!(begun.elapsed() < STOPS_WITHIN, "{:?}", begun.elapsed());
    }
}

/// The nice values of this process's threads: those of the adopter, by their names, and those of the others.
fn nice_values() -> (Vec<i32>, Vec<i32>) {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // One that has just ended counts for nothing.
    let values = tasks.filter_map(|task| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let value = rustix::process::getpriority_process(thread_id(&task)).ok()?;
        Some((name.starts_with("firn-adopt"), value))
    });
    let (adopters, others): (Vec<_>, Vec<_>) = values.partition(|(is_adopter, _)| *is_adopter);
    let value = |(_, value)| value;
    (adopters.into_iter().map(value).collect(), others.into_iter().map(value).collect())
}

fn thread_id(task: &Path) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_is_adopted_and_what_is_collected_withdrawn() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let signed = nix.add_signed("signed", &[("small", b"text"), ("large", &noise(1, 3_000_000))]);
    let unsigned = nix.add("unsigned", &[("file", b"nobody has signed this")]);
    let node = Node::start(&nix, data.path()).await;

    let status = node.settled(1).await;
    let (adopters, others) = nice_values();
    assert_eq!(adopters, [19, 19], "the watcher and one worker");
    // The tests themselves may run under `nice`.
    let started_with = rustix::process::getpriority_process(None).unwrap();
    assert!(others.iter().all(|value| *value == started_with), "{others:?}, not {started_with}");
    assert_eq!((status.total, status.done, status.skipped_untrusted, status.failed), (2, 1, 1, 0));
    assert!(status.adopted_bytes > 3_000_000 && status.last_error.is_none(), "{status:?}");
    let path = node.engine.path(signed.hash()).unwrap();
    assert_eq!(path.ground(), Ground::NarMatch);
    assert!(node.engine.store().path(signed.hash()).unwrap().unwrap().shared());
    assert!(!node.has(&unsigned));
    let pins = node.engine.pins().await.unwrap();
    assert_eq!(pins.get(&Visible::Path(*signed.hash())), Some(&Reason::adopted()));
    let usage = node.engine.store().usage().unwrap();
    assert_eq!((usage.blobs, usage.adopted_blobs, usage.adopted_bytes), (2, 2, 3_000_004));

    let new = nix.add_signed("new", &[("file", b"this came later")]);
    node.settled(2).await;
    assert!(node.is_whole(&new));
    nix.sign("cache-1", &unsigned);
    node.settled(3).await;
    assert!(node.has(&unsigned), "it is signed by now");

    nix.delete(&signed);
    let status = node.until("one is withdrawn", |status| status.withdrawn == 1).await;
    assert!(!node.has(&signed), "{status:?}");
    assert!(!node.engine.pins().await.unwrap().contains_key(&Visible::Path(*signed.hash())));
    assert_eq!(node.settled(2).await.total, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_reads_nothing_twice() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let (kept, gone) =
        (nix.add_signed("kept", &[("file", b"contents")]), nix.add_signed("gone", &[("file", b"other")]));
    let node = Node::start(&nix, data.path()).await;
    node.settled(2).await;
    node.stop().await;

    // Whoever reads this path anew would refuse it.
    fs::write(nix.broken_open(&kept, "file"), "Contents").unwrap();
    nix.delete(&gone);
    let new = nix.add_signed("new", &[("file", b"new")]);
    let node = Node::start(&nix, data.path()).await;
    let status = node.settled(2).await;
    assert_eq!((status.failed, status.withdrawn), (0, 1), "{status:?}");
    assert!(node.has(&kept) && node.has(&new) && !node.has(&gone));

    // Once it is read it is found to be another, withdrawn, and not taken again.
    assert!(!node.is_whole(&kept));
    let status = node.until("it is refused", |status| status.failed == 1).await;
    assert!(!node.has(&kept), "{status:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_stood_in_a_collected_path_are_found_in_another() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let (same, own) = (noise(2, 300_000), noise(3, 100_000));
    let first = nix.add_signed("first", &[("same", &same), ("small", b"same")]);
    let second = nix.add_signed("second", &[("same", &same), ("own", &own), ("small", b"same")]);
    let third = nix.add_signed("third", &[("own", b"nothing in common")]);
    let node = Node::start(&nix, data.path()).await;
    node.settled(3).await;
    nix.delete(&first);
    node.until("one is withdrawn", |status| status.withdrawn == 1).await;
    let status = node.settled(2).await;
    assert_eq!(status.failed, 0, "{status:?}");
    assert!(node.is_whole(&second) && node.is_whole(&third));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_what_nix_says_is_not_taken_until_nix_says_something_else() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let wrong = nix.add_signed("wrong", &[("file", b"right")]);
    let right = nix.add_signed("right", &[("file", b"right as well")]);
    let file = nix.broken_open(&wrong, "file");
    fs::write(&file, "wrong").unwrap();
    let node = Node::start(&nix, data.path()).await;
    let status = node.settled(1).await;
    assert_eq!(status.failed, 1);
    let error = status.last_error.unwrap();
    assert!(error.contains(&wrong.to_string()) && error.contains("Nix's database"), "{error}");
    assert!(node.has(&right) && !node.has(&wrong));

    fs::write(&file, "right").unwrap();
    nix.make_key("other-1");
    nix.sign("other-1", &wrong);
    assert_eq!(node.settled(2).await.failed, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_later_is_read_later() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let path = nix.add_signed("path", &[("file", b"text")]);
    let database = nix.path().join("nix/var/nix/db/db.sqlite");
    let elsewhere = database.with_file_name("elsewhere");
    fs::rename(&database, &elsewhere).unwrap();
    let node = Node::start(&nix, data.path()).await;
    let absent = node.until("it is said to be absent", |status| status.last_error.is_some()).await;
    assert!(absent.last_error.unwrap().contains(database.to_str().unwrap()) && !absent.settled);

    fs::write(&database, "this is no database at all, though it has the name of one").unwrap();
    let is_odd = |status: &AdoptStatus| {
        status.last_error.as_ref().is_some_and(|error| error.contains("not a database"))
    };
    node.until("it is said to be none", is_odd).await;
    fs::rename(&elsewhere, &database).unwrap();
    node.settled(1).await;
    assert!(node.is_whole(&path));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_a_large_path() {
    let (nix, data) = (NixRoot::new(), tempfile::tempdir().unwrap());
    let names: Vec<String> = (0..300).map(|number| format!("file-{number}")).collect();
    let contents: Vec<Vec<u8>> = (0..300).map(|number| noise(number, 400_000)).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&contents).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let path = nix.add_signed("large", &files);
    let node = Node::start(&nix, data.path()).await;
    node.until("it is under way", |status| !status.current.is_empty()).await;
    node.stop().await;

    let node = Node::start(&nix, data.path()).await;
    node.settled(1).await;
    assert!(node.is_whole(&path));
    node.stop().await;
}
