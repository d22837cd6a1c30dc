//! Bytes and digests that were made by hand, with nothing of this workspace.

use bytes::Bytes;
use firn_castore::{
    BlobDigest, BlobRef, ClosureBuilder, Directory, DirectoryDigest, Node, PathComponent, Root, SymlinkTarget,
};

use crate::hex;

const ONES: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TWOS: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const THREES: &str = "3333333333333333333333333333333333333333333333333333333333333333";

const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
/// BLAKE3 of `1` and of `2`.
const FILE_1: &str = "d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487";
const FILE_2: &str = "813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d";
const LEAF: &str = "ccda29cdc163c82c27293d7347c3172b0ccaeb1fad2fa142c257e191d2d9e135";
const MIDDLE: &str = "b99de43a8a1506397a664ff716d3705323212af654331619db10e9d6e84eade0";
const TOP: &str = "ba63c08175f6d2c439575ad9c39101692ae1f9980bc4ac25ef3060a5616e0770";

fn name(bytes: &[u8]) -> PathComponent {
    bytes.try_into().unwrap()
}

fn file(digest: &str, size: u64, executable: bool) -> Node {
    let digest = BlobDigest::try_from(&hex(digest)[..]).unwrap();
    Node::File { blob: BlobRef { digest, size }, executable }
}

fn child(digest: &str, size: u64) -> Node {
    Node::Directory { digest: DirectoryDigest::try_from(&hex(digest)[..]).unwrap(), size }
}

fn link(target: &[u8]) -> Node {
    Node::Symlink { target: SymlinkTarget::try_from(target).unwrap() }
}

/// These entries have these bytes and this digest, and the bytes are these entries.
fn assert_golden(entries: &[(&[u8], Node)], bytes: &str, digest: &str, size: u64) -> Directory {
    let entries: Vec<_> = entries.iter().map(|(of, node)| (name(of), node.clone())).collect();
    let built = Directory::build(entries.iter().rev().cloned()).unwrap();
    assert_eq!(built.encoded(), &hex(bytes));
    assert_eq!(built.digest().to_string(), digest);
    assert_eq!(built.size(), size);
    assert_eq!(built.len(), entries.len());
    let want = DirectoryDigest::try_from(&hex(digest)[..]).unwrap();
    let decoded = Directory::decode(hex(bytes), &want).unwrap();
    assert_eq!(decoded, built);
    assert!(entries.iter().all(|(of, node)| decoded.get(of) == Some(node)));
    built
}

#[test]
fn the_empty_directory() {
    let empty = assert_golden(&[], "", EMPTY, 0);
    assert!(empty.is_empty());
    assert_eq!(empty.node(), child(EMPTY, 0));
}

#[test]
fn a_name_that_is_not_utf_8_and_an_executable() {
    assert_golden(
        &[(b"\xff\xfe", file(ONES, 300, true))],
        &format!("122b 0a02 fffe 1220 {ONES} 18 ac02 20 01"),
        "8212fb484c18350c109322ad4e79747261765366498075f690887647d60d3c3a",
        1,
    );
}

#[test]
fn all_kinds_each_list_in_the_order_of_bytes() {
    let entries: [(&[u8], Node); 4] = [
        (b"d", child(TWOS, 5)),
        (b"e", file(THREES, 0, false)),
        (b"l", link(b"../x")),
        (b"\xff\xfe", file(ONES, 300, true)),
    ];
    let bytes = format!(
        "0a27 0a01 64 1220 {TWOS} 18 05  1225 0a01 65 1220 {THREES}
         122b 0a02 fffe 1220 {ONES} 18 ac02 20 01  1a09 0a01 6c 1204 2e2e2f78"
    )
    .replace('\n', "");
    let digest = "2c0d2cbe4d76fd7ccb55418515fafa9ec84de16e63d0bc4e53e1756429232f01";
    let built = assert_golden(&entries, &bytes, digest, 3 + 1 + 5);
    let names: Vec<_> = built.iter().map(|(name, _)| &name.as_bytes()[..]).collect();
    assert_eq!(names, [&b"d"[..], b"e", b"l", b"\xff\xfe"]);
}

#[test]
fn sizes_count_all_that_is_beneath() {
    let leaf = format!("1227 0a01 78 1220 {FILE_1} 18 01");
    let leaf = assert_golden(&[(b"x", file(FILE_1, 1, false))], &leaf, LEAF, 1);
    let middle = format!("0a2a 0a04 6c656166 1220 {LEAF} 18 01  1229 0a01 79 1220 {FILE_2} 18 01 20 01");
    let entries: [(&[u8], Node); 2] = [(b"leaf", child(LEAF, 1)), (b"y", file(FILE_2, 1, true))];
    let middle = assert_golden(&entries, &middle, MIDDLE, 3);
    let top = format!("0a27 0a01 61 1220 {LEAF} 18 01  0a27 0a01 62 1220 {MIDDLE} 18 03");
    let entries: [(&[u8], Node); 2] = [(b"a", child(LEAF, 1)), (b"b", child(MIDDLE, 3))];
    let top = assert_golden(&entries, &top, TOP, 6);

    let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
    for directory in [top, middle, leaf] {
        builder.insert(directory).unwrap();
    }
    let closure = builder.finish().unwrap();
    assert_eq!(closure.entries(), 7);
    assert_eq!(closure.blobs(), [BlobRef::of(b"1"), BlobRef::of(b"2")]);
    assert_eq!(closure.directories().count(), 3);
}

#[test]
fn roots_in_bytes_and_in_text() {
    let golden = [
        (child(EMPTY, 0), format!("0a22 1220 {EMPTY}"), "CiISIK8TSbn1-aGmoEBN6jbcyUmbyyXJrcESt8yak8rkHzJi"),
        (
            child(TOP, 6),
            format!("0a24 1220 {TOP} 18 06"),
            "CiQSILpjwIF19tLEOVda2cORAWkq4fmYC8SsJe8wYKVhbgdwGAY",
        ),
        (
            file(FILE_2, 1, true),
            format!("1226 1220 {FILE_2} 18 01 20 01"),
            "EiYSIIE-m3KRQefzha-gotDfPmw3ieQn_-Su71ZqVlvI8v49GAEgAQ",
        ),
        (
            file(EMPTY, 0, false),
            format!("1222 1220 {EMPTY}"),
            "EiISIK8TSbn1-aGmoEBN6jbcyUmbyyXJrcESt8yak8rkHzJi",
        ),
        (link(b"../x"), "1a06 1204 2e2e2f78".to_owned(), "GgYSBC4uL3g"),
        (link(b"\xff\xfe"), "1a04 1202 fffe".to_owned(), "GgQSAv_-"),
    ];
    for (node, bytes, text) in golden {
        let root = Root::from(node);
        assert_eq!(Bytes::from(root.to_bytes()), hex(&bytes));
        assert_eq!(Root::from_bytes(&hex(&bytes)).as_ref(), Ok(&root));
        assert_eq!(root.to_base64url(), text);
        assert_eq!(Root::from_base64url(text).as_ref(), Ok(&root));
        assert_eq!(root.to_string(), format!("firn:{text}"));
        assert_eq!(root.to_string().parse(), Ok(root));
    }
}
