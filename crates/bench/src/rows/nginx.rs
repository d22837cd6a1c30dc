//! nginx, which sends files as fast as this machine can, and curl, which takes them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::geteuid;

use crate::{cost::output_of, error::BenchError, lab::Host, places::Place, serving::Server, tools::Tool};

/// How long it may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(5);
/// On a host of its own, where nobody else has it.
const PORT: u16 = 8080;

/// A directory that nginx serves, on the loopback or on a host.
pub(super) struct Nginx<'a> {
    directory: PathBuf,
    address: SocketAddr,
    host: Option<&'a Host>,
}

impl<'a> Nginx<'a> {
    /// An empty directory, and a configuration for one worker with sendfile.
    pub(super) fn make(place: &Place, host: Option<&'a Host>) -> Result<Self, BenchError> {
        let directory = place.join("nginx");
        fs::create_dir_all(&directory).map_err(BenchError::io(&directory))?;
        let address = match host {
            Some(host) => SocketAddr::from((host.ip(), PORT)),
            None => free_address().map_err(BenchError::io(&directory))?,
        };
        let nginx = Self { directory, address, host };
        let conf = nginx.file("nginx.conf");
        fs::write(&conf, nginx.configuration()).map_err(BenchError::io(&conf))?;
        Ok(nginx)
    }

    /// Where a file of this name is put.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where it is got.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Starts it, and waits until it listens: then it has written its process id.
    pub(super) fn start(&self) -> Result<Server, BenchError> {
        let pid = self.file("pid");
        // There is none unless it was killed.
        let _ = fs::remove_file(&pid);
        let mut command = Tool::Nginx.command()?;
        command.arg("-p").arg(&self.directory).arg("-c").arg(self.file("nginx.conf"));
        let mut command = match self.host {
            Some(host) => host.runs(command)?,
            None => command,
        };
        let server = Server::start(&mut command)?;
        let begun = Instant::now();
        while !fs::metadata(&pid).is_ok_and(|pid| pid.len() > 0) {
            if begun.elapsed() > START_TIMEOUT {
                return Err(BenchError::Silent("nginx"));
            }
            thread::sleep(START_POLL);
        }
        Ok(server)
    }

    fn configuration(&self) -> String {
        let (directory, address) = (self.directory.display(), self.address);
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
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// How long curl takes from its start to its end for so many bytes.
pub(super) fn fetch(url: &str, size: u64, host: Option<&Host>) -> Result<f64, BenchError> {
    let mut curl = Tool::Curl.command()?;
    curl.args(["-s", "-f", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", url]);
    let mut curl = match host {
        Some(host) => host.runs(curl)?,
        None => curl,
    };
    let begun = Instant::now();
    let said = output_of(curl.stdin(Stdio::null()))?;
    let seconds = begun.elapsed().as_secs_f64();
    match said == format!("200 {size}") {
        true => Ok(seconds),
        false => Err(BenchError::Answer { program: "curl".into(), said: said.into() }),
    }
}

/// What curl gets there, as text.
pub(super) fn text_at(url: &str) -> Result<String, BenchError> {
    let curl: &mut Command = &mut Tool::Curl.command()?;
    output_of(curl.args(["-s", "-f", url]))
}
