//! Messages whose bytes were put together by hand from the field numbers: what snix reads and writes.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use data_encoding::{HEXLOWER, Specification};
use firn_proto::castore::entry::Entry as Kind;
use firn_proto::castore::{Directory, DirectoryEntry, Entry, FileEntry, SymlinkEntry};
use firn_proto::pathinfo::{NarInfo, PathInfo, StorePath, nar_info};
use prost::Message;

const DIGEST: &str = "20 1111111111111111111111111111111111111111111111111111111111111111";
const ENTRY_HEAD: &str = "0a27 0a25 0a01 78";

/// Hex with spaces where they help the eye.
fn hex(parts: &[&str]) -> Vec<u8> {
    let mut specification: Specification = HEXLOWER.specification();
    specification.ignore.push(' ');
    specification.encoding().unwrap().decode(parts.concat().as_bytes()).unwrap()
}

/// The message has these bytes, and the bytes are this message.
fn assert_golden<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, parts: &[&str]) {
    let bytes = hex(parts);
    assert_eq!(HEXLOWER.encode(&message.encode_to_vec()), HEXLOWER.encode(&bytes));
    assert_eq!(M::decode(&bytes[..]).unwrap(), message);
}

fn digest() -> Bytes {
    Bytes::from_static(&[0x11; 32])
}

#[test]
fn the_empty_directory_has_no_bytes() {
    assert_golden(Directory::default(), &[]);
    let digest = blake3::hash(&Directory::default().encode_to_vec());
    assert_eq!(digest.to_hex().as_str(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
}

#[test]
fn a_directory_of_all_kinds() {
    let directory = Directory {
        directories: vec![DirectoryEntry { name: "d".into(), digest: digest(), size: 5 }],
        files: vec![
            FileEntry { name: "e".into(), digest: digest(), size: 0, executable: false },
            FileEntry { name: (&b"\xff\xfe"[..]).into(), digest: digest(), size: 300, executable: true },
        ],
        symlinks: vec![SymlinkEntry { name: "l".into(), target: "../x".into() }],
    };
    let parts = [
        ["0a27 0a01 64 12", DIGEST, "18 05"].concat(),
        ["1225 0a01 65 12", DIGEST].concat(),
        ["122b 0a02 fffe 12", DIGEST, "18 ac02 20 01"].concat(),
        "1a09 0a01 6c 1204 2e2e2f78".to_owned(),
    ];
    assert_golden(directory, &[&parts.concat()]);
}

#[test]
fn an_entry_of_each_kind() {
    let directory = DirectoryEntry { name: Bytes::new(), digest: digest(), size: u64::MAX };
    let entry = Entry { entry: Some(Kind::Directory(directory)) };
    assert_golden(entry, &["0a2d 12", DIGEST, "18 ffffffffffffffffff01"]);
    let file = FileEntry { name: Bytes::new(), digest: digest(), size: 128, executable: true };
    assert_golden(Entry { entry: Some(Kind::File(file)) }, &["1227 12", DIGEST, "18 8001 20 01"]);
    let symlink = SymlinkEntry { name: Bytes::new(), target: "to".into() };
    assert_golden(Entry { entry: Some(Kind::Symlink(symlink)) }, &["1a04 1202 746f"]);
}

#[test]
fn a_path_info_with_nothing_optional() {
    let entry = DirectoryEntry { name: "x".into(), digest: digest(), size: 0 };
    let info = PathInfo {
        entry: Some(Entry { entry: Some(Kind::Directory(entry)) }),
        references: Vec::new(),
        narinfo: Some(NarInfo {
            nar_size: 96,
            nar_sha256: Bytes::from_static(&[0x11; 32]),
            ..Default::default()
        }),
    };
    assert_golden(info, &[ENTRY_HEAD, "12", DIGEST, "1a24 08 60 12", DIGEST]);
}

#[test]
fn a_path_info_with_everything() {
    let narinfo = NarInfo {
        nar_size: 300,
        nar_sha256: digest(),
        signatures: vec![nar_info::Signature { name: "k-1".into(), data: Bytes::from_static(&[0xaa; 3]) }],
        reference_names: vec!["r".into()],
        deriver: Some(StorePath { name: "x".into(), digest: Bytes::from_static(&[0xbb; 20]) }),
        ca: Some(nar_info::Ca {
            r#type: nar_info::ca::Hash::FlatSha512.into(),
            digest: Bytes::from_static(&[0xcc; 2]),
        }),
    };
    let entry = DirectoryEntry { name: "x".into(), digest: digest(), size: 0 };
    let info = PathInfo {
        entry: Some(Entry { entry: Some(Kind::Directory(entry)) }),
        references: vec![Bytes::from_static(&[0xdd; 20])],
        narinfo: Some(narinfo),
    };
    let parts = [
        [ENTRY_HEAD, "12", DIGEST].concat(),
        "1214 dddddddddddddddddddddddddddddddddddddddd".to_owned(),
        // 3 + 34 + 12 + 3 + 27 + 8 bytes
        ["1a57 08 ac02 12", DIGEST].concat(),
        "1a0a 0a03 6b2d31 1203 aaaaaa".to_owned(),
        "2201 72".to_owned(),
        "2a19 0a01 78 1214 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".to_owned(),
        "3206 08 08 1202 cccc".to_owned(),
    ];
    assert_golden(info, &[&parts.concat()]);
}

#[test]
fn the_kinds_of_content_addresses_have_their_numbers() {
    use nar_info::ca::Hash;
    let kinds = [
        Hash::NarSha256,
        Hash::NarSha1,
        Hash::NarSha512,
        Hash::NarMd5,
        Hash::TextSha256,
        Hash::FlatSha1,
        Hash::FlatMd5,
        Hash::FlatSha256,
        Hash::FlatSha512,
    ];
    assert_eq!(kinds.map(i32::from), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(Hash::try_from(9).is_err());
}
