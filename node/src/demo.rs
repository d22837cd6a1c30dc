//! The whole story on one machine: real nodes on loopback, one of which lies.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use firn_net::{DialRules, Multiaddr};
use firn_nix::{PublicKey, SigningKey};
use firn_proto::control::{AddReply, AddRequest, GetReply, GetRequest, Progress};
use firn_simnet::liar::LieKind;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    cli::DemoArgs,
    commands,
    config::{Config, MissBudgets, NetworkName, Role},
    failure::Failure,
    liar,
    node::{Behaviour, Node},
    operations::Operations,
    show::{Answer, short},
};

/// How long the announcements may take to reach the bootstrap node.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether they have.
const ANNOUNCE_POLL: Duration = Duration::from_millis(50);
/// Keys that a holder of one path announces: the path and its root.
const KEYS_OF_A_PATH: usize = 2;
/// What the liar does.
const LIE: LieKind = LieKind::WrongByte;

/// Why the demo could not be played.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("no Rust toolchain is found here; name a PATH to send around")]
    NoToolchain,
    #[error("a directory for the stores: {0}")]
    Temp(io::Error),
    #[error("the bootstrap node has no address")]
    NoAddress,
    #[error("the announcements did not reach the bootstrap node")]
    NotAnnounced,
    #[error("{path}: {source}", path = .path.display())]
    Compare { path: PathBuf, source: io::Error },
}

/// `firn demo`.
pub async fn run(arguments: DemoArgs, is_json: bool) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let path = match arguments.path {
        Some(path) => std::path::absolute(path).map_err(Failure::failed)?,
        None => toolchain()?,
    };
    let temp = tempfile::Builder::new().prefix("firn-demo-").tempdir();
    let stage = Stage {
        temp: temp.map_err(|error| Failure::failed(DemoError::Temp(error)))?,
        key: new_key()?,
        is_json,
    };
    let ended = stage.play(&path, begun).await?;
    commands::say(&ended.answer(), is_json);
    Ok(if ended.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is on every machine that has built this: the standard library of Rust, as the compiler uses it.
fn toolchain() -> Result<PathBuf, Failure> {
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.ok().filter(|output| output.status.success());
    let path = sysroot.map(|output| {
        let text = output.stdout.trim_ascii_end();
        Path::new(std::ffi::OsStr::from_bytes(text)).join("lib/rustlib")
    });
    path.filter(|path| path.is_dir()).ok_or_else(|| Failure::missing(DemoError::NoToolchain))
}

fn new_key() -> Result<SigningKey, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(Failure::failed)?;
    Ok(SigningKey::generate("firn-demo-1".parse().map_err(Failure::failed)?, seed))
}

/// Where the nodes live.
struct Stage {
    temp: tempfile::TempDir,
    key: SigningKey,
    is_json: bool,
}

/// A node with its part in the story.
struct Player {
    part: &'static str,
    node: Node,
}

impl Player {
    fn id(&self) -> String {
        self.node.ready().peer_id
    }
}

impl Stage {
    async fn play(&self, path: &Path, begun: Instant) -> Result<Ended, Failure> {
        let bootstrap = self.player("bootstrap", "bootstrap", Role::Seed, &[], Behaviour::ByRole).await?;
        let begin = vec![self.bootstrap_address(&bootstrap)?];
        let seed = |name, part| self.player(name, part, Role::Seed, &begin, Behaviour::ByRole);

        let publisher = seed("publisher", "publisher").await?;
        self.tell(&format!("publisher {} adds and signs {}", short(&publisher.id()), path.display()));
        let added = self.add(&publisher, path).await?;
        let what = added.paths.last().map(|path| path.store_path.clone()).unwrap_or_default();
        announced(&bootstrap, KEYS_OF_A_PATH).await?;

        let seeders = [seed("seeder-1", "seeder").await?, seed("seeder-2", "seeder").await?];
        for seeder in &seeders {
            self.get(seeder, &what, None).await?;
            self.tell(&format!("seeder {} has it and announces it", short(&seeder.id())));
        }
        let liar = self.player("liar", "liar", Role::Seed, &begin, liar::behaviour(LIE)).await?;
        self.get(&liar, &what, None).await?;
        self.tell(&format!("a liar, {}, announces it as well; it {LIE}", short(&liar.id())));
        announced(&bootstrap, 4 * KEYS_OF_A_PATH).await?;

        let parts: Vec<(String, &'static str)> = [&bootstrap, &publisher, &seeders[0], &seeders[1], &liar]
            .iter()
            .map(|player| (player.id(), player.part))
            .collect();
        publisher.node.stop().await?;
        self.tell("the publisher is switched off");

        let consumer = self.player("consumer", "consumer", Role::Client, &begin, Behaviour::ByRole).await?;
        let out = self.temp.path().join("out");
        self.tell("a consumer that knows nothing but the bootstrap node's address gets it");
        let got = self.get(&consumer, &what, Some(&out)).await?;
        let identical = compare(path, &out)?;
        let seconds = begun.elapsed().as_secs_f64();
        let [first, second] = seeders;
        for player in [consumer, first, second, liar, bootstrap] {
            player.node.stop().await?;
        }
        Ok(Ended { path: path.into(), added, got, parts, identical, seconds })
    }

    fn tell(&self, what: &str) {
        if !self.is_json {
            let remarks = format!("{what}\n");
            commands::say(&Answer { json: Value::Null, text: String::new(), remarks }, false);
        }
    }

    async fn player(
        &self,
        name: &str,
        part: &'static str,
        role: Role,
        bootstrap: &[Multiaddr],
        behaviour: Behaviour,
    ) -> Result<Player, Failure> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            file: None,
            data_dir: self.temp.path().join(name),
            nix_root: "/".into(),
            role,
            trust: vec![self.trusted()],
            bootstrap: bootstrap.to_vec(),
            peers: Vec::new(),
            relays: Vec::new(),
            network: NetworkName::usual(),
            mdns: false,
            dial: DialRules::new(Vec::new()).with_loopback().networks().to_vec(),
            http: any,
            iroh: any,
            libp2p: any,
            miss: MissBudgets::default(),
            store_bytes_max: None,
            rates: Default::default(),
            compress: Default::default(),
            adopt: false,
            adopt_jobs: None,
        };
        Ok(Player { part, node: Node::start(Arc::new(config), behaviour).await? })
    }

    fn trusted(&self) -> PublicKey {
        self.key.public()
    }

    fn bootstrap_address(&self, bootstrap: &Player) -> Result<Multiaddr, Failure> {
        let addresses = bootstrap.node.ready().multiaddrs;
        let first = addresses.first().ok_or_else(|| Failure::failed(DemoError::NoAddress))?;
        first.parse().map_err(Failure::failed)
    }

    async fn add(&self, player: &Player, path: &Path) -> Result<AddReply, Failure> {
        let request = AddRequest {
            path: Bytes::copy_from_slice(path.as_os_str().as_bytes()),
            sign_keys: vec![self.key.to_secret_text()],
            nix_root: Bytes::from_static(b"/"),
            ..AddRequest::default()
        };
        // An add ends when nobody listens any more.
        let (report, _listener) = watch::channel(Progress::default());
        player.node.operations().add(request, report).await
    }

    async fn get(&self, player: &Player, what: &str, out: Option<&Path>) -> Result<GetReply, Failure> {
        let out = out.map(|out| Bytes::copy_from_slice(out.as_os_str().as_bytes()));
        let request = GetRequest { what: what.into(), closure: false, out: out.unwrap_or_default() };
        player.node.operations().get(request, watch::Sender::default()).await
    }
}

/// Waits until the bootstrap node keeps so many records.
async fn announced(bootstrap: &Player, records: usize) -> Result<(), Failure> {
    let all_there = async {
        while bootstrap.node.provider_records() < records {
            tokio::time::sleep(ANNOUNCE_POLL).await;
        }
    };
    let waited = tokio::time::timeout(ANNOUNCE_TIMEOUT, all_there).await;
    waited.map_err(|_| Failure::failed(DemoError::NotAnnounced))
}

/// Whether two trees have the same names, kinds, contents, targets and executable bits.
fn compare(left: &Path, right: &Path) -> Result<bool, Failure> {
    let mut pairs = vec![(left.to_path_buf(), right.to_path_buf())];
    while let Some((left, right)) = pairs.pop() {
        let failed = |source| Failure::failed(DemoError::Compare { path: left.clone(), source });
        let (a, b) =
            (fs::symlink_metadata(&left).map_err(failed)?, fs::symlink_metadata(&right).map_err(failed)?);
        let same = if a.is_dir() && b.is_dir() {
            let (a, b) = (names(&left).map_err(failed)?, names(&right).map_err(failed)?);
            pairs.extend(a.iter().map(|name| (left.join(name), right.join(name))));
            a == b
        } else if a.is_symlink() && b.is_symlink() {
            fs::read_link(&left).map_err(failed)? == fs::read_link(&right).map_err(failed)?
        } else if a.is_file() && b.is_file() {
            let owner_executes = |metadata: &fs::Metadata| metadata.permissions().mode() & 0o100 != 0;
            a.len() == b.len()
                && owner_executes(&a) == owner_executes(&b)
                && same_contents(&left, &right).map_err(failed)?
        } else {
            false
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn same_contents(left: &Path, right: &Path) -> io::Result<bool> {
    const BUFFER_BYTES: usize = 1 << 20;
    let open = |path| Ok::<_, io::Error>(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?));
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let read = left.read(&mut a)?;
        if read == 0 {
            return Ok(right.read(&mut b)? == 0);
        }
        match right.read_exact(&mut b[..read]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
            Ok(()) if a[..read] != b[..read] => return Ok(false),
            Ok(()) => {}
        }
    }
}

/// What came of it.
struct Ended {
    path: PathBuf,
    added: AddReply,
    got: GetReply,
    parts: Vec<(String, &'static str)>,
    identical: bool,
    seconds: f64,
}

/// What the consumer saw of one of the others.
struct Seen<'a> {
    id: &'a str,
    part: &'static str,
    via: &'a str,
    asked: u64,
    bytes: u64,
    lies: &'a [String],
}

impl Ended {
    fn seen(&self) -> Vec<Seen<'_>> {
        let seen =
            self.parts.iter().map(|(id, part)| match self.got.peers.iter().find(|peer| peer.id == *id) {
                Some(peer) => {
                    Seen { id, part, via: &peer.via, asked: peer.asked, bytes: peer.bytes, lies: &peer.lies }
                }
                None => Seen { id, part, via: "", asked: 0, bytes: 0, lies: &[] },
            });
        seen.collect()
    }

    fn is_good(&self) -> bool {
        self.identical
            && self.seen().iter().all(|peer| match peer.part {
                "seeder" => peer.bytes > 0 && peer.lies.is_empty(),
                "liar" => peer.asked > 0 && !peer.lies.is_empty(),
                _ => peer.lies.is_empty(),
            })
    }

    fn answer(&self) -> Answer {
        let path = self.added.paths.last();
        let (store_path, root) = path.map(|path| (&*path.store_path, &*path.root)).unwrap_or_default();
        let seen = self.seen();
        let peers: Vec<Value> = seen
            .iter()
            .map(|peer| {
                let via = (!peer.via.is_empty()).then_some(peer.via);
                json!({
                    "id": peer.id, "role": peer.part, "via": via, "asked": peer.asked, "bytes": peer.bytes,
                    "blamed": !peer.lies.is_empty(), "lies": peer.lies,
                })
            })
            .collect();
        let json = json!({
            "path": self.path.to_string_lossy(), "store_path": store_path, "root": root,
            "files": self.got.files, "bytes": self.got.bytes, "identical": self.identical,
            "seconds": self.seconds, "fetch_seconds": self.got.seconds, "peers": peers,
        });
        let mut text = format!("{store_path}\n{root}\n");
        for peer in &seen {
            text += &format!("  {:<9} {}  {}\n", peer.part, short(peer.id), told(peer));
        }
        let speed = self.got.bytes as f64 / self.got.seconds.max(f64::EPSILON);
        text += &format!(
            "{} files, {} in {:.1} s ({}/s); the tree that came out is {}\n",
            self.got.files,
            HumanBytes(self.got.bytes),
            self.got.seconds,
            HumanBytes(speed as u64),
            if self.identical { "identical" } else { "NOT IDENTICAL" },
        );
        Answer { json, text, remarks: String::new() }
    }
}

fn told(peer: &Seen<'_>) -> String {
    match (peer.part, peer.lies) {
        ("bootstrap", _) => "holds nothing; it only knew whom to ask".to_owned(),
        ("publisher", _) => "switched off before the consumer came".to_owned(),
        (_, [lie, ..]) => format!("lied, was caught and dropped: {lie}"),
        (_, []) => format!("gave {}, found by {}", HumanBytes(peer.bytes), peer.via),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_compared_to_the_last_bit() {
        let temp = tempfile::tempdir().unwrap();
        let make = |name: &str, contents: &str, mode: u32| {
            let dir = temp.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("file"), contents).unwrap();
            fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
            dir
        };
        let one = make("one", "contents", 0o644);
        assert!(compare(&one, &make("same", "contents", 0o600)).unwrap());
        assert!(!compare(&one, &make("byte", "contentz", 0o644)).unwrap());
        assert!(!compare(&one, &make("mode", "contents", 0o755)).unwrap());
        let more = make("more", "contents", 0o644);
        fs::write(more.join("another"), "").unwrap();
        assert!(!compare(&one, &more).unwrap());
        let other = make("link", "contents", 0o644);
        fs::remove_file(other.join("link")).unwrap();
        std::os::unix::fs::symlink("elsewhere", other.join("link")).unwrap();
        assert!(!compare(&one, &other).unwrap());
    }
}
