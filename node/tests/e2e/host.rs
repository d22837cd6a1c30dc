//! One host: its namespace, its directories, and what runs on it.

use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::{lan::delete_namespace, process::Process};

/// Where Nix's store is on every host. Each host sees a directory of its own there.
const NIX_MOUNT: &str = "/nix";

/// A network namespace with one address, a home, and a `/nix` of its own.
pub struct Host {
    label: &'static str,
    namespace: String,
    address: Ipv4Addr,
    directory: PathBuf,
}

/// What a web server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Host {
    pub(crate) fn new(label: &'static str, namespace: String, address: Ipv4Addr, directory: PathBuf) -> Self {
        for name in ["nix", "home", "run", "tmp", "nix.conf.d"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        fs::create_dir_all(NIX_MOUNT).unwrap();
        let host = Self { label, namespace, address, directory };
        fs::create_dir(host.nobody_home()).unwrap();
        fs::set_permissions(host.nobody_home(), fs::Permissions::from_mode(0o777)).unwrap();
        host
    }

    pub fn label(&self) -> &'static str {
        self.label
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A file or directory among the host's own, named as this test sees it; the host sees it by the same name.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.join(relative)
    }

    /// Where this test finds a file beneath the host's `/nix`.
    pub fn seen_from_outside(&self, path: &str) -> PathBuf {
        let beneath = Path::new(path).strip_prefix(NIX_MOUNT).expect("a path beneath /nix");
        self.directory.join("nix").join(beneath)
    }

    /// A command that will run on this host: in its namespaces, with its environment, and not for longer than the
    /// thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.namespace])
            .args(["sh", "-c", r#"mount --bind "$0" /nix && exec "$@""#])
            .arg(self.path("nix"))
            .arg(program)
            .current_dir(self.path("home"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("NIX_CONF_DIR", self.path("nix.conf.d"))
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// As [`Host::command`], for a user without any rights, whose home is [`Host::nobody_home`].
    pub fn command_as_nobody(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(program)
            .env("HOME", self.nobody_home())
            .env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// A directory that everybody may write to.
    pub fn nobody_home(&self) -> PathBuf {
        self.path("nobody")
    }

    /// Runs a command to its end and gives what it came to, be it success or not.
    pub fn run<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and gives its standard output without the last line's end.
    pub fn succeed<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}: {command:?}: {}\n{}{}",
            self.label,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// Runs a command that must fail, and gives its standard error.
    pub fn fail<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{}: {command:?} succeeded", self.label);
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a command that goes on; it is killed when the returned value is dropped. Its standard error goes to a
    /// log, whose end is shown if the test fails.
    pub fn start<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> Process {
        let name = Path::new(program.as_ref()).file_name().unwrap().to_string_lossy().into_owned();
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(command, format!("{}-{name}", self.label), &self.directory)
    }

    /// Asks a web server, from this host. `None` if no answer came.
    pub fn get(&self, url: &str) -> Option<Answer> {
        self.get_with(url, &[])
    }

    /// As [`Host::get`], with more arguments for curl.
    pub fn get_with(&self, url: &str, arguments: &[&str]) -> Option<Answer> {
        let body = self.path("tmp/body");
        fs::write(&body, b"").unwrap();
        let output = self
            .command("curl")
            .args(["--silent", "--max-time", "30", "--write-out", "%{http_code} %{time_total}"])
            .arg("--output")
            .arg(&body)
            .args(arguments)
            .arg(url)
            .output()
            .unwrap();
        if !output.status.success() {
            return None;
        }
        let written = String::from_utf8(output.stdout).unwrap();
        let (status, seconds) = written.split_once(' ').unwrap();
        Some(Answer {
            status: status.parse().unwrap(),
            body: fs::read(body).unwrap(),
            took: Duration::from_secs_f64(seconds.parse().unwrap()),
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        delete_namespace(&self.namespace);
    }
}
