//! decode(encode(x)) = x; arbitrary bytes never panic; there is one encoding.

use bytes::Bytes;
use firn_castore::{ClosureBuilder, Directory, DirectoryDigest, DirectoryError, Node, PathComponent, Root};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::any::{entries, names, nodes};

/// Whatever decodes has these very bytes as its encoding.
fn assert_strict(bytes: Vec<u8>) {
    let digest = DirectoryDigest::of(&bytes);
    if let Ok(directory) = Directory::decode(bytes.clone().into(), &digest) {
        assert_eq!(directory.encoded(), &bytes);
        let entries = directory.iter().map(|(name, node)| (name.clone(), node.clone()));
        assert_eq!(Directory::build(entries).as_ref(), Ok(&directory));
    }
}

proptest! {
    #[test]
    fn directories_over_bytes(entries in entries(), at in any::<Index>()) {
        let directory = Directory::build(entries.clone()).unwrap();
        let decoded = Directory::decode(directory.encoded().clone(), &directory.digest()).unwrap();
        prop_assert_eq!(&decoded, &directory);
        let listed: Vec<_> = decoded.iter().map(|(name, node)| (name.clone(), node.clone())).collect();
        prop_assert_eq!(&listed, &entries);
        let mut shuffled = entries;
        if !shuffled.is_empty() {
            let middle = at.index(shuffled.len());
            shuffled.rotate_left(middle);
        }
        let again = Directory::build(shuffled).unwrap();
        prop_assert_eq!(again.encoded(), directory.encoded());
    }

    #[test]
    fn roots_over_bytes_and_text(node in nodes()) {
        let root = Root::from(node);
        prop_assert_eq!(Root::from_bytes(&root.to_bytes()), Ok(root.clone()));
        prop_assert_eq!(root.to_string().parse(), Ok(root));
    }

    #[test]
    fn named_entries_over_messages(name in names(), node in nodes()) {
        let entry = node.to_named_entry(&name);
        prop_assert_eq!(Node::from_named_entry(entry), Ok((name, node)));
    }

    #[test]
    fn arbitrary_bytes_are_read_strictly_and_without_panic(bytes: Vec<u8>) {
        if let Ok(root) = Root::from_bytes(&bytes) {
            prop_assert_eq!(root.to_bytes(), &bytes[..]);
        }
        let _ = PathComponent::try_from(&bytes[..]);
        assert_strict(bytes);
    }

    #[test]
    fn altered_directories_are_read_strictly_and_without_panic(
        entries in entries(), at in any::<Index>(), byte: u8, cut in any::<Index>()
    ) {
        let mut bytes = Directory::build(entries).unwrap().encoded().to_vec();
        bytes.push(byte);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        assert_strict(bytes[..cut.index(bytes.len() + 1)].to_vec());
        assert_strict(bytes);
    }

    #[test]
    fn altered_roots_are_read_strictly_and_without_panic(node in nodes(), at in any::<Index>(), byte: u8) {
        let mut bytes = Root::from(node).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(root) = Root::from_bytes(&bytes) {
            prop_assert_eq!(root.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_text_is_read_as_a_root_without_panic(text in ".*|firn:.*|firn:[A-Za-z0-9_-]{2,60}") {
        if let Ok(root) = text.parse::<Root>() {
            prop_assert_eq!(root.to_string(), text);
        }
    }

    #[test]
    fn other_bytes_than_were_asked_for_are_refused(entries in entries(), want: [u8; 32]) {
        let directory = Directory::build(entries).unwrap();
        let want = DirectoryDigest::from(want);
        let got = directory.digest();
        let refused = Err(DirectoryError::Digest { want, got });
        prop_assert_eq!(Directory::decode(directory.encoded().clone(), &want), refused);
    }

    /// Directories whose children and sizes were made up: the builder never panics, and what it lets through is whole.
    #[test]
    fn closures_of_lies_are_never_whole(entries in entries(), others in entries(), size in 0u64..30) {
        let directories = [Directory::build(entries).unwrap(), Directory::build(others).unwrap()];
        let claim = Node::Directory { digest: directories[0].digest(), size };
        let Ok(mut builder) = ClosureBuilder::new(claim.into()) else { return Ok(()) };
        for directory in &directories {
            let _ = builder.insert(directory.clone());
        }
        if let Ok(closure) = builder.finish() {
            prop_assert_eq!(closure.entries(), size + 1);
            prop_assert_eq!(size, directories[0].size());
            prop_assert!(closure.walk().count() as u64 > size);
        }
    }
}

#[test]
fn a_directory_keeps_no_more_than_its_own_bytes_apart() {
    // Names are slices of the encoding, so a decoded Directory takes little more than its bytes.
    let name = PathComponent::try_from("name").unwrap();
    let node = Node::Symlink { target: "target".try_into().unwrap() };
    let built = Directory::build([(name, node)]).unwrap();
    let encoded = Bytes::copy_from_slice(built.encoded());
    let decoded = Directory::decode(encoded.clone(), &built.digest()).unwrap();
    let (name, _) = decoded.iter().next().unwrap();
    assert!(encoded.as_ptr_range().contains(&name.as_bytes().as_ptr()));
}
