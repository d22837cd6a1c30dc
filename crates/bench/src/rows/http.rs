//! NARs over HTTP to curl.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::geteuid;

use super::{Bench, against_slowest, store_with, work};
use crate::{
    cost::{Cost, Pipeline, cpu_of_children},
    error::BenchError,
    places::Place,
    serving::Server,
    table::Row,
    tools::Tool,
};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(5);
/// Letters of the hash in a store path.
const HASH_LETTERS: usize = 32;

/// Each run has a server of its own, whose whole CPU is counted, and times the transfer alone.
pub(super) fn big(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.big()?);
    let (store, path) = store_with(place, "store-of-big", tree)?;
    let served = NginxFiles::make(place, &store)?;
    let curl = Tool::Curl.find()?;
    let row = against_slowest(
        bench,
        Box::new(|| from_gateway(&curl, &store, &path, served.nar_size)),
        vec![("nginx with sendfile", Box::new(|| from_nginx(&curl, &served)))],
    );
    place.remove("store-of-big")?;
    place.remove("nginx")?;
    row
}

fn from_gateway(curl: &Path, store: &Path, path: &str, size: u64) -> Result<Cost, BenchError> {
    let cpu = cpu_of_children()?;
    let (mut server, address) = Server::start_ours(&mut work(&["serve".as_ref(), store.as_os_str()]))?;
    let hash: String = path.trim_start_matches("/nix/store/").chars().take(HASH_LETTERS).collect();
    let narinfo = said_by(Command::new(curl).args(["-sf", &format!("http://{address}/{hash}.narinfo")]))?;
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
    let url = url.ok_or(BenchError::Silent("our gateway"))?;
    let seconds = fetch(curl, &format!("http://{address}/{url}"), size)?;
    let report = server.end_by_closing_its_input()?;
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: report.peak_rss_mb })
}

fn from_nginx(curl: &Path, files: &NginxFiles) -> Result<Cost, BenchError> {
    let cpu = cpu_of_children()?;
    let mut command = Tool::Nginx.command()?;
    command.arg("-p").arg(&files.directory).arg("-c").arg(files.directory.join("nginx.conf"));
    let mut server = Server::start(&mut command)?;
    let begun = Instant::now();
    while TcpStream::connect(files.address).is_err() {
        if begun.elapsed() > START_TIMEOUT {
            return Err(BenchError::Silent("nginx"));
        }
        thread::sleep(START_POLL);
    }
    let seconds = fetch(curl, &format!("http://{}/big.nar", files.address), files.nar_size)?;
    server.end_by_signal();
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: 0.0 })
}

/// How long curl takes from its start to its end.
fn fetch(curl: &Path, url: &str, size: u64) -> Result<f64, BenchError> {
    let begun = Instant::now();
    let words = ["-s", "-f", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", url];
    let said = said_by(Command::new(curl).args(words))?;
    let seconds = begun.elapsed().as_secs_f64();
    match said == format!("200 {size}") {
        true => Ok(seconds),
        false => Err(BenchError::Answer { program: "curl".into(), said: said.into() }),
    }
}

fn said_by(command: &mut Command) -> Result<String, BenchError> {
    let program = Box::from(command.get_program().to_string_lossy());
    match command.output() {
        Err(source) => Err(BenchError::Start { program, source }),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into();
            Err(BenchError::Failed { program, status: output.status, said })
        }
    }
}

/// What nginx serves, and how.
struct NginxFiles {
    directory: PathBuf,
    address: SocketAddr,
    nar_size: u64,
}

impl NginxFiles {
    /// The NAR of a store's only path as a file, and a configuration for one worker with sendfile.
    fn make(place: &Place, store: &Path) -> Result<Self, BenchError> {
        let directory = place.join("nginx");
        fs::create_dir_all(&directory).map_err(BenchError::io(&directory))?;
        let file = directory.join("big.nar");
        let nar = File::create(&file).map_err(BenchError::io(&file))?;
        Pipeline::from(work(&["nar".as_ref(), store.as_os_str()])).run(Stdio::from(nar))?;
        let nar_size = fs::metadata(&file).map_err(BenchError::io(&file))?.len();
        let address = free_address().map_err(BenchError::io(&directory))?;
        let conf = directory.join("nginx.conf");
        fs::write(&conf, configuration(&directory, address)).map_err(BenchError::io(&conf))?;
        Ok(Self { directory, address, nar_size })
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn configuration(directory: &Path, address: SocketAddr) -> String {
    let directory = directory.display();
    // The worker of a root's nginx is another user, who may not enter the bench's directory.
    let user = if geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen {address}; root {directory}; }}
}}
"
    )
}
