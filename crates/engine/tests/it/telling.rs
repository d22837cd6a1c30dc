//! What the log says of a fetch.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;

use crate::fakes::net::{Net, honest, spoils_contents};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, node, peer, publish};

/// All that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Logs what happens on this thread.
    fn start(&self, level: LevelFilter) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        tracing::subscriber::set_default(subscriber.with_writer(move || log.clone()).finish())
    }

    /// The engine's lines.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("firn_engine::")).map(String::from).collect()
    }
}

#[tokio::test]
async fn a_fetch_is_a_story_within_one_span() {
    let net = Net::default();
    let (_, honest) = peer(&net, 1, honest()).await;
    let (_, liar) = peer(&net, 2, spoils_contents()).await;
    let tree = varied(1);
    let hash = publish(&honest, "told", &tree, Signed::Attested).await;
    publish(&liar, "told", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let log = Log::default();
    let guard = log.start(LevelFilter::TRACE);
    engine.get_path(hash, &|_| {}).await.unwrap();
    drop(guard);
    let lines = log.lines();
    let span = format!("flight{{path={hash}}}: ");
    assert!(lines.iter().all(|line| line.contains(&span)), "{lines:#?}");
    let place = |words: &str| {
        let place = lines.iter().position(|line| line.contains(words));
        place.unwrap_or_else(|| panic!("{words} is not in {lines:#?}"))
    };
    let story = [
        "whoever vouches for the path is looked for",
        "a peer is found peer=PeerId(0101010101) via=static",
        "holders of the tree are looked for",
        "the tree is known",
        "of its contents this is missing",
        "a peer begins to give",
        "endgame",
        "committed",
    ];
    let places = story.map(place);
    assert!(places.is_sorted(), "{places:?}: {lines:#?}");
    assert_eq!(places[7], lines.len() - 1, "{lines:#?}");
    place("WARN");
    place("TRACE");
    place("kind=\"closure\"");
    assert!(lines[places[7]].contains(" INFO "), "{lines:#?}");
}

#[tokio::test]
async fn what_is_told_at_first_is_how_it_ended() {
    let net = Net::default();
    let (_, owner) = peer(&net, 1, honest()).await;
    let hash = publish(&owner, "told", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    let log = Log::default();
    let guard = log.start(LevelFilter::INFO);
    engine.get_path(hash, &|_| {}).await.unwrap();
    engine.get_path([7; 20].into(), &|_| {}).await.unwrap_err();
    drop(guard);
    let lines = log.lines();
    assert!(matches!(&lines[..], [line] if line.contains("committed root=\"firn:")), "{lines:#?}");
}
