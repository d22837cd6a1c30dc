//! The fixed strings of a NAR, their lengths and their bytes.

pub(super) const MAGIC: &[&str] = &["nix-archive-1"];
pub(super) const FILE: &[&str] = &["(", "type", "regular"];
pub(super) const EXECUTABLE: &[&str] = &["executable", ""];
pub(super) const CONTENTS: &[&str] = &["contents"];
pub(super) const SYMLINK: &[&str] = &["(", "type", "symlink", "target"];
pub(super) const DIRECTORY: &[&str] = &["(", "type", "directory"];
pub(super) const ENTRY: &[&str] = &["entry", "(", "name"];
pub(super) const NODE: &[&str] = &["node"];
pub(super) const CLOSE: &[&str] = &[")"];

/// The bytes of a length.
pub(super) const LENGTH_BYTES: u64 = 8;

const ZEROS: [u8; 8] = [0; 8];

/// The zeros that follow so many bytes.
pub(super) fn padding(bytes: u64) -> &'static [u8] {
    &ZEROS[..(bytes.wrapping_neg() % 8) as usize]
}

/// How many bytes a string takes: its length, itself, its padding.
pub(super) fn string_bytes(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(8)?.checked_add(LENGTH_BYTES)
}

/// How many bytes these fixed strings take.
pub(super) fn fixed_bytes(strings: &[&str]) -> u64 {
    strings.iter().map(|string| LENGTH_BYTES + (string.len() as u64).next_multiple_of(8)).sum()
}

/// Writes a string.
pub(super) fn put(buffer: &mut Vec<u8>, string: &[u8]) {
    buffer.extend_from_slice(&(string.len() as u64).to_le_bytes());
    buffer.extend_from_slice(string);
    buffer.extend_from_slice(padding(string.len() as u64));
}

/// Writes fixed strings.
pub(super) fn put_fixed(buffer: &mut Vec<u8>, strings: &[&str]) {
    for string in strings {
        put(buffer, string.as_bytes());
    }
}
