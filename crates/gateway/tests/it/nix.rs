//! Stock Nix as the client.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use firn_engine::Engine;
use firn_nix::StorePath;
use tempfile::TempDir;

use crate::fakes::net::{
    Net, dies_after, honest, is_for_claims, is_for_contents, open_gate, spoils_contents,
};
use crate::fakes::tree::{Tree, file, noise, varied};
use crate::fakes::{Signed, add, facts, key, node, peer, publish, signed};
use crate::server::Server;

const CONFIGURATION: &str = "\
experimental-features = nix-command
build-users-group =
sandbox = false
substituters =
narinfo-cache-negative-ttl = 0
";

/// The Nix that is installed, with stores, a configuration and caches of its own.
struct Nix(TempDir);

impl Nix {
    fn new() -> Arc<Self> {
        let nix = Self(TempDir::new().unwrap());
        let trusted = format!("{CONFIGURATION}trusted-public-keys = {}\n", key().public());
        fs::write(nix.path("nix.conf"), trusted).unwrap();
        Arc::new(nix)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program of Nix on a store, while this test goes on serving.
    async fn run(self: &Arc<Self>, store: &str, command: &str) -> Output {
        let (nix, store, words) = (self.clone(), self.path(store), command.to_owned());
        let run = move || {
            let mut words = words.split_whitespace();
            let mut command = Command::new(words.next().unwrap());
            command.args(words).stdin(Stdio::null());
            command.arg(if command.get_program() == "nix" { "--to" } else { "--store" }).arg(store);
            for name in ["NIX_REMOTE", "NIX_STORE_DIR", "NIX_CONFIG", "NIX_USER_CONF_FILES", "NIX_PATH"] {
                command.env_remove(name);
            }
            for name in ["NIX_CONF_DIR", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
                command.env(name, nix.0.path());
            }
            command.output().unwrap_or_else(|error| {
                panic!("{command:?} could not be run ({error}): these tests need Nix, Debian's nix-bin; scripts/test.sh installs it")
            })
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn succeed(self: &Arc<Self>, store: &str, command: &str) -> Vec<u8> {
        let Output { status, stdout, stderr } = self.run(store, command).await;
        assert!(status.success(), "{command}: {status}\n{}", String::from_utf8_lossy(&stderr));
        stdout
    }

    async fn copy(self: &Arc<Self>, store: &str, server: &Server, path: &StorePath) -> Output {
        self.run(store, &format!("nix copy --from http://{} {}", server.address, path.to_absolute())).await
    }

    /// Has Nix get a path from the first of these that gives it.
    async fn realise(self: &Arc<Self>, store: &str, servers: &[&Server], path: &StorePath) {
        let urls: Vec<_> = servers.iter().map(|server| format!("http://{}", server.address)).collect();
        let text = fs::read_to_string(self.path("nix.conf")).unwrap();
        let with = text.replace("substituters =\n", &format!("substituters = {}\n", urls.join(" ")));
        fs::write(self.path("nix.conf"), with).unwrap();
        self.succeed(store, &format!("nix-store -r {}", path.to_absolute())).await;
        fs::write(self.path("nix.conf"), text).unwrap();
    }

    /// Whether a store has these contents under this path, by Nix's own word.
    async fn check(self: &Arc<Self>, store: &str, path: &StorePath, tree: &Tree) {
        let real = self.path(store).join(&path.to_absolute()[1..]);
        assert!(self.succeed(store, &format!("nix-store --dump {}", real.display())).await == tree.nar);
        self.succeed(store, "nix-store --verify --check-contents").await;
    }
}

impl Drop for Nix {
    /// What lies in a store is read-only, which its owner must undo to remove it.
    fn drop(&mut self) {
        let _ = Command::new("chmod").arg("-R").arg("u+w").arg(self.0.path()).status();
    }
}

/// An app that refers to itself and to data, with a peer.
async fn with_closure(engine: &Engine, how: Signed) -> [(StorePath, Tree); 2] {
    let (data, app) = (varied(1), varied(10));
    let data_facts = facts("data", &data, &[]);
    let app_path = facts("app", &app, &[]).path;
    let app_facts = facts("app", &app, &[&data_facts.path, &app_path]);
    let data_path = data_facts.path.clone();
    add(engine, &data, signed(data_facts, how)).await;
    add(engine, &app, signed(app_facts, how)).await;
    [(app_path, app), (data_path, data)]
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_nix_gets_a_closure_from_peers() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (_, liar) = peer(&net, 1, spoils_contents()).await;
        let (_, seeder) = peer(&net, 2, honest()).await;
        with_closure(&liar, how).await;
        let closure = with_closure(&seeder, how).await;
        let nix = Nix::new();
        let [(app, _), (data, _)] = &closure;

        let engine = node(&net).await;
        let server = Server::start(&engine).await;
        let copied = nix.copy("copied", &server, app).await;
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        server.stop().await;

        // Another node, so that nothing is here yet; and Nix still knows the URLs that the first one gave.
        let server = Server::start(&node(&net).await).await;
        nix.realise("realised", &[&server], app).await;
        server.stop().await;
        for store in ["copied", "realised"] {
            for (path, tree) in &closure {
                nix.check(store, path, tree).await;
            }
            let query = format!("nix-store --query --references {}", app.to_absolute());
            let references = String::from_utf8(nix.succeed(store, &query).await).unwrap();
            let mut wanted = [app, data].map(StorePath::to_absolute);
            wanted.sort();
            let mut references: Vec<_> = references.lines().collect();
            references.sort_unstable();
            assert_eq!(references, wanted);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_tells_its_user_how_much_there_is_to_download() {
    let engine = node(&Net::default()).await;
    let tree = file(noise(1, 3 << 20));
    let path = facts("here", &tree, &[]).path;
    publish(&engine, "here", &tree, Signed::Attested).await;
    let server = Server::start(&engine).await;
    let output = Nix::new()
        .run(
            "store",
            &format!(
                "nix-store -r --dry-run {} --option substituters http://{}",
                path.to_absolute(),
                server.address
            ),
        )
        .await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(3.00 MiB download, 3.00 MiB unpacked)"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_stranger_has_signed_gets_nowhere() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let engine = node(&net).await;
    let tree = varied(1);
    let nix = Nix::new();
    let server = Server::start(&engine).await;
    let path = facts("there", &tree, &[]).path;
    publish(&seeder, "there", &tree, Signed::ByStranger).await;
    let output = nix.copy("store", &server, &path).await;
    assert!(!output.status.success());
    assert!(net.count(is_for_claims) > 0 && net.count(is_for_claims) == net.asked().len());

    // What the user of this machine has added is believed here, and still Nix wants a signature.
    publish(&engine, "here", &tree, Signed::ByStranger).await;
    let output = nix.copy("store", &server, &facts("here", &tree, &[]).path).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("lacks a valid signature"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_goes_on_to_the_next_substituter() {
    let tree = varied(1);
    let path = facts("there", &tree, &[]).path;
    let whole = node(&Net::default()).await;
    publish(&whole, "there", &tree, Signed::Attested).await;
    let whole = Server::start(&whole).await;
    let nix = Nix::new();

    // One that has nothing, with peers that are all gone.
    let net = Net::default();
    let (id, _) = peer(&net, 1, honest()).await;
    net.leave(&id);
    let empty = Server::start(&node(&net).await).await;
    nix.realise("first", &[&empty, &whole], &path).await;
    nix.check("first", &path, &tree).await;
    empty.stop().await;

    // One whose only peer dies in the middle of the NAR.
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, dies_after(2, open_gate())).await;
    publish(&seeder, "there", &tree, Signed::Attested).await;
    let dying = Server::start(&node(&net).await).await;
    nix.realise("second", &[&dying, &whole], &path).await;
    nix.check("second", &path, &tree).await;
    assert!(net.count(is_for_contents) > 2);
    dying.stop().await;
    whole.stop().await;
}
