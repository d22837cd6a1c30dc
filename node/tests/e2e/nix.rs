//! The real Nix on a host.

use std::{fmt::Write, fs, path::Path};

use crate::{host::Host, tree::assert_same_tree};

/// Three paths: `app` refers to itself, to `library` and to `data`; `library` refers to `data`. Between them they have
/// what a tree can have: symlinks, executables, empty files and directories, many small files, files larger than
/// a chunk group, and a name that is no UTF-8. Raw derivations: no nixpkgs.
const CLOSURE_NIX: &str = r#"
let
  build = name: inputs: script: derivation (inputs // {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-ec" script ];
    PATH = "/usr/bin:/bin";
  });
  data = build "data" { } ''
    mkdir -p $out/many $out/empty
    seq 1 2000000 > $out/numbers
    for number in $(seq 1 150); do echo "file $number" > $out/many/$number; done
    : > $out/nothing
    odd=$(printf 'odd-\377')
    echo odd > "$out/$odd"
  '';
  library = build "library" { inherit data; } ''
    mkdir -p $out/lib/deep/deeper
    seq 1 20000 > $out/lib/library.so.1
    ln -s library.so.1 $out/lib/library.so
    ln -s $data/numbers $out/lib/deep/deeper/numbers
  '';
in
build "app" { inherit data library; } ''
  mkdir -p $out/bin
  printf '#!/bin/sh\ncat %s/many/7 %s/lib/library.so\necho %s\n' $data $library $out > $out/bin/app
  chmod +x $out/bin/app
''
"#;

/// Nix as one host has it.
pub struct Nix<'h> {
    host: &'h Host,
}

/// A key pair in Nix's own form.
pub struct NixKey {
    /// `name:base64`, to be trusted.
    pub public: String,
    /// The file with the secret half.
    pub secret_file: std::path::PathBuf,
}

/// What nix.conf says of where paths come from.
#[derive(Default)]
pub struct NixConf<'a> {
    pub substituters: &'a [&'a str],
    pub trusted_public_keys: &'a [&'a str],
}

impl<'h> Nix<'h> {
    /// An empty store, and a nix.conf that trusts nobody.
    pub fn new(host: &'h Host) -> Self {
        let nix = Self { host };
        nix.configure(&NixConf::default());
        host.succeed("nix-store", &["--init"]);
        nix
    }

    /// Empties the store and forgets all that Nix remembers of its substituters.
    pub fn reset(&self) {
        for directory in ["nix", "home/.cache/nix"] {
            let directory = self.host.path(directory);
            for entry in fs::read_dir(&directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
            }
        }
        self.host.succeed("nix-store", &["--init"]);
    }

    /// Writes nix.conf.
    pub fn configure(&self, conf: &NixConf<'_>) {
        let mut text = String::from(
            "experimental-features = nix-command\nbuild-users-group =\nsandbox = false\nmax-jobs = 2\n\
             narinfo-cache-negative-ttl = 0\n",
        );
        writeln!(text, "substituters = {}", conf.substituters.join(" ")).unwrap();
        writeln!(text, "trusted-public-keys = {}", conf.trusted_public_keys.join(" ")).unwrap();
        fs::write(self.host.path("nix.conf.d/nix.conf"), text).unwrap();
    }

    /// Builds the closure above and gives the store path of `app`.
    pub fn build_app(&self) -> String {
        let expression = self.host.path("closure.nix");
        fs::write(&expression, CLOSURE_NIX).unwrap();
        self.host.succeed("nix-build", &["--no-out-link".as_ref(), expression.as_os_str()])
    }

    /// All that a path needs to run, itself included.
    pub fn closure(&self, path: &str) -> Vec<String> {
        self.host.succeed("nix-store", &["--query", "--requisites", path]).lines().map(String::from).collect()
    }

    /// Makes a key pair.
    pub fn generate_key(&self, name: &str) -> NixKey {
        let (secret, public) =
            (self.host.path(&format!("{name}.sec")), self.host.path(&format!("{name}.pub")));
        self.host.succeed(
            "nix-store",
            &["--generate-binary-cache-key".as_ref(), name.as_ref(), secret.as_os_str(), public.as_os_str()],
        );
        NixKey { public: fs::read_to_string(public).unwrap().trim().to_owned(), secret_file: secret }
    }

    /// Signs a path and all that it refers to.
    pub fn sign(&self, key: &NixKey, path: &str) {
        let arguments =
            ["store", "sign", "--recursive", "--key-file", key.secret_file.to_str().unwrap(), path];
        self.host.succeed("nix", &arguments);
    }

    /// This store has the whole closure of `path`, byte for byte as `origin` has it, and Nix itself finds no fault.
    pub fn assert_has_closure_of(&self, origin: &Nix<'_>, path: &str) {
        let closure = origin.closure(path);
        assert!(closure.len() > 1, "{path} refers to nothing");
        assert_eq!(self.closure(path), closure);
        for path in &closure {
            assert_same_tree(&origin.outside(path), &self.outside(path));
        }
        self.host.succeed("nix-store", &["--verify", "--check-contents"]);
    }

    /// This store does not have the path, be it valid or left half written.
    pub fn assert_lacks(&self, path: &str) {
        self.host.fail("nix-store", &["--check-validity", path]);
        assert!(!self.outside(path).exists(), "{path} was written");
    }

    fn outside(&self, path: &str) -> std::path::PathBuf {
        assert!(Path::new(path).starts_with("/nix/store"), "{path}");
        self.host.seen_from_outside(path)
    }
}
