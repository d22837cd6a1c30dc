//! The real Nix, that copies a path through a node.

use std::{fs, path::Path, time::Instant};

use super::{Bench, Row, Seed};
use crate::{
    cost::{Cost, cpu_of_children, in_turn, output_of},
    error::BenchError,
    rows::{
        http::{hash_of, narinfo, url_in, write_nar},
        nginx::Nginx,
    },
    serving::Server,
    tools::Tool,
    work::work,
};

const NAR: &str = "path.nar";
const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
const NIX_CONF: &str =
    "experimental-features = nix-command\nbuild-users-group =\nsandbox = false\nsubstituters =\n";

/// Where the node has the contents from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    APeer,
    ItsStore,
}

pub(super) fn from_peer(bench: &Bench) -> Result<Row, BenchError> {
    copied(bench, From::APeer)
}

pub(super) fn from_store(bench: &Bench) -> Result<Row, BenchError> {
    copied(bench, From::ItsStore)
}

/// The path is content-addressed, so Nix wants no signature. Its store is empty each time, and on the tmpfs, too.
fn copied(bench: &Bench, from: From) -> Result<Row, BenchError> {
    let place = &bench.places.memory;
    let seed = Seed::make(bench, "seed", bench.places.trees.toolchain()?)?;
    let nginx = Nginx::make(place, None)?;
    write_nar(&seed.store, &nginx.file(NAR))?;
    write_cache(&seed, &nginx)?;
    let ours = || {
        let scratch = place.scratch()?;
        let cpu = cpu_of_children()?;
        let mut servers = Vec::new();
        let mut serving = work(&["serve"]);
        match from {
            From::ItsStore => serving.arg(&seed.store),
            From::APeer => {
                let (seeder, peer) = Server::start_ours(&mut seed.seeding(None)?)?;
                servers.push(seeder);
                serving.arg(scratch.join("store")).arg(peer)
            }
        };
        let (node, address) = Server::start_ours(&mut serving)?;
        let seconds = copy(&scratch, &format!("http://{address}"), &seed.path)?;
        servers.push(node);
        let mut peak_rss_mb = 0_f64;
        for server in servers.iter_mut().rev() {
            peak_rss_mb = peak_rss_mb.max(server.end_by_closing_its_input()?.peak_rss_mb);
        }
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb })
    };
    let theirs = || {
        let scratch = place.scratch()?;
        let cpu = cpu_of_children()?;
        let mut server = nginx.start()?;
        let seconds = copy(&scratch, &nginx.url(""), &seed.path)?;
        server.end_by_signal();
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: 0.0 })
    };
    let costs = in_turn(bench.runs, &mut [Box::new(ours), Box::new(theirs)])?;
    place.remove("seed")?;
    place.remove("nginx")?;
    Ok(Row::times(costs[0], costs[1], "nix copy from nginx").noted(seed.speed(&costs[0])))
}

/// A binary cache of files: our own narinfo, but for where the NAR is.
fn write_cache(seed: &Seed, nginx: &Nginx<'_>) -> Result<(), BenchError> {
    let mut serving = work(&["serve".as_ref(), seed.store.as_os_str()]);
    let (mut node, address) = Server::start_ours(&mut serving)?;
    let narinfo = narinfo(&address, &seed.path)?;
    node.end_by_closing_its_input()?;
    let narinfo = narinfo.replace(url_in(&narinfo)?, NAR);
    for (name, text) in [
        (format!("{}.narinfo", hash_of(&seed.path)), narinfo.as_str()),
        ("nix-cache-info".into(), CACHE_INFO),
    ] {
        let file = nginx.file(&name);
        fs::write(&file, text).map_err(BenchError::io(&file))?;
    }
    Ok(())
}

/// How long Nix takes from its start to its end.
fn copy(scratch: &Path, url: &str, path: &str) -> Result<f64, BenchError> {
    let home = scratch.join("nix");
    fs::create_dir(&home).map_err(BenchError::io(&home))?;
    let conf = home.join("nix.conf");
    fs::write(&conf, NIX_CONF).map_err(BenchError::io(&conf))?;
    let mut nix = Tool::Nix.command()?;
    nix.env("NIX_CONF_DIR", &home).env("HOME", &home).env("XDG_CACHE_HOME", home.join("cache"));
    nix.args(["copy", "--from", url, "--to"]).arg(home.join("root")).arg(path);
    let begun = Instant::now();
    output_of(&mut nix)?;
    Ok(begun.elapsed().as_secs_f64())
}
