//! Directories and roots that are not canonical, each by its own name.

use std::iter::repeat_n;

use bytes::Bytes;
use firn_castore::{
    DIRECTORY_BYTES_MAX, DigestError, Directory, DirectoryDigest, DirectoryError, NameError, Node, Root,
    RootError,
};

use crate::hex;

const D: &str = "20 1111111111111111111111111111111111111111111111111111111111111111";

fn refused(bytes: impl Into<Bytes>) -> DirectoryError {
    let bytes = bytes.into();
    Directory::decode(bytes.clone(), &DirectoryDigest::of(&bytes)).unwrap_err()
}

fn refused_hex(text: &str) -> DirectoryError {
    refused(hex(text))
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(tag: u8, contents: &[u8]) -> Vec<u8> {
    [&[tag], &varint(contents.len())[..], contents].concat()
}

/// One symlink of this name and target.
fn symlink(name: &[u8], target: &[u8]) -> Vec<u8> {
    field(0x1a, &[field(0x0a, name), field(0x12, target)].concat())
}

fn file(name: &str) -> String {
    format!("1225 0a01 {name} 12{D}")
}

fn directory(name: &str, size: &str) -> String {
    format!("0a{:02x} 0a01 {name} 12{D} 18 {size}", 37 + 1 + size.len() / 2)
}

#[test]
fn the_helpers_make_legal_directories() {
    for bytes in [hex(&file("61")), hex(&directory("61", "05")), symlink(b"a", b"b").into()] {
        assert!(Directory::decode(bytes.clone(), &DirectoryDigest::of(&bytes)).is_ok());
    }
}

#[test]
fn names_out_of_order() {
    for bytes in [
        file("62") + &file("61"),
        directory("62", "05") + &directory("61", "05"),
        // Bytes are unsigned.
        file("ff") + &file("61"),
    ] {
        assert_eq!(refused_hex(&bytes), DirectoryError::NotCanonical);
    }
    let links = [symlink(b"b", b"t"), symlink(b"a", b"t")].concat();
    assert_eq!(refused(links), DirectoryError::NotCanonical);
}

#[test]
fn lists_in_the_wrong_order() {
    assert_eq!(refused_hex(&(file("61") + &directory("62", "05"))), DirectoryError::NotCanonical);
    let link_first = [&symlink(b"a", b"t")[..], &hex(&file("62"))].concat();
    assert_eq!(refused(link_first), DirectoryError::NotCanonical);
    let torn_apart = directory("61", "05") + &file("62") + &directory("63", "05");
    assert_eq!(refused_hex(&torn_apart), DirectoryError::NotCanonical);
}

#[test]
fn one_name_twice() {
    let twice = DirectoryError::Duplicate("a".try_into().unwrap());
    assert_eq!(refused_hex(&(file("61") + &file("61"))), twice);
    assert_eq!(refused_hex(&(directory("61", "05") + &directory("61", "05"))), twice);
    assert_eq!(refused([symlink(b"a", b"t"), symlink(b"a", b"u")].concat()), twice);
    assert_eq!(refused_hex(&(directory("61", "05") + &file("61"))), twice, "across directories and files");
    let across = [&hex(&file("61"))[..], &symlink(b"a", b"t")].concat();
    assert_eq!(refused(across), twice, "across files and symlinks");
    let across = [&hex(&directory("61", "05"))[..], &symlink(b"a", b"t")].concat();
    assert_eq!(refused(across), twice, "across directories and symlinks");
    let entry = ("a".try_into().unwrap(), Node::Symlink { target: "t".try_into().unwrap() });
    assert_eq!(Directory::build([entry.clone(), entry]), Err(twice));
}

#[test]
fn illegal_names() {
    let long = [b'x'; 256];
    let illegal: [(&[u8], NameError); 8] = [
        (b".", NameError::Dots(".")),
        (b"..", NameError::Dots("..")),
        (b"/", NameError::Forbidden(b'/')),
        (b"a/b", NameError::Forbidden(b'/')),
        (b"\0", NameError::Forbidden(0)),
        (b"a\0", NameError::Forbidden(0)),
        (b"", NameError::Empty),
        (&long, NameError::TooLong { len: 256, max: 255 }),
    ];
    let digest = [&[0x20][..], &[0x11; 32]].concat();
    for (name, error) in illegal {
        let error = DirectoryError::Name(error);
        assert_eq!(refused(symlink(name, b"t")), error);
        let entry = [field(0x0a, name), [&[0x12][..], &digest].concat()].concat();
        assert_eq!(refused(field(0x0a, &entry)), error);
        assert_eq!(refused(field(0x12, &entry)), error);
    }
    // An absent name is an empty one.
    assert_eq!(refused_hex(&format!("1222 12{D}")), DirectoryError::Name(NameError::Empty));
}

#[test]
fn illegal_targets() {
    assert_eq!(refused(symlink(b"a", b"")), DirectoryError::Name(NameError::Empty));
    assert_eq!(refused_hex("1a03 0a01 61"), DirectoryError::Name(NameError::Empty));
    assert_eq!(refused(symlink(b"a", b"t\0")), DirectoryError::Name(NameError::Forbidden(0)));
    let long = refused(symlink(b"a", &[b'x'; 4096]));
    assert_eq!(long, DirectoryError::Name(NameError::TooLong { len: 4096, max: 4095 }));
}

#[test]
fn digests_of_a_wrong_length() {
    for length in [0, 31, 33] {
        let entry = [field(0x0a, b"a"), field(0x12, &vec![7; length])].concat();
        for tag in [0x0a, 0x12] {
            assert_eq!(refused(field(tag, &entry)), DirectoryError::ChildDigest(DigestError(length)));
        }
    }
    assert_eq!(refused_hex("1203 0a01 61"), DirectoryError::ChildDigest(DigestError(0)), "absent");
}

#[test]
fn unknown_fields() {
    // Field 4 of the Directory, field 5 of the file, field 3 of the symlink.
    assert_eq!(refused_hex("20 01"), DirectoryError::NotCanonical);
    assert_eq!(refused_hex("2200"), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&(file("61") + "20 01")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1227 0a01 61 12{D} 28 01")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex("1a08 0a01 61 1201 62 18 01"), DirectoryError::NotCanonical);
}

#[test]
fn repeated_fields() {
    assert_eq!(refused_hex(&format!("1228 0a01 62 0a01 61 12{D}")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1229 0a01 61 12{D} 18 01 18 01")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1247 0a01 61 12{D} 12{D}")), DirectoryError::NotCanonical);
}

#[test]
fn fields_in_the_wrong_order() {
    assert_eq!(refused_hex(&format!("1225 12{D} 0a01 61")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1227 0a01 61 18 01 12{D}")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1229 0a01 61 12{D} 20 01 18 01")), DirectoryError::NotCanonical);
}

#[test]
fn varints_that_are_longer_than_need_be() {
    assert_eq!(refused_hex(&format!("1228 0a01 61 12{D} 18 8100")), DirectoryError::NotCanonical, "a size");
    assert_eq!(refused_hex(&format!("12a500 0a01 61 12{D}")), DirectoryError::NotCanonical, "a length");
    assert_eq!(refused_hex(&format!("9200 25 0a01 61 12{D}")), DirectoryError::NotCanonical, "a tag");
    assert_eq!(refused_hex(&format!("1227 0a01 61 12{D} 20 02")), DirectoryError::NotCanonical, "a bool");
    let eleven = format!("1231 0a01 61 12{D} 18 8080808080808080808001");
    assert!(matches!(refused_hex(&eleven), DirectoryError::Protobuf(_)));
}

#[test]
fn defaults_that_are_written_out() {
    assert_eq!(refused_hex(&directory("61", "00")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1227 0a01 61 12{D} 18 00")), DirectoryError::NotCanonical);
    assert_eq!(refused_hex(&format!("1227 0a01 61 12{D} 20 00")), DirectoryError::NotCanonical);
}

#[test]
fn what_is_no_protobuf() {
    for garbage in ["ff", "0a", "0aff", "0a05 0a01", "0b", "00", "12 25 0a01 61", "0a ffffffffffffffffff01"] {
        assert!(matches!(refused_hex(garbage), DirectoryError::Protobuf(_)), "{garbage}");
    }
    // A list as a number.
    assert!(matches!(refused_hex("08 01"), DirectoryError::Protobuf(_)));
}

#[test]
fn groups_nested_deeply_neither_overflow_the_stack_nor_pass() {
    let nested: Vec<u8> = repeat_n(0x23, 1 << 20).chain(repeat_n(0x24, 1 << 20)).collect();
    refused(nested);
}

#[test]
fn sizes_that_lie_until_they_overflow() {
    let max = "ffffffffffffffffff01";
    assert_eq!(refused_hex(&directory("61", max)), DirectoryError::SizeOverflow);
    let half = "ffffffffffffffff7f";
    let two = directory("61", half) + &directory("62", half) + &file("63");
    assert_eq!(refused_hex(&two), DirectoryError::SizeOverflow);
    let node = Node::Directory { digest: [1; 32].into(), size: u64::MAX };
    assert_eq!(Directory::build([("a".try_into().unwrap(), node)]), Err(DirectoryError::SizeOverflow));
}

#[test]
fn more_bytes_than_any_directory_has_are_refused_before_they_are_taken_apart() {
    // Empty entries: two bytes each, which a whole message would make into many times as much.
    let bytes = Bytes::from([0x0a, 0].repeat(DIRECTORY_BYTES_MAX / 2 + 1));
    assert_eq!(refused(bytes.clone()), DirectoryError::TooLong(DIRECTORY_BYTES_MAX + 2));
    let error = DirectoryError::ChildDigest(DigestError(0));
    assert_eq!(refused(bytes.slice(..DIRECTORY_BYTES_MAX)), error);
}

#[test]
fn roots_that_are_none() {
    let root = |text: &str| Root::from_bytes(&hex(text)).unwrap_err();
    assert_eq!(root(""), RootError::NoKind);
    assert_eq!(root("2200"), RootError::NoKind, "a fourth kind");
    assert_eq!(root("0a00"), RootError::Digest(DigestError(0)));
    assert_eq!(root(&format!("0a25 0a01 61 12{D}")), RootError::Named("a".into()));
    assert_eq!(root(&format!("0a22 12{D} 0a22 12{D}")), RootError::NotCanonical, "one kind twice");
    assert_eq!(root(&format!("0a22 12{D} 1222 12{D}")), RootError::NotCanonical, "two kinds");
    assert_eq!(root(&format!("0a22 12{D} 20 01")), RootError::NotCanonical, "an unknown field");
    assert_eq!(root(&format!("0a24 12{D} 18 00")), RootError::NotCanonical, "a default");
    assert_eq!(root(&format!("0aa200 12{D}")), RootError::NotCanonical, "a long varint");
    assert_eq!(root("1a00"), RootError::Name(NameError::Empty));
    assert_eq!(root("1a03 1201 00"), RootError::Name(NameError::Forbidden(0)));
    assert!(matches!(root("0a"), RootError::Protobuf(_)));
}

#[test]
fn texts_that_are_no_root() {
    let root = |text: &str| text.parse::<Root>().unwrap_err();
    assert_eq!(root("GgYSBC4uL3g"), RootError::Prefix);
    assert_eq!(root("Firn:GgYSBC4uL3g"), RootError::Prefix);
    assert_eq!(root(""), RootError::Prefix);
    assert_eq!(root("firn:"), RootError::NoKind);
    for text in ["firn:GgYSBC4uL3g=", "firn:GgYSBC4uL3h", "firn:Gg YSBC4uL3g", "firn:GgQSAv/+"] {
        assert!(matches!(root(text), RootError::Base64(_)), "{text}");
    }
}
