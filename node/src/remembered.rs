//! Which peers have lied, kept in `liars.json` of the data directory, so that a restart forgives nobody.
//!
//! The file may be removed at any time, to forgive all. One that cannot be read is set aside and never keeps a node
//! from starting: what it said is lost, and its peers are found out again by their next lie.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use firn_engine::{Engine, EngineError, Liar};
use firn_store::{UnixSeconds, make_private};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The file in the data directory.
const FILE: &str = "liars.json";
/// What it is called once it could not be read.
const DAMAGED: &str = "liars.json.damaged";
/// What it is called while it is written.
const NEW: &str = "liars.json.new";
/// The most liars in the file; of more, the newest.
const LIARS_MAX: usize = 1000;
/// The longest reason in the file.
const REASON_CHARS_MAX: usize = 200;
/// A longer file is none of ours.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The least time between two writings of the file.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    liars: Vec<RememberedLiar>,
}

#[derive(Serialize, Deserialize)]
struct RememberedLiar {
    /// 64 hex digits.
    peer: String,
    reason: String,
    /// Seconds since 1970.
    at: u64,
}

/// What the clock on the wall says.
pub fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Where they are kept.
fn file_of(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Closes to others what an earlier version has left open. What is not there, or is none of ours, is left alone.
pub fn close(data_dir: &Path) {
    for name in [FILE, DAMAGED, NEW] {
        let _ = make_private(&data_dir.join(name));
    }
}

/// Tells the engine of the liars that this data directory knows of; to be called before it fetches anything.
pub fn tell(engine: &Engine, data_dir: &Path) {
    engine.remember_liars(load(data_dir), now());
}

/// All in the file; none if it is not there or is damaged.
fn load(data_dir: &Path) -> Vec<Liar> {
    let file = file_of(data_dir);
    match read(&file) {
        Ok(liars) => liars,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let aside = data_dir.join(DAMAGED);
            let file = file.display();
            match fs::rename(data_dir.join(FILE), &aside) {
                Ok(()) => {
                    let aside = aside.display();
                    tracing::warn!(%file, %error, %aside, "which peers have lied can't be read, it is set aside");
                }
                Err(renaming) => {
                    tracing::warn!(%file, %error, %renaming, "which peers have lied can't be read nor set aside");
                }
            }
            Vec::new()
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Liar>> {
    let mut text = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long"));
    }
    let Remembered { liars } = serde_json::from_slice(&text)?;
    let liar = |RememberedLiar { peer, reason, at }: RememberedLiar| {
        let peer = peer.parse().map_err(io::Error::other)?;
        Ok(Liar { peer, reason, at: UnixSeconds(at) })
    };
    liars.into_iter().take(LIARS_MAX).map(liar).collect()
}

/// Writes them, the newest first, in place of what is there: after a crash the file is the old or the new one.
fn save(data_dir: &Path, liars: &[Liar]) -> io::Result<()> {
    if liars.is_empty() && !file_of(data_dir).exists() {
        return Ok(());
    }
    let liars = liars.iter().take(LIARS_MAX).map(|liar| RememberedLiar {
        peer: liar.peer.to_string(),
        reason: liar.reason.chars().take(REASON_CHARS_MAX).collect(),
        at: liar.at.0,
    });
    let text = serde_json::to_vec_pretty(&Remembered { liars: liars.collect() })?;
    let aside = data_dir.join(NEW);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    make_private(&aside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(aside, file_of(data_dir))
}

/// Writes what the engine knows now. What can't be written is a warning.
pub async fn keep_now(engine: &Engine, data_dir: &Path) {
    let (liars, dir) = (engine.liars(now()), data_dir.to_owned());
    let saved: Result<io::Result<()>, EngineError> = engine.run_blocking(move || save(&dir, &liars)).await;
    let file = file_of(data_dir);
    match saved {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(file = %file.display(), %error, "which peers have lied can't be kept");
        }
        Err(error) => tracing::warn!(file = %file.display(), %error, "which peers have lied can't be kept"),
    }
}

/// Writes the file at each new lie, until `stop`, and then once more: what has expired goes out of it.
pub async fn keep(engine: Engine, data_dir: PathBuf, stop: CancellationToken) {
    let mut lies = engine.lies();
    // A lie may have come between the engine's opening and this.
    if *lies.borrow_and_update() > 0 {
        keep_now(&engine, &data_dir).await;
    }
    while let Some(Ok(())) = stop.run_until_cancelled(lies.changed()).await {
        keep_now(&engine, &data_dir).await;
        stop.run_until_cancelled(sleep(SAVE_INTERVAL)).await;
    }
    keep_now(&engine, &data_dir).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn liar(number: u16) -> Liar {
        let mut peer = [0; 32];
        peer[..2].copy_from_slice(&number.to_be_bytes());
        Liar { peer: peer.into(), reason: "a \"wrong\" byte".into(), at: UnixSeconds(u64::from(number)) }
    }

    #[test]
    fn what_is_written_is_read_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).is_empty(), "there is no file");
        let liars: Vec<Liar> = (0..2000).rev().map(liar).collect();
        save(dir.path(), &[]).unwrap();
        assert!(!file_of(dir.path()).exists(), "nor is one made for nothing");
        save(dir.path(), &liars).unwrap();
        assert_eq!(load(dir.path()), liars[..LIARS_MAX], "the newest, which come first");
        save(dir.path(), &liars[..1]).unwrap();
        assert_eq!(load(dir.path()), liars[..1]);
        let long = Liar { reason: "\u{1}".repeat(5000), ..liar(1) };
        save(dir.path(), &vec![long; 2000]).unwrap();
        assert_eq!(load(dir.path())[999].reason.len(), REASON_CHARS_MAX);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let long = vec![b' '; FILE_BYTES_MAX as usize + 1];
        let damaged: [&[u8]; 5] =
            [b"", b"{\"liars\": [", b"\xff", br#"{"liars": [{"peer": "x", "reason": "", "at": 1}]}"#, &long];
        for text in damaged {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("liars.json"), text).unwrap();
            assert!(load(dir.path()).is_empty());
            assert_eq!(fs::read(dir.path().join("liars.json.damaged")).unwrap(), text);
            assert!(!dir.path().join("liars.json").exists());
            save(dir.path(), &[liar(1)]).unwrap();
            assert_eq!(load(dir.path()), [liar(1)]);
        }
    }

    #[tokio::test]
    async fn an_engine_is_told_only_of_lies_that_count() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = Liar { at: now(), ..liar(1) };
        save(dir.path(), &[fresh.clone(), liar(2)]).unwrap();
        let nobody = std::sync::Arc::new(firn_engine::Nobody);
        let config = crate::node::engine_config(None).unwrap();
        let store = std::sync::Arc::new(firn_store::MemoryStore::new());
        let policy = firn_trust::Policy::new(Vec::new());
        let engine = Engine::open(store, policy, nobody.clone(), nobody, config).await.unwrap();
        tell(&engine, dir.path());
        let stop = CancellationToken::new();
        stop.cancel();
        keep(engine, dir.path().to_owned(), stop).await;
        assert_eq!(load(dir.path()), [fresh], "a lie of 1970 is forgiven");
    }
}
