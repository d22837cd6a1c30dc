//! Hosts of our own on this machine: network namespaces, with links that are as slow as a row wants them.
//!
//! Hosts are on one switch, each with a cable whose upload is limited, or two are joined by one [`LongLink`]. A rate is
//! kept by the kernel (`tc htb`, then a queue of one link's worth of bytes); what takes time or loses packets is a
//! process of ours, see [`delay`]. Nothing here reaches the machine's own network.

pub(crate) mod delay;
mod host;

use std::{
    cell::{Cell, RefCell},
    path::Path,
    process::{self, Command},
    time::Duration,
};

pub(crate) use host::Host;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{cost::output_of, error::BenchError, serving::Server, tools::Tool, work::work};

/// Names of namespaces are `firnbench-<pid of the bench>-…`, so that what a killed bench left can be told.
const NAME_PREFIX: &str = "firnbench";
const NETWORK: &str = "10.78.0";
/// The shortest queue before a link; longer ones hold what is under way on it.
const QUEUE_BYTES_MIN: u64 = 256 << 10;

/// Megabits a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mbit(pub(crate) u32);

impl Mbit {
    /// How long so many bytes are on their way, without any headers.
    pub(crate) fn seconds(self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / (f64::from(self.0) * 1e6)
    }

    fn bytes_in(self, time: Duration) -> u64 {
        (f64::from(self.0) * 1e6 / 8.0 * time.as_secs_f64()) as u64
    }
}

/// A link between two hosts that takes time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongLink {
    /// From one end to the other and back.
    pub(crate) round_trip: Duration,
    /// Each way; without it as fast as this machine.
    pub(crate) rate: Option<Mbit>,
    /// The share of packets that is lost, each way.
    pub(crate) loss: f64,
}

/// Hosts that reach each other and nobody else. When it is dropped, all of it and all that runs in it is gone.
pub(crate) struct Lab {
    name: String,
    switch: String,
    count: Cell<u8>,
    links: RefCell<Vec<Server>>,
    hosts: RefCell<Vec<String>>,
}

impl Lab {
    /// An empty switch.
    pub(crate) fn new() -> Result<Self, BenchError> {
        thread_local!(static LABS: Cell<u32> = const { Cell::new(0) });
        if !geteuid().is_root() {
            return Err(BenchError::NotRoot);
        }
        sweep()?;
        let number = LABS.replace(LABS.get() + 1);
        let name = format!("{NAME_PREFIX}-{}-{number}", process::id());
        let switch = format!("{name}-switch");
        let lab =
            Self { switch, name, count: Cell::new(0), links: RefCell::default(), hosts: RefCell::default() };
        ip(&["netns", "add", &lab.switch])?;
        lab.hosts.borrow_mut().push(lab.switch.clone());
        ip(&["-n", &lab.switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &lab.switch, "link", "set", "bridge", "up"])?;
        Ok(lab)
    }

    /// A new host on the switch that sends no faster than this.
    pub(crate) fn host(&self, upload: Option<Mbit>) -> Result<Host, BenchError> {
        let host = self.unplugged("eth0")?;
        let port = self.port(&host);
        let (switch, namespace) = (&self.switch, &host.namespace);
        ip(&["-n", switch, "link", "add", &port, "type", "veth", "peer", "eth0", "netns", namespace])?;
        ip(&["-n", switch, "link", "set", &port, "master", "bridge", "up"])?;
        host.configure(upload, Duration::ZERO)?;
        Ok(host)
    }

    /// Two new hosts with this between them.
    pub(crate) fn pair(&self, link: LongLink) -> Result<[Host; 2], BenchError> {
        let hosts = [self.unplugged("tun0")?, self.unplugged("tun0")?];
        let ends = [self.port(&hosts[0]), self.port(&hosts[1])];
        let mut command = inside(&self.switch, work(&["delay-link", &ends[0], &ends[1]]))?;
        command.args(["--one-way-us", &(link.round_trip.as_micros() / 2).to_string()]);
        command.args(["--loss", &link.loss.to_string()]);
        let (server, _) = Server::start_ours(&mut command)?;
        self.links.borrow_mut().push(server);
        for (host, end) in hosts.iter().zip(&ends) {
            ip(&["-n", &self.switch, "link", "set", end, "netns", &host.namespace, "name", "tun0"])?;
            host.configure(link.rate, link.round_trip)?;
        }
        Ok(hosts)
    }

    /// Pulls a host's plug: what it sends and what is sent to it is lost.
    pub(crate) fn unplug(&self, host: &Host) -> Result<(), BenchError> {
        ip(&["-n", &self.switch, "link", "set", &self.port(host), "down"])
    }

    /// Puts it back in.
    pub(crate) fn plug(&self, host: &Host) -> Result<(), BenchError> {
        ip(&["-n", &self.switch, "link", "set", &self.port(host), "up"])
    }

    fn unplugged(&self, device: &'static str) -> Result<Host, BenchError> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let namespace = format!("{}-{number}", self.name);
        ip(&["netns", "add", &namespace])?;
        self.hosts.borrow_mut().push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(Host { namespace, device, network: NETWORK, number })
    }

    fn port(&self, host: &Host) -> String {
        format!("port{}", host.number)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.links.borrow_mut().clear();
        for namespace in self.hosts.borrow().iter() {
            delete_namespace(namespace);
        }
    }
}

/// Kills what runs in a namespace and removes it. Does nothing where there is none.
fn delete_namespace(name: &str) {
    let Ok(program) = Tool::Ip.find() else { return };
    if let Ok(output) = Command::new(&program).args(["netns", "pids", name]).output() {
        let pids = String::from_utf8_lossy(&output.stdout);
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = Command::new(&program).args(["netns", "delete", name]).output();
}

/// Removes the namespaces of benches that were killed before they could.
fn sweep() -> Result<(), BenchError> {
    remove(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes all namespaces of this bench, for when it is about to be ended from outside.
pub(crate) fn tear_down() {
    if geteuid().is_root() {
        // There is nobody left to tell.
        let _ = remove(|pid| pid == process::id());
    }
}

fn remove(of: impl Fn(u32) -> bool) -> Result<(), BenchError> {
    let listed = output_of(Tool::Ip.command()?.args(["netns", "list"]))?;
    for name in listed.lines().filter_map(|line| line.split(' ').next()) {
        let mut words = name.split('-');
        let is_ours = words.next() == Some(NAME_PREFIX);
        let pid: Option<u32> = words.next().and_then(|pid| pid.parse().ok());
        if is_ours && pid.is_some_and(&of) {
            delete_namespace(name);
        }
    }
    Ok(())
}

fn ip(words: &[&str]) -> Result<(), BenchError> {
    output_of(Tool::Ip.command()?.args(words)).map(|_| ())
}

/// A command that runs in a namespace.
fn inside(namespace: &str, command: Command) -> Result<Command, BenchError> {
    let mut within = Tool::Ip.command()?;
    within.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(within)
}
