//! Memory that is used again.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use firn_bao::VerifiedBytes;

use crate::lock;

/// Buffers that are read into. What was lent comes back once nobody has it any more, so that there are as many as were
/// lent at a time: to make new ones costs a tenth of what it costs to read and verify what comes into them.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<VerifiedBytes>>>);

impl Buffers {
    /// An empty one, of about so many bytes if it is new.
    pub(crate) fn take(&self, expected: usize) -> VerifiedBytes {
        lock(&self.0).pop().unwrap_or_else(|| VerifiedBytes::expecting(expected))
    }

    /// What has been read, for as long as somebody has it.
    pub(crate) fn lend(&self, bytes: VerifiedBytes) -> Bytes {
        Bytes::from_owner(Lent { bytes, home: self.clone() })
    }
}

struct Lent {
    bytes: VerifiedBytes,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(0);
        lock(&self.home.0).push(bytes);
    }
}
