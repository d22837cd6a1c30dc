//! What a binary cache says of a store path.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{ContentAddress, FileHash, HashError, NarFacts, NarHash, Signature, StorePath, StorePathError};

/// The longest narinfo that is read, in bytes; about fifteen thousand references fit. It bounds the signatures, too.
pub const NARINFO_BYTES_MAX: usize = 1 << 20;

/// Why text is no narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    /// Longer than [`NARINFO_BYTES_MAX`].
    #[error("the narinfo has {0} bytes, more than {NARINFO_BYTES_MAX}")]
    TooLong(usize),
    /// A line that is not `<key>: <value>` and a line feed.
    #[error("line {0} of the narinfo is not a key, a colon, a space, a value and a line feed")]
    Line(usize),
    /// A key that may stand once stands twice.
    #[error("{0} stands twice in the narinfo")]
    Twice(&'static str),
    /// A key that must be there is not.
    #[error("the narinfo lacks {0}")]
    Lacks(&'static str),
    /// Not a positive number of bytes.
    #[error("{0} in the narinfo is not a positive number")]
    Size(&'static str),
    /// A malformed store path.
    #[error("{key} in the narinfo: {error}")]
    Path {
        /// Where it stands.
        key: &'static str,
        /// What is wrong with it.
        error: StorePathError,
    },
    /// A malformed hash.
    #[error("{key} in the narinfo: {error}")]
    Hash {
        /// Where it stands.
        key: &'static str,
        /// What is wrong with it.
        error: HashError,
    },
}

/// What a binary cache says of a store path; nothing of it is believed yet.
///
/// Its text is what Nix writes and reads. `url` and `compression` are single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path.
    pub store_path: StorePath,
    /// Where the NAR is, relative to the cache.
    pub url: String,
    /// How the NAR is compressed there: `none`, `xz`, `zstd` and so on.
    pub compression: String,
    /// The hash of what `url` gives.
    pub file_hash: Option<FileHash>,
    /// The length in bytes of what `url` gives.
    pub file_size: Option<u64>,
    /// What the signatures cover.
    pub facts: NarFacts,
    /// What the path was built from.
    pub deriver: Option<StorePath>,
    /// Over the [fingerprint](crate::fingerprint).
    pub signatures: Vec<Signature>,
    /// What the path is named after, if it is named after its contents.
    pub ca: Option<ContentAddress>,
}

impl NarInfo {
    /// Reads the text; keys that are not known are passed over, as Nix does. So is what no signature covers and cannot be
    /// read: a signature that is none, a deriver, a content address.
    pub fn parse(text: &str) -> Result<Self, NarInfoError> {
        if text.len() > NARINFO_BYTES_MAX {
            return Err(NarInfoError::TooLong(text.len()));
        }
        let mut fields = Fields::default();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let pair = line.strip_suffix('\n').and_then(|line| line.split_once(": "));
            let (key, value) = pair.ok_or(NarInfoError::Line(index + 1))?;
            fields.take(key, value)?;
        }
        fields.finish()
    }
}

/// The keys seen so far.
#[derive(Default)]
struct Fields {
    store_path: Option<StorePath>,
    url: Option<String>,
    compression: Option<String>,
    file_hash: Option<FileHash>,
    file_size: Option<u64>,
    nar_hash: Option<NarHash>,
    nar_size: Option<u64>,
    references: Option<BTreeSet<StorePath>>,
    deriver: Option<Option<StorePath>>,
    signatures: Vec<Signature>,
    ca: Option<Option<ContentAddress>>,
}

impl Fields {
    fn take(&mut self, key: &str, value: &str) -> Result<(), NarInfoError> {
        match key {
            "StorePath" => {
                let path = StorePath::from_absolute(value);
                let path = path.map_err(|error| NarInfoError::Path { key: "StorePath", error })?;
                once("StorePath", &mut self.store_path, path)
            }
            "URL" => once("URL", &mut self.url, value.to_owned()),
            "Compression" => once("Compression", &mut self.compression, value.to_owned()),
            "FileHash" => once("FileHash", &mut self.file_hash, hash("FileHash", value)?),
            "FileSize" => once("FileSize", &mut self.file_size, size("FileSize", value)?),
            "NarHash" => once("NarHash", &mut self.nar_hash, hash("NarHash", value)?),
            "NarSize" => once("NarSize", &mut self.nar_size, size("NarSize", value)?),
            "References" => {
                let paths = value.split_ascii_whitespace().map(|base| base_name("References", base));
                once("References", &mut self.references, paths.collect::<Result<_, _>>()?)
            }
            "Deriver" => {
                // Nix writes "unknown-deriver" where there is none: that is no store path either.
                once("Deriver", &mut self.deriver, value.parse().ok())
            }
            "Sig" => {
                self.signatures.extend(value.parse::<Signature>());
                Ok(())
            }
            "CA" => once("CA", &mut self.ca, value.parse().ok()),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        Ok(NarInfo {
            store_path: self.store_path.ok_or(NarInfoError::Lacks("StorePath"))?,
            url: self.url.filter(|url| !url.is_empty()).ok_or(NarInfoError::Lacks("URL"))?,
            // What Nix takes a silent cache to mean.
            compression: self.compression.filter(|name| !name.is_empty()).unwrap_or("bzip2".into()),
            file_hash: self.file_hash,
            file_size: self.file_size,
            facts: NarFacts {
                nar_hash: self.nar_hash.ok_or(NarInfoError::Lacks("NarHash"))?,
                nar_size: self.nar_size.ok_or(NarInfoError::Lacks("NarSize"))?,
                references: self.references.unwrap_or_default(),
            },
            deriver: self.deriver.flatten(),
            signatures: self.signatures,
            ca: self.ca.flatten(),
        })
    }
}

fn once<T>(key: &'static str, field: &mut Option<T>, value: T) -> Result<(), NarInfoError> {
    match field.replace(value) {
        Some(_) => Err(NarInfoError::Twice(key)),
        None => Ok(()),
    }
}

fn base_name(key: &'static str, text: &str) -> Result<StorePath, NarInfoError> {
    text.parse().map_err(|error| NarInfoError::Path { key, error })
}

fn hash<T: FromStr<Err = HashError>>(key: &'static str, text: &str) -> Result<T, NarInfoError> {
    text.parse().map_err(|error| NarInfoError::Hash { key, error })
}

fn size(key: &'static str, text: &str) -> Result<u64, NarInfoError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number > 0);
    number.ok_or(NarInfoError::Size(key))
}

impl fmt::Display for NarInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "StorePath: {}", self.store_path.to_absolute())?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression)?;
        if let Some(hash) = &self.file_hash {
            writeln!(f, "FileHash: {hash}")?;
        }
        if let Some(size) = self.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
        writeln!(f, "NarHash: {}", self.facts.nar_hash)?;
        writeln!(f, "NarSize: {}", self.facts.nar_size)?;
        let references: Vec<String> = self.facts.references.iter().map(StorePath::to_string).collect();
        writeln!(f, "References: {}", references.join(" "))?;
        if let Some(deriver) = &self.deriver {
            writeln!(f, "Deriver: {deriver}")?;
        }
        for signature in &self.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        if let Some(ca) = &self.ca {
            writeln!(f, "CA: {ca}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
