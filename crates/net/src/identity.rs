//! One Ed25519 key in three coats: ours, iroh's and libp2p's. All conversions are here.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use firn_exchange::PeerId;
use iroh::{EndpointId, SecretKey};
use libp2p::{identity::Keypair, multihash::Multihash};

/// What stands before the key in a libp2p peer id: the protobuf of an Ed25519 public key, up to its 32 bytes.
const LIBP2P_KEY_PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// The multihash code of "not hashed".
const IDENTITY_MULTIHASH: u64 = 0;

/// The secret key of this node. It names the node on both planes and signs its address record; it signs no paths.
#[derive(Clone)]
pub struct Identity {
    secret: SecretKey,
    keypair: Keypair,
}

/// A key file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It can't be read or written.
    #[error("node key {path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("node key {path}: mode {mode:04o} lets others read it: chmod 0600 it")]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It isn't a file of 32 bytes.
    #[error("node key {path}: not a file of 32 bytes")]
    Shape {
        /// The key file.
        path: PathBuf,
    },
}

/// A libp2p peer id that doesn't spell out an Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("libp2p peer {0} has no Ed25519 key in its name")]
pub struct ForeignPeer(pub libp2p::PeerId);

/// 32 bytes that are no point of the curve, so nobody has this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a public key")]
pub struct NotAKey(pub PeerId);

impl Identity {
    /// The identity that this seed makes, always the same.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let keypair = Keypair::ed25519_from_bytes(seed).expect("any 32 bytes are an Ed25519 secret");
        Self { secret: SecretKey::from_bytes(&seed), keypair }
    }

    /// Reads the 32-byte seed at this path; where nothing is there, makes one (mode 0600, durable before it is used).
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match fs::File::open(path) {
            Ok(file) => load(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
            Err(source) => Err(IdentityError::Io { path: path.into(), source }),
        }
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        PeerId::from(*self.secret.public().as_bytes())
    }

    /// The public half as libp2p names it.
    pub fn libp2p_peer_id(&self) -> libp2p::PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.peer_id())
    }
}

fn load(path: &Path, mut file: fs::File) -> Result<Identity, IdentityError> {
    let io = |source| IdentityError::Io { path: path.into(), source };
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Mode { path: path.into(), mode });
    }
    if !metadata.is_file() || metadata.len() != 32 {
        return Err(IdentityError::Shape { path: path.into() });
    }
    let mut seed = [0; 32];
    file.read_exact(&mut seed).map_err(io)?;
    Ok(Identity::from_seed(seed))
}

/// Written aside and then linked, so that no half-written key is ever found, and none that is there is replaced.
fn create(path: &Path) -> Result<Identity, IdentityError> {
    let io = |source| IdentityError::Io { path: path.into(), source };
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".new-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let seed = SecretKey::generate().to_bytes();
    let written = write_durably(&aside, &seed).and_then(|()| fs::hard_link(&aside, path));
    let removed = fs::remove_file(&aside);
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return load(path, fs::File::open(path).map_err(io)?);
        }
        Err(source) => return Err(io(source)),
    }
    removed.map_err(io)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
    Ok(Identity::from_seed(seed))
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// How iroh names this peer.
pub fn endpoint_id(peer: PeerId) -> Result<EndpointId, NotAKey> {
    EndpointId::from_bytes(peer.as_bytes()).map_err(|_| NotAKey(peer))
}

/// Whom iroh means.
pub fn peer_of_endpoint(endpoint: EndpointId) -> PeerId {
    PeerId::from(*endpoint.as_bytes())
}

/// How libp2p names this peer: the identity multihash of `08 01 12 20 ‖ key`.
pub fn libp2p_peer(peer: PeerId) -> libp2p::PeerId {
    let mut key = [0; 36];
    key[..4].copy_from_slice(&LIBP2P_KEY_PREFIX);
    key[4..].copy_from_slice(peer.as_bytes());
    let hash = Multihash::wrap(IDENTITY_MULTIHASH, &key).expect("36 bytes fit into a multihash of 64");
    libp2p::PeerId::from_multihash(hash).expect("an identity multihash of up to 42 bytes is a peer id")
}

/// Whom libp2p means; other kinds of keys, and keys that are hashed, name nobody here.
pub fn peer_of_libp2p(peer: &libp2p::PeerId) -> Result<PeerId, ForeignPeer> {
    let hash: &Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY_MULTIHASH {
        return Err(ForeignPeer(*peer));
    }
    let key = hash.digest().strip_prefix(&LIBP2P_KEY_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.map(PeerId::from).ok_or(ForeignPeer(*peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_has_one_name_on_each_plane() {
        for byte in 0..32 {
            let identity = Identity::from_seed([byte; 32]);
            let peer = identity.peer_id();
            assert_eq!(endpoint_id(peer).unwrap(), identity.secret().public());
            assert_eq!(peer_of_endpoint(identity.secret().public()), peer);
            assert_eq!(libp2p_peer(peer), identity.libp2p_peer_id());
            assert_eq!(peer_of_libp2p(&identity.libp2p_peer_id()), Ok(peer));
        }
    }

    #[test]
    fn a_peer_id_without_a_key_in_it_is_foreign() {
        let hashed = libp2p::PeerId::from_multihash(Multihash::wrap(0x12, &[7; 32]).unwrap()).unwrap();
        assert_eq!(peer_of_libp2p(&hashed), Err(ForeignPeer(hashed)));
        let short = libp2p::PeerId::from_multihash(Multihash::wrap(0, &[8, 1, 18, 32, 1]).unwrap()).unwrap();
        assert_eq!(peer_of_libp2p(&short), Err(ForeignPeer(short)));
    }

    #[test]
    fn bytes_off_the_curve_are_no_key() {
        let off_the_curve =
            (0..=255).map(|byte| PeerId::from([byte; 32])).filter(|id| endpoint_id(*id).is_err());
        assert!(off_the_curve.count() > 0);
    }

    #[test]
    fn the_key_file_is_made_once_and_read_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_create(&path).unwrap().peer_id(), made.peer_id());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_of_wrong_mode_or_shape_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        fs::write(&path, [0; 31]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Mode { mode: 0o640, .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(
            matches!(error, IdentityError::Shape { .. }) && error.to_string().contains("node.key"),
            "{error}"
        );
        let nowhere = Identity::load_or_create(&dir.path().join("missing/node.key")).unwrap_err();
        assert!(matches!(nowhere, IdentityError::Io { .. }), "{nowhere}");
    }
}
