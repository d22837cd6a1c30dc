//! Ed25519 keys and signatures in Nix's form `<name>:<base64>`.

use std::{fmt, str::FromStr};

use data_encoding::BASE64;
use ed25519_dalek::Signer;

/// The longest name of a key, in bytes.
pub const KEY_NAME_BYTES_MAX: usize = 255;

/// Text that is no key and no signature. It never quotes what it refuses: that might be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No colon between name and base64.
    #[error("there is no colon between a name and base64")]
    NoColon,
    /// An empty name.
    #[error("the name of the key is empty")]
    NoName,
    /// A name longer than [`KEY_NAME_BYTES_MAX`].
    #[error("the name of the key has {0} bytes, more than {KEY_NAME_BYTES_MAX}")]
    NameTooLong(usize),
    /// A colon, white space or a control character in the name.
    #[error("the name of the key contains a colon, white space or a control character")]
    NameCharacter,
    /// What follows the colon is not base64.
    #[error("what follows the name is not base64: {0}")]
    Base64(data_encoding::DecodeKind),
    /// What follows the colon is not as long as it must be.
    #[error("{len} bytes follow the name, not {want}")]
    Length {
        /// How many there are.
        len: usize,
        /// How many there must be.
        want: usize,
    },
    /// The bytes are no public key, or one that fits any signature.
    #[error("the bytes are no Ed25519 public key")]
    NotAKey,
    /// The public half of a secret key is not that of its secret half.
    #[error("the two halves of the secret key do not belong together")]
    HalvesDiffer,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It names another key.
    #[error("the signature is by the key {by}, not by {want}")]
    OtherKey {
        /// The key that it names.
        by: KeyName,
        /// The key that was asked.
        want: KeyName,
    },
    /// It is not this key's signature of this text.
    #[error("the signature by the key {0} does not hold")]
    Invalid(KeyName),
}

/// What a key is called: not empty, without colon, white space and control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        let illegal = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        match name.len() {
            0 => Err(KeyError::NoName),
            len if len > KEY_NAME_BYTES_MAX => Err(KeyError::NameTooLong(len)),
            _ if name.chars().any(illegal) => Err(KeyError::NameCharacter),
            _ => Ok(Self(name.to_owned())),
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({})", self.0)
    }
}

/// Takes `<name>:<base64 of N bytes>` apart.
fn decode<const N: usize>(text: &str) -> Result<(KeyName, [u8; N]), KeyError> {
    let (name, base64) = text.split_once(':').ok_or(KeyError::NoColon)?;
    let name = name.parse()?;
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|error| KeyError::Base64(error.kind))?;
    let len = bytes.len();
    Ok((name, bytes.try_into().map_err(|_| KeyError::Length { len, want: N })?))
}

/// A secret key. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct SigningKey {
    name: KeyName,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key that these 32 secret random bytes make.
    pub fn generate(name: KeyName, seed: [u8; 32]) -> Self {
        Self { name, key: ed25519_dalek::SigningKey::from_bytes(&seed) }
    }

    /// What the key is called.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs these bytes.
    pub fn sign(&self, text: &[u8]) -> Signature {
        Signature { key_name: self.name.clone(), bytes: self.key.sign(text).to_bytes() }
    }

    /// The secret itself, as `nix-store --generate-binary-cache-key` writes it and [`FromStr`] reads it.
    pub fn to_secret_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }
}

impl FromStr for SigningKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = decode(text)?;
        let key =
            ed25519_dalek::SigningKey::from_keypair_bytes(&bytes).map_err(|_| KeyError::HalvesDiffer)?;
        Ok(Self { name, key })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}:secret)", self.name)
    }
}

/// A public key with its name. Its text is `<name>:<base64 of 32 bytes>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    name: KeyName,
    key: ed25519_dalek::VerifyingKey,
}

impl PublicKey {
    /// What the key is called.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Succeeds where the signature names this key and is its signature of this text.
    pub fn verify(&self, text: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        if signature.key_name != self.name {
            let by = signature.key_name.clone();
            return Err(SignatureError::OtherKey { by, want: self.name.clone() });
        }
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.key.verify_strict(text, &bytes).map_err(|_| SignatureError::Invalid(self.name.clone()))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = decode(text)?;
        match ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { name, key }),
            _ => Err(KeyError::NotAKey),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// What a key of this name is said to have signed. Its text is `<name>:<base64 of 64 bytes>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    key_name: KeyName,
    bytes: [u8; 64],
}

impl Signature {
    /// Puts a signature together; whether it holds is [`PublicKey::verify`]'s to say.
    pub fn new(key_name: KeyName, bytes: [u8; 64]) -> Self {
        Self { key_name, bytes }
    }

    /// The name of the key.
    pub fn key_name(&self) -> &KeyName {
        &self.key_name
    }

    /// The 64 bytes.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (key_name, bytes) = decode(text)?;
        Ok(Self { key_name, bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, BASE64.encode(&self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str, seed: u8) -> SigningKey {
        SigningKey::generate(name.parse().unwrap(), [seed; 32])
    }

    #[test]
    fn a_signature_holds_for_its_key_and_text_alone() {
        let signature = key("a", 1).sign(b"text");
        assert_eq!(key("a", 1).public().verify(b"text", &signature), Ok(()));
        let a: KeyName = "a".parse().unwrap();
        let invalid = Err(SignatureError::Invalid(a.clone()));
        assert_eq!(key("a", 1).public().verify(b"text2", &signature), invalid);
        assert_eq!(key("a", 2).public().verify(b"text", &signature), invalid);
        let other = key("b", 1).public().verify(b"text", &signature);
        assert_eq!(other, Err(SignatureError::OtherKey { by: a, want: "b".parse().unwrap() }));
    }

    #[test]
    fn a_flipped_bit_anywhere_breaks_a_signature() {
        let signature = key("a", 1).sign(b"text");
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = Signature::new(signature.key_name().clone(), bytes);
            assert!(key("a", 1).public().verify(b"text", &flipped).is_err(), "{bit}");
        }
    }

    #[test]
    fn the_secret_is_read_back_and_not_shown() {
        let key = key("cache-1", 3);
        let secret = key.to_secret_text();
        let again: SigningKey = secret.parse().unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(format!("{key:?}"), "SigningKey(cache-1:secret)");
    }

    #[test]
    fn what_is_refused() {
        let secret = key("a", 1).to_secret_text();
        let public = key("a", 1).public().to_string();
        assert_eq!(public.parse::<SigningKey>().unwrap_err(), KeyError::Length { len: 32, want: 64 });
        assert_eq!(secret.parse::<PublicKey>().unwrap_err(), KeyError::Length { len: 64, want: 32 });
        assert_eq!("a".parse::<PublicKey>(), Err(KeyError::NoColon));
        assert_eq!(public[1..].parse::<PublicKey>(), Err(KeyError::NoName));
        assert_eq!(format!("x\n{public}").parse::<PublicKey>(), Err(KeyError::NameCharacter));
        assert_eq!("a:b:c".parse::<KeyName>(), Err(KeyError::NameCharacter));
        assert_eq!("a".repeat(256).parse::<KeyName>(), Err(KeyError::NameTooLong(256)));
        assert!(matches!("a:!".parse::<Signature>(), Err(KeyError::Base64(_))));
        let mut halves = [1; 64];
        halves[32..].copy_from_slice(key("a", 2).public().as_bytes());
        let mixed = format!("a:{}", BASE64.encode(&halves));
        assert_eq!(mixed.parse::<SigningKey>().unwrap_err(), KeyError::HalvesDiffer);
        let weak = format!("a:{}", BASE64.encode(&[0; 32]));
        assert_eq!(weak.parse::<PublicKey>(), Err(KeyError::NotAKey));
    }

    proptest! {
        #[test]
        fn parse_of_display_is_the_same(name in "[^:\\s\\pC]{1,20}", seed: [u8; 32], text: Vec<u8>) {
            let key = SigningKey::generate(name.parse().unwrap(), seed);
            prop_assert_eq!(key.public().to_string().parse(), Ok(key.public()));
            let signature = key.sign(&text);
            prop_assert_eq!(signature.to_string().parse(), Ok(signature));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".*|[a-z]{1,3}:[a-zA-Z0-9+/]{43}=|[a-z]:[a-zA-Z0-9+/]{86}==") {
            let _ = text.parse::<SigningKey>();
            let _ = text.parse::<PublicKey>();
            if let Ok(signature) = text.parse::<Signature>() {
                prop_assert_eq!(signature.to_string(), text);
            }
        }
    }
}
