//! Key files in Nix's own format, one line of `name:base64`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use firn_nix::{KeyError, KeyName, PublicKey, SigningKey};

/// A key file is one short line; what is longer is something else.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Why a key file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The name can't be a key's. It is not repeated: it may be a whole key.
    #[error("it can't be the name of a key: {0}")]
    Name(#[source] KeyError),
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// There is a file of this name, and a key is never overwritten.
    #[error("{0} exists; a key file is never overwritten (`firn key public` shows its public key)")]
    Exists(PathBuf),
    /// The file could not be written.
    #[error("can't write {file}: {source}", file = file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a key file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadKeyError {
    /// The file could not be read.
    #[error("can't read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key was given where its file belongs. It is not repeated.
    #[error(
        "a key is given where the name of its file belongs; it may be known to others now, as all that a command is given"
    )]
    NoFile,
    /// It holds something else.
    #[error("{file} is no secret key of the form name:base64: {source}", file = file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
}

/// Makes a new key and writes its secret to a new file that only its owner can read.
pub fn generate(name: &str, file: &Path) -> Result<SigningKey, GenerateError> {
    let key_name: KeyName = name.parse().map_err(GenerateError::Name)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(GenerateError::Random)?;
    let key = SigningKey::generate(key_name, seed);
    match write_secret(file, &key) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(GenerateError::Exists(file.into())),
        Err(source) => {
            // A part of a key is none, and would be in the way of the next attempt.
            let _ = fs::remove_file(file);
            Err(GenerateError::Write { file: file.into(), source })
        }
    }
}

/// Without a newline at the end, as Nix writes it: some versions of Nix take the newline for a part of the key.
fn write_secret(file: &Path, key: &SigningKey) -> io::Result<()> {
    let mut output = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    output.write_all(key.to_secret_text().as_bytes())?;
    output.sync_all()
}

/// A secret key from a file.
#[derive(Debug)]
pub struct KeyFile {
    /// The key.
    pub key: SigningKey,
    /// Whether others than its owner may read the file, or write to it.
    pub is_open_to_others: bool,
}

/// Reads the secret key in a file.
pub fn read(file: &Path) -> Result<KeyFile, ReadKeyError> {
    let failed = |source| match file.to_str().map(str::trim).is_some_and(is_a_key) {
        true => ReadKeyError::NoFile,
        false => ReadKeyError::Read { file: file.into(), source },
    };
    let opened = fs::File::open(file).map_err(failed)?;
    let is_open_to_others = opened.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0;
    let text = read_text(opened).map_err(failed)?;
    let key = text.trim().parse().map_err(|source| ReadKeyError::Shape { file: file.into(), source })?;
    Ok(KeyFile { key, is_open_to_others })
}

fn is_a_key(text: &str) -> bool {
    text.parse::<SigningKey>().is_ok() || text.parse::<PublicKey>().is_ok()
}

fn read_text(file: fs::File) -> io::Result<String> {
    let mut text = String::new();
    let read = io::Read::read_to_string(&mut io::Read::take(file, KEY_FILE_BYTES_MAX), &mut text)?;
    if read as u64 == KEY_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long for a key"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache-1.sec");
        let key = generate("cache-1", &file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = read(&file).unwrap();
        assert_eq!(again.key.public().to_string(), key.public().to_string());
        assert!(!again.is_open_to_others);
        for (mode, is_open) in [(0o640, true), (0o604, true), (0o602, true), (0o400, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).unwrap().is_open_to_others, is_open, "{mode:o}");
        }

        let before = fs::read(&file).unwrap();
        let error = generate("cache-1", &file).unwrap_err();
        assert!(matches!(error, GenerateError::Exists(_)), "{error}");
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn two_keys_differ() {
        let dir = tempfile::tempdir().unwrap();
        let one = generate("k", &dir.path().join("one")).unwrap();
        let two = generate("k", &dir.path().join("two")).unwrap();
        assert_ne!(one.public().to_string(), two.public().to_string());
    }

    #[test]
    fn a_name_that_is_none_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a:b"] {
            let file = dir.path().join("key");
            let error = generate(name, &file).unwrap_err();
            assert!(matches!(error, GenerateError::Name(_)), "{error}");
            assert!(!file.exists());
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_its_contents_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        for text in ["", "c2VjcmV0", "name:c2VjcmV0", "name:not base64", &"x".repeat(1 << 20)] {
            fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(file.to_str().unwrap()), "{error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
        let key = SigningKey::generate("k".parse().unwrap(), [1; 32]).to_secret_text();
        let error = read(Path::new(&key)).unwrap_err().to_string();
        assert!(!error.contains(&key[2..]), "{error}");
        let error = generate(&key, &dir.path().join("new")).unwrap_err().to_string();
        assert!(!error.contains(&key[2..]), "{error}");
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&file), Err(ReadKeyError::Read { .. })));
    }

    #[test]
    fn a_key_that_nix_made_has_the_public_key_that_nix_says() {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let mut nix = std::process::Command::new(arguments[0]);
            let output =
                nix.args(&arguments[1..]).env("HOME", dir.path()).output().expect("nix-bin is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        run(&["nix-store", "--generate-binary-cache-key", "nix-1", &path("sec"), &path("pub")]);
        let key = read(&dir.path().join("sec")).unwrap();
        assert_eq!(key.key.public().to_string(), fs::read_to_string(path("pub")).unwrap().trim());
        assert!(!key.is_open_to_others, "Nix keeps it closed");
    }
}
