//! One switch, and the hosts on it.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::host::Host;

/// Names of namespaces are `firn-<pid of the test>-<lan>-<host>`, so that what a killed test left can be told.
const NAME_PREFIX: &str = "firn";

/// A LAN of its own: nothing on it reaches this machine's network, nor another test's LAN.
pub struct Lan {
    network: &'static str,
    name: String,
    switch: String,
    hosts: Cell<u8>,
    directory: TempDir,
}

impl Lan {
    /// An empty switch whose hosts have private addresses.
    pub fn new() -> Self {
        Self::with_network("10.77.0")
    }

    /// An empty switch whose hosts have addresses of the internet, which it does not reach.
    pub fn internet() -> Self {
        Self::with_network("5.77.0")
    }

    fn with_network(network: &'static str) -> Self {
        static LANS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}-{}-{number}", std::process::id());
        let switch = format!("{name}-switch");
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", &switch, "link", "set", "bridge", "up"]);
        let directory = TempDir::with_prefix("firn-e2e-").unwrap();
        // Users of the hosts other than root reach their homes through it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { network, name, switch, hosts: Cell::new(0), directory }
    }

    /// A new host with the next free address, plugged in. `label` stands in its name and its logs.
    pub fn host(&self, label: &'static str) -> Host {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let namespace = format!("{}-{label}", self.name);
        let port = format!("port{number}");
        let address = format!("{}.{number}", self.network);
        let inside = |arguments: &[&str]| ip(&[&["-n", &namespace], arguments].concat());

        ip(&["netns", "add", &namespace]);
        ip(&["-n", &self.switch, "link", "add", &port, "type", "veth", "peer", "eth0", "netns", &namespace]);
        ip(&["-n", &self.switch, "link", "set", &port, "master", "bridge", "up"]);
        inside(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        inside(&["link", "set", "lo", "multicast", "on", "up"]);
        inside(&["link", "set", "eth0", "multicast", "on", "up"]);
        inside(&["route", "add", "224.0.0.0/4", "dev", "eth0"]);
        Host::new(label, namespace, address.parse().unwrap(), self.directory.path().join(label))
    }

    /// Pulls the plug of a host: what it sends and what is sent to it is lost.
    pub fn unplug(&self, host: &Host) {
        self.set_port(host, "down");
    }

    /// Puts the plug back in.
    pub fn plug(&self, host: &Host) {
        self.set_port(host, "up");
    }

    /// Keeps a host apart from all others that are isolated.
    pub fn isolate(&self, host: &Host) {
        ip(&["-n", &self.switch, "link", "set", &port_of(host), "type", "bridge_slave", "isolated", "on"]);
    }

    /// Takes IPv4 away from a host, and gives it a private address of IPv6.
    pub fn speak_ipv6_alone(&self, host: &Host) {
        let address = format!("fd77::{}/64", host.address().octets()[3]);
        host.succeed("ip", &["-4", "address", "flush", "dev", "eth0"]);
        host.succeed("ip", &["address", "add", &address, "dev", "eth0", "nodad"]);
    }

    /// Gives a host another address in place of that which it has. What runs on it goes on; its plug is out meanwhile.
    pub fn move_to(&self, host: &Host, number: u8) {
        self.unplug(host);
        host.succeed("ip", &["-4", "address", "flush", "dev", "eth0"]);
        let address = format!("{}.{number}/24", self.network);
        host.succeed("ip", &["address", "add", &address, "dev", "eth0"]);
        host.succeed("ip", &["route", "replace", "224.0.0.0/4", "dev", "eth0"]);
        self.plug(host);
    }

    fn set_port(&self, host: &Host, state: &str) {
        ip(&["-n", &self.switch, "link", "set", &port_of(host), state]);
    }
}

/// The switch's end of its cable.
fn port_of(host: &Host) -> String {
    format!("port{}", host.address().octets()[3])
}

impl Drop for Lan {
    fn drop(&mut self) {
        delete_namespace(&self.switch);
    }
}

/// Kills what runs in a namespace and removes it. Does nothing where there is none.
pub fn delete_namespace(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        let pids = String::from_utf8_lossy(&output.stdout);
        for pid in
            pids.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw)
        {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

/// Removes the namespaces of tests that were killed before they could.
fn sweep() {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("`ip` is installed");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let mut words = name.split('-');
        if words.next() != Some(NAME_PREFIX) {
            continue;
        }
        let pid: Option<u32> = words.next().and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            delete_namespace(name);
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}(network namespaces take root)", arguments.join(" "));
}
