//! Where the socket is, and taking that place.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, net},
    path::{Path, PathBuf},
};

use firn_castore::BlobDigest;
use firn_store::create_private_dir;
use tokio::net::{UnixListener, UnixSocket};

use crate::config::Environment;

/// `sun_path` has 108 bytes on Linux, the last of which is NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How many commands may wait to be answered.
const BACKLOG: u32 = 128;

/// Nowhere is the path short enough for a socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no place for the control socket: a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes, {socket} has more; \
     choose a shorter --data-dir, or set XDG_RUNTIME_DIR",
    socket = .0.display()
)]
pub struct SocketPathError(pub PathBuf);

/// Where the node on this data directory has its socket: in the data directory, or, where that path is too long, in
/// `$XDG_RUNTIME_DIR/firn` under a name made from it. Node and command find the same place.
pub fn socket_path(data_dir: &Path, environment: &Environment) -> Result<PathBuf, SocketPathError> {
    let fits = |path: &Path| path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
    let beside = data_dir.join("control.sock");
    if fits(&beside) {
        return Ok(beside);
    }
    let digest = BlobDigest::of(data_dir.as_os_str().as_bytes());
    let name: String = digest.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let runtime = environment.xdg_runtime_dir.as_ref().map(|dir| dir.join("firn").join(name + ".sock"));
    runtime.filter(|path| fits(path)).ok_or(SocketPathError(beside))
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A node answers there.
    #[error("a node runs already: it answers on {0}")]
    NodeRuns(PathBuf),
    /// The socket could not be made.
    #[error("can't make the control socket {socket}: {source}", socket = socket.display())]
    Io {
        /// Where.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The file of a socket.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; a socket that stays behind is replaced by the next node.
        let _ = fs::remove_file(&self.0);
    }
}

impl ControlSocket {
    /// Opens the socket. One that a dead node left behind is replaced, one that is answered is not.
    ///
    /// The caller holds the lock of the store, so nobody else does this at the same time. The socket gets its mode before it
    /// gets its name. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { socket: path.into(), source };
        if is_answered(path).map_err(failed)? {
            return Err(BindError::NodeRuns(path.into()));
        }
        let listener = bind_aside(path).map_err(failed)?;
        Ok(Self { listener, file: SocketFile(path.into()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.0
    }
}

fn is_answered(path: &Path) -> io::Result<bool> {
    match net::UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(false),
            _ => Err(error),
        },
    }
}

fn bind_aside(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        create_private_dir(dir)?;
    }
    // Not longer than "sock", so that it fits where the socket fits.
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(&aside)?;
    // Nobody can connect before it listens.
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
    let listener = socket.listen(BACKLOG)?;
    fs::rename(&aside, path)?;
    Ok(listener)
}
