//! The whole story on one machine: real nodes on loopback, one of which lies.

mod compare;
mod ended;
mod gifts;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use firn_exchange::{Compress, PeerId};
use firn_net::{DialRules, Multiaddr, RateLimits};
use firn_nix::SigningKey;
use firn_proto::control::{AddReply, AddRequest, GetReply, GetRequest, Progress};
use firn_simnet::liar::LieKind;
use indicatif::HumanBytes;
use tokio::sync::watch;

use self::{compare::compare, ended::Ended, gifts::watched};
use crate::{
    cli::DemoArgs,
    commands,
    config::{Config, MissBudgets, NetworkName, Role},
    failure::Failure,
    liar,
    node::{Behaviour, Node},
    operations::{Operations, Report},
    output::{self, Text, hide_secrets},
    show::short,
    signals::Signals,
};

/// Seeders that stay until the end.
const SEEDERS: u64 = 3;
/// How long the seeders' upload, which is limited for that, takes for one tree: nobody sees anything in less.
const UPLOAD_SECONDS: u64 = 3;
/// The least that a seeder gives in a second: a small tree need not take so long.
const UPLOAD_MIN: NonZeroU64 = NonZeroU64::new(1 << 20).expect("it is not zero");
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
    #[error(
        "no Rust toolchain is found here; name a file or directory to send around, as in `firn demo /usr/share/doc`"
    )]
    NoToolchain,
    #[error("a directory for the stores: {0}")]
    Temp(io::Error),
    #[error("the bootstrap node has no address")]
    NoAddress,
    #[error("the announcements did not reach the bootstrap node")]
    NotAnnounced,
}

/// `firn demo`. The stores are removed after the last of their nodes' threads has ended, also where a signal ends it.
pub fn run(arguments: DemoArgs, is_json: bool) -> Result<ExitCode, Failure> {
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
    let ended = commands::block_on(async {
        let mut signals = Signals::of_command().map_err(Failure::failed)?;
        commands::until(&mut signals, stage.play(&path, begun)).await
    })?;
    commands::say(&ended.answer(), is_json)?;
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
    id: PeerId,
    node: Node,
}

impl Stage {
    /// All acts, one after the other.
    async fn play(&self, path: &Path, begun: Instant) -> Result<Ended, Failure> {
        let bootstrap = self.player("bootstrap", Role::Seed, Behaviour::ByRole, &[], None).await?;
        let known = [address(&bootstrap)?];
        let publisher = self.player("publisher", Role::Seed, Behaviour::ByRole, &known, None).await?;
        self.tell(&format!("publisher {} adds and signs {}", publisher.short_id(), path.display()));
        let added = self.add(&publisher, path).await?;
        let what = added.paths.last().map(|path| path.store_path.clone()).unwrap_or_default();
        announced(&bootstrap, KEYS_OF_A_PATH).await?;

        let upload_max = upload_max(added.bytes);
        let holders = self.holders(&what, &known, upload_max).await?;
        announced(&bootstrap, (1 + holders.len()) * KEYS_OF_A_PATH).await?;
        let giving = [&bootstrap, &publisher].into_iter().chain(&holders);
        let mut cast: Vec<(PeerId, &str)> = giving.map(|player| (player.id, player.part)).collect();
        publisher.node.stop().await?;
        self.tell("the publisher is switched off");

        // They give to each other, and announce nothing.
        let consumer = || self.player("consumer", Role::Lan, Behaviour::ByRole, &known, None);
        let (one, other) = (consumer().await?, consumer().await?);
        // What nobody listens to is not written out.
        let (report, _listener) = watch::channel(Progress::default());
        cast.push((other.id, other.part));
        self.tell("two consumers that know nothing but the bootstrap node's address get it at the same time");
        let outs = ["out", "out-of-the-other"].map(|name| self.temp.path().join(name));
        let fetch = async |report| one.get(&what, Some(&outs[0]), report).await;
        let ((got, picture), other_got) = tokio::join!(
            watched(&one.node.operations().engine, fetch),
            other.get(&what, Some(&outs[1]), report),
        );
        let (got, other_got) = (got?, other_got?);
        let identical = compare(path, &outs[0])? && compare(path, &outs[1])?;
        let exchanged_bytes = bytes_from(&got, &other.id) + bytes_from(&other_got, &one.id);
        let seconds = begun.elapsed().as_secs_f64();
        for player in [one, other, bootstrap].into_iter().chain(holders) {
            player.node.stop().await?;
        }
        let path = path.into();
        Ok(Ended {
            path,
            added,
            got,
            other_got,
            cast,
            picture,
            identical,
            exchanged_bytes,
            upload_max,
            seconds,
        })
    }

    /// Seeders and a liar, each of which has got it and announces it.
    async fn holders(
        &self,
        what: &str,
        known: &[Multiaddr],
        upload_max: NonZeroU64,
    ) -> Result<Vec<Player>, Failure> {
        let mut holders = Vec::new();
        for _ in 0..SEEDERS {
            let seeder =
                self.player("seeder", Role::Seed, Behaviour::ByRole, known, Some(upload_max)).await?;
            seeder.get(what, None, Report::default()).await?;
            let limit = HumanBytes(upload_max.get());
            self.tell(&format!("seeder {} has it and announces it; it gives {limit}/s", seeder.short_id()));
            holders.push(seeder);
        }
        let liar = self.player("liar", Role::Seed, liar::behaviour(LIE), known, Some(upload_max)).await?;
        liar.get(what, None, Report::default()).await?;
        self.tell(&format!("a liar, {}, announces it as well; it {LIE}", liar.short_id()));
        holders.push(liar);
        Ok(holders)
    }

    fn tell(&self, what: &str) {
        if !self.is_json {
            output::remark(&Text::from_iter([hide_secrets(what)]));
        }
    }

    async fn player(
        &self,
        part: &'static str,
        role: Role,
        behaviour: Behaviour,
        bootstrap: &[Multiaddr],
        upload_max: Option<NonZeroU64>,
    ) -> Result<Player, Failure> {
        let failed = |error| Failure::failed(DemoError::Temp(error));
        let data_dir = tempfile::tempdir_in(self.temp.path()).map_err(failed)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            file: None,
            // It goes with the stage.
            data_dir: data_dir.keep(),
            nix_root: "/".into(),
            role,
            trust: vec![self.key.public()],
            bootstrap: bootstrap.to_vec(),
            peers: Vec::new(),
            relays: Vec::new(),
            network: NetworkName::usual(),
            mdns: false,
            dial: DialRules::new(Vec::new()).with_loopback().networks().to_vec(),
            http: any,
            http_host: Vec::new(),
            iroh: vec![any],
            libp2p: vec![any],
            miss: MissBudgets::default(),
            store_bytes_max: None,
            rates: RateLimits { upload: upload_max, ..RateLimits::default() },
            // So that bytes given are bytes sent, which the limit is about.
            compress: Compress::Never,
            adopt: false,
            adopt_jobs: None,
        };
        let node = Node::start(Arc::new(config), behaviour).await?;
        let id = node.ready().peer_id.parse().map_err(Failure::failed)?;
        Ok(Player { part, id, node })
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
}

impl Player {
    fn short_id(&self) -> String {
        short(&self.id.to_string()).to_owned()
    }

    async fn get(&self, what: &str, out: Option<&Path>, report: Report) -> Result<GetReply, Failure> {
        let out = out.map(|out| Bytes::copy_from_slice(out.as_os_str().as_bytes()));
        let request = GetRequest { what: what.into(), closure: false, out: out.unwrap_or_default() };
        self.node.operations().get(request, report).await
    }
}

/// What others name to begin with.
fn address(bootstrap: &Player) -> Result<Multiaddr, Failure> {
    let addresses = bootstrap.node.ready().multiaddrs;
    let first = addresses.first().ok_or_else(|| Failure::failed(DemoError::NoAddress))?;
    first.parse().map_err(Failure::failed)
}

/// How much each seeder may give in a second of a tree of so many bytes.
fn upload_max(bytes: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes / SEEDERS / UPLOAD_SECONDS).map_or(UPLOAD_MIN, |rate| rate.max(UPLOAD_MIN))
}

fn bytes_from(got: &GetReply, peer: &PeerId) -> u64 {
    let id = peer.to_string();
    got.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.bytes)
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
