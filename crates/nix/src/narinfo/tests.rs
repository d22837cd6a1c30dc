use proptest::prelude::*;

use super::*;
use crate::{ContentHash, SigningKey};

const LEAST: &str = "\
StorePath: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a
URL: nar/1.nar
Compression: none
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 7
References: 
";

fn error(text: &str) -> NarInfoError {
    NarInfo::parse(text).unwrap_err()
}

#[test]
fn the_least_there_may_be() {
    let info = NarInfo::parse(LEAST).unwrap();
    assert_eq!(info.to_string(), LEAST);
    assert_eq!(info.store_path.name(), "a");
    assert_eq!(info.facts.nar_size, 7);
    assert!(info.facts.references.is_empty());
}

#[test]
fn what_nix_passes_over_or_fills_in() {
    let more = format!("{LEAST}Surprise: yes\nDeriver: unknown-deriver\nSystem: x86_64-linux\n");
    assert_eq!(NarInfo::parse(&more).unwrap().to_string(), LEAST);
    let silent = NarInfo::parse(&LEAST.replace("Compression: none\n", "")).unwrap();
    assert_eq!(silent.compression, "bzip2");
    let without = NarInfo::parse(&LEAST.replace("References: \n", "")).unwrap();
    assert_eq!(without.to_string(), LEAST);
}

#[test]
fn each_required_key_is_required() {
    for (line, key) in LEAST.lines().zip(["StorePath", "URL", "", "NarHash", "NarSize"]) {
        if !key.is_empty() {
            assert_eq!(error(&LEAST.replace(&format!("{line}\n"), "")), NarInfoError::Lacks(key));
        }
    }
    assert_eq!(error(""), NarInfoError::Lacks("StorePath"));
}

#[test]
fn single_keys_are_single() {
    let keys = ["StorePath", "URL", "Compression", "NarHash", "NarSize", "References"];
    for (line, key) in LEAST.lines().zip(keys) {
        assert_eq!(error(&format!("{LEAST}{line}\n")), NarInfoError::Twice(key));
    }
    let deriver = "Deriver: unknown-deriver\n";
    assert_eq!(error(&format!("{LEAST}{deriver}{deriver}")), NarInfoError::Twice("Deriver"));
}

#[test]
fn malformed_values_are_named() {
    assert_eq!(error(LEAST.trim_end_matches('\n')), NarInfoError::Line(6));
    assert_eq!(error(&format!("{LEAST}\n")), NarInfoError::Line(7));
    assert_eq!(error(&format!("{LEAST}key:value\n")), NarInfoError::Line(7));
    for size in ["0", "+7", "-7", "", "99999999999999999999", "7 "] {
        let text = LEAST.replace("NarSize: 7", &format!("NarSize: {size}"));
        assert_eq!(error(&text), NarInfoError::Size("NarSize"), "{size}");
    }
    let other = LEAST.replace("/nix/store", "/gnu/store");
    assert_eq!(error(&other), NarInfoError::Path { key: "StorePath", error: StorePathError::OtherStoreDir });
    let absolute = LEAST.replace("References: ", "References: /nix/store/a");
    assert!(matches!(error(&absolute), NarInfoError::Path { key: "References", .. }));
    assert!(matches!(error(&LEAST.replace("sha256:", "md5:")), NarInfoError::Hash { key: "NarHash", .. }));
}

#[test]
fn what_no_signature_covers_and_cannot_be_read_is_passed_over() {
    let signature = SigningKey::generate("a".parse().unwrap(), [1; 32]).sign(b"");
    let good = format!("Sig: {signature}\n");
    for none in ["nonsense", "", "another-1:AAAA", "a:", ":AAAA", "a b:AAAA", "two words"] {
        for lines in [format!("Sig: {none}\n{good}"), format!("{good}Sig: {none}\n")] {
            let info = NarInfo::parse(&format!("{LEAST}{lines}")).unwrap();
            assert_eq!(info.signatures, std::slice::from_ref(&signature), "{none}");
        }
    }
    let odd = format!("{LEAST}Deriver: /nix/store/x.drv\n{good}CA: git:sha1:00\n");
    assert_eq!(NarInfo::parse(&odd).unwrap().to_string(), format!("{LEAST}{good}"));
    assert_eq!(error(&format!("{odd}CA: x\n")), NarInfoError::Twice("CA"));
}

#[test]
fn what_is_too_much_is_refused() {
    let long = " ".repeat(NARINFO_BYTES_MAX + 1);
    assert_eq!(error(&long), NarInfoError::TooLong(NARINFO_BYTES_MAX + 1));
    let signature = SigningKey::generate("a".parse().unwrap(), [1; 32]).sign(b"");
    let lines = |count| format!("{LEAST}{}", format!("Sig: {signature}\n").repeat(count));
    assert_eq!(NarInfo::parse(&lines(1000)).unwrap().signatures.len(), 1000);
    assert!(matches!(error(&lines(NARINFO_BYTES_MAX / 64)), NarInfoError::TooLong(_)));
}

fn paths() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z0-9][a-z0-9.-]{0,20}")
        .prop_map(|(hash, name)| StorePath::new(hash.into(), &name).unwrap())
}

fn facts() -> impl Strategy<Value = NarFacts> {
    (any::<[u8; 32]>(), 1u64.., proptest::collection::btree_set(paths(), 0..5))
        .prop_map(|(hash, nar_size, references)| NarFacts { nar_hash: hash.into(), nar_size, references })
}

fn infos() -> impl Strategy<Value = NarInfo> {
    use proptest::option;
    let signature = ("[a-z.-]{1,9}", any::<[u8; 32]>())
        .prop_map(|(name, seed)| SigningKey::generate(name.parse().unwrap(), seed).sign(b"text"));
    let file = (option::of(any::<[u8; 32]>()), option::of(1u64..));
    let ca = option::of(any::<[u8; 32]>());
    let signatures = proptest::collection::vec(signature, 0..3);
    (paths(), "[!-~]{1,30}", "[a-z]{1,5}", file, facts(), option::of(paths()), signatures, ca).prop_map(
        |(store_path, url, compression, file, facts, deriver, signatures, ca)| NarInfo {
            store_path,
            url,
            compression,
            file_hash: file.0.map(FileHash::from),
            file_size: file.1,
            facts,
            deriver,
            signatures,
            ca: ca.map(|digest| ContentAddress::Nar(ContentHash::Sha256(digest))),
        },
    )
}

proptest! {
    #[test]
    fn parse_of_display_is_the_same(info in infos()) {
        prop_assert_eq!(NarInfo::parse(&info.to_string()), Ok(info));
    }

    #[test]
    fn a_changed_narinfo_is_read_without_panic(info in infos(), at: prop::sample::Index, with in ".{0,3}") {
        let mut text = info.to_string();
        let mut place = at.index(text.len());
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        text.insert_str(place, &with);
        if let Ok(info) = NarInfo::parse(&text) {
            prop_assert_eq!(NarInfo::parse(&info.to_string()), Ok(info));
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "((StorePath|URL|NarSize|References|Sig|CA): .*\n)*|.*") {
        let _ = NarInfo::parse(&text);
    }
}
