//! Memory that contents are read into, used over and over.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use crate::lock;

/// How many buffers are kept for the next.
const IDLE_MAX: usize = 64;

/// Buffers that come back when the last who holds their [`Bytes`] is done with them.
///
/// What memory the kernel has to hand out for the first time costs about as much as hashing what is read into it.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer of at least this capacity.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.take_used();
        buffer.clear();
        buffer.reserve_exact(capacity);
        buffer
    }

    /// A buffer with what it had when it came back, or a new one, which is empty.
    pub(crate) fn take_used(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    /// What was read.
    pub(crate) fn freeze(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: self.clone() })
    }
}

/// A buffer that goes home when it is dropped.
struct Lent {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut idle = lock(&self.home.0);
        if idle.len() < IDLE_MAX {
            idle.push(mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_after_its_last_use() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(10);
        buffer.extend_from_slice(b"contents");
        let at = buffer.as_ptr();
        let bytes = buffers.freeze(buffer);
        let slice = bytes.slice(3..5);
        drop(bytes);
        assert!(lock(&buffers.0).is_empty());
        assert_eq!(&slice[..], b"te");
        drop(slice);
        let again = buffers.take(10);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
    }
}
