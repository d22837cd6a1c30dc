//! A Nix store of its own.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use firn_nix::StorePath;

/// A Nix store below a directory, with a key to sign with.
pub struct NixRoot {
    dir: tempfile::TempDir,
    /// `name:base64`.
    pub public_key: String,
}

impl NixRoot {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let conf =
            "experimental-features = nix-command\nbuild-users-group =\nsandbox = false\nsubstituters =\n";
        fs::write(dir.path().join("nix.conf"), conf).unwrap();
        let mut root = Self { dir, public_key: String::new() };
        root.public_key = root.make_key("cache-1");
        root
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a key pair; gives the public key.
    pub fn make_key(&self, name: &str) -> String {
        let public = self.path().join(format!("{name}.pub"));
        let arguments = ["--generate-binary-cache-key", name, &self.secret(name), public.to_str().unwrap()];
        self.nix("nix-store", &arguments);
        fs::read_to_string(public).unwrap().trim().to_owned()
    }

    fn secret(&self, name: &str) -> String {
        self.path().join(format!("{name}.sec")).to_str().unwrap().to_owned()
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--store", self.path().to_str().unwrap()])
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_STATE_DIR")
            .env("NIX_CONF_DIR", self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("HOME", self.path());
        command.output().expect("nix-bin is installed")
    }

    pub fn nix(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Puts a directory of these files into the store, signed by nobody.
    pub fn add(&self, name: &str, files: &[(&str, &[u8])]) -> StorePath {
        let tree = self.path().join("trees").join(name);
        fs::create_dir_all(&tree).unwrap();
        for (file, contents) in files {
            fs::write(tree.join(file), contents).unwrap();
        }
        let added = self.nix("nix-store", &["--add", tree.to_str().unwrap()]);
        StorePath::from_absolute(&added).unwrap()
    }

    pub fn add_signed(&self, name: &str, files: &[(&str, &[u8])]) -> StorePath {
        let path = self.add(name, files);
        self.sign("cache-1", &path);
        path
    }

    pub fn sign(&self, key: &str, path: &StorePath) {
        self.nix("nix", &["store", "sign", "--key-file", &self.secret(key), &path.to_absolute()]);
    }

    /// Collects a path.
    pub fn delete(&self, path: &StorePath) {
        self.nix("nix-store", &["--delete", &path.to_absolute()]);
        assert!(!self.on_disk(path).exists());
    }

    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.path().join("nix/store").join(path.to_string())
    }

    /// A file of a path, that the test may now change as Nix never does.
    pub fn broken_open(&self, path: &StorePath, file: &str) -> PathBuf {
        let file = self.on_disk(path).join(file);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        file
    }
}

impl Drop for NixRoot {
    fn drop(&mut self) {
        let restored = Command::new("chmod").args(["-R", "u+w"]).arg(self.path()).status();
        assert!(restored.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

/// Bytes that no other seed gives.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Waits until `probe` gives something, and fails the test if it does not in time.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
