//! NARs over HTTP to curl.

use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
};

use super::{
    Bench, against_slowest,
    nginx::{Nginx, fetch, text_at},
    store_with,
};
use crate::{
    cost::{Cost, Pipeline, cpu_of_children},
    error::BenchError,
    serving::Server,
    table::Row,
    work::work,
};

const NAR: &str = "big.nar";
/// Letters of the hash in a store path.
const HASH_LETTERS: usize = 32;

/// Each run has a server of its own, whose whole CPU is counted, and times the transfer alone.
pub(super) fn big(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.big()?);
    let (store, path) = store_with(place, "store-of-big", tree)?;
    let nginx = Nginx::make(place, None)?;
    let nar_size = write_nar(&store, &nginx.file(NAR))?;
    let row = against_slowest(
        bench,
        Box::new(|| from_gateway(&store, &path, nar_size)),
        vec![("nginx with sendfile", Box::new(|| from_nginx(&nginx, NAR, nar_size)))],
    );
    place.remove("store-of-big")?;
    place.remove("nginx")?;
    row
}

/// Writes the NAR of a store's only path to a file; its size.
pub(super) fn write_nar(store: &Path, file: &Path) -> Result<u64, BenchError> {
    let output = File::create(file).map_err(BenchError::io(file))?;
    Pipeline::from(work(&["nar".as_ref(), store.as_os_str()])).run(Stdio::from(output))?;
    Ok(fs::metadata(file).map_err(BenchError::io(file))?.len())
}

/// The narinfo of a path, from our gateway.
pub(super) fn narinfo(address: &str, path: &str) -> Result<String, BenchError> {
    text_at(&format!("http://{address}/{}.narinfo", hash_of(path)))
}

/// The hash in a store path.
pub(super) fn hash_of(path: &str) -> &str {
    let name = path.trim_start_matches("/nix/store/");
    name.get(..HASH_LETTERS).unwrap_or(name)
}

/// Where the NAR of a narinfo is.
pub(super) fn url_in(narinfo: &str) -> Result<&str, BenchError> {
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
    url.ok_or(BenchError::Silent("our gateway"))
}

fn from_gateway(store: &Path, path: &str, size: u64) -> Result<Cost, BenchError> {
    let cpu = cpu_of_children()?;
    let (mut server, address) = Server::start_ours(&mut work(&["serve".as_ref(), store.as_os_str()]))?;
    let narinfo = narinfo(&address, path)?;
    let seconds = fetch(&format!("http://{address}/{}", url_in(&narinfo)?), size, None)?;
    let report = server.end_by_closing_its_input()?;
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: report.peak_rss_mb })
}

fn from_nginx(nginx: &Nginx<'_>, name: &str, size: u64) -> Result<Cost, BenchError> {
    let cpu = cpu_of_children()?;
    let mut server = nginx.start()?;
    let seconds = fetch(&nginx.url(name), size, None)?;
    server.end_by_signal();
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: 0.0 })
}
