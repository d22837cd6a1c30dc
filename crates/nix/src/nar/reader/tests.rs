use proptest::prelude::*;

use super::*;
use crate::nar::frame::put;

/// Joins strings the way a NAR does.
fn framed(strings: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    for string in strings {
        put(&mut nar, string);
    }
    nar
}

fn archive(strings: &[&str]) -> Vec<u8> {
    let mut nar = framed(&[b"nix-archive-1"]);
    nar.extend(framed(&strings.iter().map(|string| string.as_bytes()).collect::<Vec<_>>()));
    nar
}

fn entry(name: &'static str) -> Vec<&'static str> {
    let node = ["(", "type", "symlink", "target", "t", ")"];
    [&["entry", "(", "name", name, "node"][..], &node, &[")"]].concat()
}

fn directory(entries: &[&'static str]) -> Vec<u8> {
    let entries: Vec<&str> = entries.iter().flat_map(|name| entry(name)).collect();
    archive(&[&["(", "type", "directory"][..], &entries, &[")"]].concat())
}

fn read(nar: &[u8]) -> Result<(), NarError> {
    NarReader::new(nar).finish()
}

fn error(nar: &[u8]) -> String {
    format!("{:?}", read(nar).unwrap_err())
}

const FILE: [&str; 6] = ["(", "type", "regular", "contents", "hello", ")"];

#[test]
fn contents_may_be_read_in_part_or_not_at_all() {
    let nar = archive(&FILE);
    for bytes in 0..7 {
        let mut reader = NarReader::new(&nar[..]);
        let file = NarEvent::File { name: None, executable: false, size: 5 };
        assert_eq!(reader.contents().read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(reader.next().unwrap(), Some(file));
        let mut part = Vec::new();
        reader.contents().take(bytes).read_to_end(&mut part).unwrap();
        assert_eq!(part, &b"hello"[..bytes.min(5) as usize]);
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.next().unwrap(), None);
        reader.finish().unwrap();
    }
}

#[test]
fn names_are_sorted_unique_and_legal() {
    read(&directory(&["A", "a", "ab", "b"])).unwrap();
    assert!(error(&directory(&["b", "a"])).starts_with("Order"));
    assert!(error(&directory(&["a", "a"])).starts_with("Order"));
    for illegal in ["", ".", "..", "a/b", "a\0"] {
        assert!(error(&directory(&[illegal])).starts_with("Name"), "{illegal:?}");
    }
}

#[test]
fn every_truncation_and_every_addition_is_found() {
    for nar in [archive(&FILE), directory(&["a", "b"])] {
        read(&nar).unwrap();
        for end in 0..nar.len() {
            assert!(matches!(read(&nar[..end]), Err(NarError::Truncated)), "{end}");
        }
        let longer = [&nar[..], &[0]].concat();
        assert!(matches!(read(&longer), Err(NarError::Trailing(end)) if end == nar.len() as u64));
    }
}

#[test]
fn padding_is_zero() {
    let mut nar = archive(&FILE);
    let hello = nar.windows(5).position(|window| window == b"hello").unwrap();
    nar[hello + 6] = 1;
    assert!(error(&nar).starts_with("Padding"));
    let mut nar = archive(&FILE);
    nar[8 + 13] = 1;
    assert!(error(&nar).starts_with("Padding(24)"));
}

#[test]
fn what_nix_lets_pass_and_a_writer_never_writes_is_refused() {
    // A regular file without contents, an executable mark that is not empty, a node without a type.
    assert!(error(&archive(&["(", "type", "regular", ")"])).starts_with("Unexpected"));
    let marked = ["(", "type", "regular", "executable", "x", "contents", "", ")"];
    assert!(error(&archive(&marked)).starts_with("Unexpected"));
    assert!(error(&archive(&["(", ")"])).starts_with("Unexpected"));
    assert!(
        error(&framed(&[b"nix-archive-2"])).starts_with("Unexpected { wanted: \"nix-archive-1\", offset: 0")
    );
    assert!(error(&archive(&["(", "type", "fifo", ")"])).starts_with("Unexpected"));
    assert!(error(&archive(&["(", "type", "symlink", "target", "", ")"])).starts_with("Name"));
}

#[test]
fn a_claimed_length_gets_no_memory() {
    let mut nar = framed(&[b"nix-archive-1"]);
    nar.extend(u64::MAX.to_le_bytes());
    assert!(error(&nar).starts_with("Unexpected { wanted: \"a keyword\""));
    let mut nar = archive(&["(", "type", "symlink", "target"]);
    nar.extend((TARGET_BYTES_MAX as u64 + 1).to_le_bytes());
    assert!(error(&nar).starts_with("Name"));
    let mut nar = archive(&["(", "type", "regular", "contents"]);
    nar.extend(u64::MAX.to_le_bytes());
    nar.extend(b"little");
    assert!(error(&nar).starts_with("Truncated"));
}

#[test]
fn too_deep_is_refused_and_just_deep_enough_is_not() {
    let nested = |depth: usize| {
        let mut strings = Vec::new();
        for level in 0..depth {
            strings.extend(["(", "type", "directory"]);
            if level + 1 < depth {
                strings.extend(["entry", "(", "name", "d", "node"]);
            }
        }
        strings.push(")");
        for _ in 1..depth {
            strings.extend([")", ")"]);
        }
        archive(&strings)
    };
    read(&nested(DEPTH_MAX as usize)).unwrap();
    assert!(error(&nested(DEPTH_MAX as usize + 1)).starts_with("TooDeep"));
}

#[test]
fn after_an_error_nothing_is_read() {
    let nar = directory(&["b", "a"]);
    let mut reader = NarReader::new(&nar[..]);
    while reader.next().is_ok() {}
    assert!(matches!(reader.next(), Err(NarError::Broken)));
    assert!(matches!(reader.finish(), Err(NarError::Broken)));
}

#[test]
fn a_failing_disk_is_no_broken_nar() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let nar = archive(&FILE);
    let result = NarReader::new(nar[..40].chain(Failing)).finish();
    assert!(matches!(result, Err(NarError::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied));
}

/// NAR-like strings in any order.
fn strings() -> impl Strategy<Value = Vec<u8>> {
    let keyword = prop::sample::select(vec![
        "(",
        ")",
        "type",
        "regular",
        "executable",
        "",
        "contents",
        "symlink",
        "target",
        "directory",
        "entry",
        "name",
        "node",
        "a",
    ]);
    proptest::collection::vec(keyword, 0..40).prop_map(|strings| archive(&strings))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, strings in strings()) {
        let _ = read(&bytes);
        let _ = read(&strings);
    }

    #[test]
    fn a_changed_byte_never_panics(at: prop::sample::Index, to: u8) {
        let mut nar = directory(&["a", "b"]);
        let at = at.index(nar.len());
        nar[at] = to;
        let _ = read(&nar);
    }
}
