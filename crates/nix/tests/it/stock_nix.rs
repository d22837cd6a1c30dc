//! Nix itself says what is right.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{ChildStdout, Stdio},
};

use firn_nix::{
    ContentAddress, FileHash, NarFacts, NarHash, NarInfo, NarReader, PublicKey, Sha256Writer, Signature,
    SigningKey, StorePath, fingerprint, nixbase32, source_store_path,
};
use serde_json::Value;

use crate::{
    nix::{Nix, files_ending},
    tree::{Built, Tree, directory, file, link, parse, program},
};

/// One of each thing that a tree may have.
fn varied() -> Tree {
    let mut deep = directory([(b"bottom", program("deep"))]);
    for level in 0..200 {
        deep = directory([(b"d", deep), (b"beside", file(format!("level {level}")))]);
    }
    directory([
        (b"empty", file("")),
        (b"empty-program", program("")),
        (b"empty-directory", directory([])),
        (b"program", program("#!/bin/sh\necho hello\n")),
        (b"seven", file("1234567")),
        (b"eight", file("12345678")),
        (b"nine", file("123456789")),
        (b"dangling", link("../no/such/place")),
        (b"self", link(".")),
        (b"absolute", link("/nix/store")),
        (b"\xff\xfe not text \x01", file("odd")),
        (b"\x80", link("odd")),
        ("žluťoučký".as_bytes(), file("kůň")),
        (b" ", file("a space")),
        (b"...", file("dots")),
        (b"-rf", file("a dash")),
        (b"new\nline", file("a line feed")),
        (&[b'n'; 255], file("a long name")),
        (b"A", directory([(b"b", file("1"))])),
        (b"a", directory([(b"B", file("2"))])),
        (b"a.b", file("between")),
        (b"deep", deep),
    ])
}

fn trees() -> Vec<Tree> {
    vec![
        varied(),
        directory([]),
        file(""),
        file("just a file"),
        program("just a program"),
        link("just/a/link"),
    ]
}

#[test]
fn our_nar_is_what_nix_dumps() {
    let nix = Nix::new();
    for (number, tree) in trees().iter().enumerate() {
        let path = nix.path(&format!("tree-{number}"));
        tree.write(&path);
        let dump = nix.run("nix-store", &[&"--dump", &path]);
        let built = Built::new(tree);
        let mut nar = Vec::new();
        built.write_nar(&mut nar);
        assert!(nar == dump, "{path:?}");
        assert_eq!(built.layout.nar_size(), dump.len() as u64);
        assert_eq!(parse(&dump[..]), *tree);
        let middle = dump.len() as u64 / 2;
        for range in [middle..middle + 1, middle - 20..middle + 5000, middle..u64::MAX] {
            let want = &dump[range.start as usize..dump.len().min(range.end as usize)];
            assert_eq!(built.render(built.layout.segments(range)), want);
        }
        let hash = format!("sha256:{}", nix.line("nix-hash", &[&"--type", &"sha256", &"--base32", &path]));
        assert_eq!(NarHash::of(&nar).to_string(), hash);
    }
}

#[test]
fn nix_restores_what_we_write() {
    let nix = Nix::new();
    let path = nix.path("restored");
    let nar = nix.path("nar");
    Built::new(&varied()).write_nar(&mut fs::File::create(&nar).unwrap());
    let mut restore = nix.command("nix-store", &[&"--restore", &path]);
    assert!(restore.stdin(fs::File::open(&nar).unwrap()).status().unwrap().success());
    assert!(nix.run("nix-store", &[&"--dump", &path]) == fs::read(&nar).unwrap());
}

fn dump(nix: &Nix, path: &Path) -> ChildStdout {
    nix.command("nix-store", &[&"--dump", &path]).stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap()
}

#[test]
fn a_file_of_300_megabytes() {
    let nix = Nix::new();
    let tree = directory([(b"large", file(b"seven\n ".repeat(300_000_000 / 7 + 1))), (b"small", file("1"))]);
    let path = nix.path("large");
    tree.write(&path);
    let built = Built::new(&tree);
    let mut ours = Sha256Writer::new();
    built.write_nar(&mut ours);
    let mut theirs = Sha256Writer::new();
    std::io::copy(&mut dump(&nix, &path), &mut theirs).unwrap();
    let (hash, bytes) = ours.finish();
    assert_eq!(theirs.finish(), (hash, bytes));
    assert_eq!(bytes, built.layout.nar_size());
    assert!(bytes > 300_000_000);
    NarReader::new(dump(&nix, &path)).finish().unwrap();
}

#[test]
fn our_base_32_is_that_of_nix() {
    let nix = Nix::new();
    for (kind, bytes) in [("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64u8)] {
        for seed in [0, 1, 31, 128, 255u8] {
            let digest: Vec<u8> = (0..bytes).map(|at| at.wrapping_mul(37).wrapping_add(seed)).collect();
            let hex = data_encoding::HEXLOWER.encode(&digest);
            assert_eq!(
                nixbase32::encode(&digest),
                nix.line("nix-hash", &[&"--type", &kind, &"--to-base32", &hex])
            );
        }
    }
}

#[test]
fn every_text_of_a_hash_is_read() {
    let nix = Nix::new();
    let path = nix.path("tree");
    varied().write(&path);
    let hash: NarHash = nix.line("nix", &[&"hash", &"path", &"--sri", &path]).parse().unwrap();
    assert_eq!(hash, NarHash::of(&varied().nar()));
    for form in ["--base16", "--base32", "--base64"] {
        let text = format!("sha256:{}", nix.line("nix", &[&"hash", &"path", &form, &path]));
        assert_eq!(text.parse(), Ok(hash), "{form}");
    }
}

#[test]
fn added_trees_get_the_path_that_we_compute() {
    let nix = Nix::new();
    for (number, tree) in trees().iter().enumerate() {
        let path = nix.path(&format!("tree-{number}"));
        tree.write(&path);
        let added = nix.line("nix-store", &[&"--store", &nix.store(), &"--add", &path]);
        let hash = NarHash::of(&tree.nar());
        assert_eq!(source_store_path(&format!("tree-{number}"), &hash).unwrap().to_absolute(), added);
    }
}

#[test]
fn legal_names_are_those_of_nix() {
    let nix = Nix::new();
    let (longest, too_long) = ("n".repeat(211), "n".repeat(212));
    let names = ["a", "=?+_-.", ".a", "...", "-", "a b", "", "a~", "é", "a/b", "a\n", &longest, &too_long];
    for name in names {
        let add = format!("builtins.toFile {name:?} \"\"");
        let store = nix.store();
        let output = nix.output("nix", &[&"eval", &"--store", &store, &"--raw", &"--expr", &add]);
        let added = StorePath::from_absolute(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(StorePath::new([0; 20].into(), name).is_ok(), output.status.success(), "{name}");
        assert_eq!(added.is_ok(), output.status.success(), "{name}");
    }
}

/// What `nix path-info --json` says of a path.
struct Known {
    path: StorePath,
    facts: NarFacts,
    signatures: Vec<Signature>,
    ca: Option<ContentAddress>,
    deriver: Option<StorePath>,
}

fn path_info(nix: &Nix, arguments: &[&str]) -> Vec<Known> {
    let store = nix.store();
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"path-info", &"--json", &"--store", &store];
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    let infos: Value = serde_json::from_slice(&nix.run("nix", &all)).unwrap();
    infos.as_array().unwrap().iter().map(known).collect()
}

fn known(info: &Value) -> Known {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let path = |value: &Value| StorePath::from_absolute(value.as_str().unwrap()).unwrap();
    let list = |key: &str| info[key].as_array().cloned().unwrap_or_default();
    Known {
        path: path(&info["path"]),
        facts: NarFacts {
            nar_hash: text(&info["narHash"]).parse().unwrap(),
            nar_size: info["narSize"].as_u64().unwrap(),
            references: list("references").iter().map(path).collect(),
        },
        signatures: list("signatures").iter().map(|signature| text(signature).parse().unwrap()).collect(),
        ca: info.get("ca").map(|ca| text(ca).parse().unwrap()),
        deriver: info.get("deriver").map(path),
    }
}

#[test]
fn what_nix_knows_of_a_path_is_what_we_compute() {
    let nix = Nix::new();
    let path = nix.path("tree");
    varied().write(&path);
    let added = nix.line("nix-store", &[&"--store", &nix.store(), &"--add", &path]);
    let [known] = &path_info(&nix, &[&added])[..] else { panic!("one path") };
    let built = Built::new(&varied());
    assert_eq!(known.facts.nar_hash, NarHash::of(&varied().nar()));
    assert_eq!(known.facts.nar_size, built.layout.nar_size());
}

#[test]
fn nix_verifies_our_keys_and_we_verify_its_signatures() {
    let nix = Nix::new();
    let path = nix.path("tree");
    varied().write(&path);
    let store = nix.store();
    let added = nix.line("nix-store", &[&"--store", &store, &"--add", &path]);
    let (secret, public) = (nix.path("secret"), nix.path("public"));
    nix.run("nix-store", &[&"--generate-binary-cache-key", &"cache-1", &secret, &public]);
    let text = fs::read_to_string(&secret).unwrap();
    let key: SigningKey = text.trim_end().parse().unwrap();
    assert_eq!(key.to_secret_text(), text.trim_end());
    let public: PublicKey = fs::read_to_string(&public).unwrap().trim_end().parse().unwrap();
    assert_eq!(key.public(), public);

    // Ours is a key for Nix, and what Nix signs with it is what we sign.
    let ours = SigningKey::generate("ours.example-1".parse().unwrap(), [42; 32]);
    let our_secret = nix.path("ours");
    fs::write(&our_secret, ours.to_secret_text()).unwrap();
    for secret in [&secret, &our_secret] {
        nix.run("nix", &[&"store", &"sign", &"--store", &store, &"-k", secret, &"-r", &added]);
    }
    let [known] = &path_info(&nix, &[&added])[..] else { panic!("one path") };
    let text = fingerprint(&known.path, &known.facts);
    let signed: BTreeSet<&Signature> = known.signatures.iter().collect();
    assert_eq!(signed, BTreeSet::from([&key.sign(text.as_bytes()), &ours.sign(text.as_bytes())]));
    for signature in &known.signatures {
        let by = if signature.key_name() == public.name() { &public } else { &ours.public() };
        by.verify(text.as_bytes(), signature).unwrap();
    }
}

#[test]
fn content_addresses_of_every_kind_recompute() {
    let nix = Nix::new();
    let store = nix.store();
    let (tree, single) = (nix.path("tree"), nix.path("single"));
    varied().write(&tree);
    file("single").write(&single);
    for kind in ["md5", "sha1", "sha256", "sha512"] {
        let single = nix.path(&format!("single-{kind}"));
        file("single").write(&single);
        nix.run("nix-store", &[&"--store", &store, &"--add-fixed", &kind, &single]);
        nix.run("nix-store", &[&"--store", &store, &"--add-fixed", &"--recursive", &kind, &tree]);
    }
    let text = "builtins.toFile \"b\" \"${builtins.toFile \"a\" \"1\"} ${builtins.toFile \"c\" \"2\"}\"";
    nix.run("nix", &[&"eval", &"--store", &store, &"--raw", &"--expr", &text]);
    let infos = path_info(&nix, &["--all"]);
    assert_eq!(infos.len(), 11);
    let mut kinds = BTreeSet::new();
    for known in infos {
        let ca = known.ca.unwrap();
        kinds.insert(ca.to_proto().r#type);
        let references = &known.facts.references;
        assert_eq!(ca.recompute(&known.path, references).as_ref(), Some(&known.path));
        assert_eq!(ca.store_path(known.path.name(), references), Some(known.path));
    }
    assert_eq!(kinds, (0..9).collect());
}

/// Writes a binary cache with one path that names itself and another one.
fn write_cache(cache: &Path, key: &SigningKey, reference: &StorePath) -> NarInfo {
    let path: StorePath = "00000000000000000000000000000001-names-itself".parse().unwrap();
    let contents = format!("{} {}\n", path.to_absolute(), reference.to_absolute());
    let built = Built::new(&directory([(b"names", file(contents))]));
    fs::create_dir_all(cache.join("nar")).unwrap();
    fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let mut nar = Vec::new();
    built.write_nar(&mut nar);
    fs::write(cache.join("nar/1.nar"), &nar).unwrap();
    let facts = NarFacts {
        nar_hash: NarHash::of(&nar),
        nar_size: built.layout.nar_size(),
        references: [path.clone(), reference.clone()].into(),
    };
    let info = NarInfo {
        signatures: vec![key.sign(fingerprint(&path, &facts).as_bytes())],
        store_path: path,
        url: "nar/1.nar".into(),
        compression: "none".into(),
        file_hash: Some(FileHash::of(&nar)),
        file_size: Some(nar.len() as u64),
        facts,
        deriver: Some("00000000000000000000000000000002-names-itself.drv".parse().unwrap()),
        ca: None,
    };
    fs::write(cache.join(format!("{}.narinfo", info.store_path.hash())), info.to_string()).unwrap();
    info
}

#[test]
fn nix_takes_our_narinfo_and_we_take_its() {
    let nix = Nix::new();
    let store = nix.store();
    let single = nix.path("single");
    file("single").write(&single);
    let added = nix.line("nix-store", &[&"--store", &store, &"--add", &single]);
    let key = SigningKey::generate("ours-1".parse().unwrap(), [1; 32]);
    let (cache, back) = (nix.path("cache"), nix.path("back"));
    let info = write_cache(&cache, &key, &StorePath::from_absolute(&added).unwrap());
    // The other path must be in the cache that it comes from, too.
    nix.run("nix", &[&"copy", &"--store", &store, &"--to", &format!("file://{}", cache.display()), &added]);

    let path = info.store_path.to_absolute();
    let from = format!("file://{}", cache.display());
    let copy = |trusted: &str| {
        let option = [&"--option" as &dyn AsRef<_>, &"trusted-public-keys", &trusted];
        let copy = [&"copy" as &dyn AsRef<_>, &"--from", &from, &"--to", &store, &path];
        nix.output("nix", &[&copy[..], &option].concat())
    };
    let other = SigningKey::generate("ours-1".parse().unwrap(), [2; 32]);
    assert!(!copy(&other.public().to_string()).status.success());
    let output = copy(&key.public().to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [known] = &path_info(&nix, &[&path])[..] else { panic!("one path") };
    assert_eq!((&known.facts, &known.deriver), (&info.facts, &info.deriver));
    assert_eq!(known.signatures, info.signatures);

    // Nix rewrites it to a path that is named after its contents, though they name the path.
    nix.run("nix", &[&"store", &"make-content-addressed", &"--store", &store, &path]);
    let rewritten: Vec<Known> = path_info(&nix, &["--all"]);
    let itself = |known: &&Known| known.ca.is_some() && known.facts.references.contains(&known.path);
    let [known] = &rewritten.iter().filter(itself).collect::<Vec<_>>()[..] else { panic!("one path") };
    let (ca, references) = (known.ca.unwrap(), &known.facts.references);
    assert_eq!(ca.recompute(&known.path, references), Some(known.path.clone()));
    assert_ne!(ca.store_path(known.path.name(), references), Some(known.path.clone()));

    // Each narinfo that Nix writes is one that we would write.
    let to = format!("file://{}", back.display());
    nix.run("nix", &[&"copy", &"--store", &store, &"--to", &to, &"--all"]);
    let texts = files_ending(&back, ".narinfo");
    assert_eq!(texts.len(), rewritten.len());
    for text in texts.iter().map(|path| fs::read_to_string(path).unwrap()) {
        assert_eq!(NarInfo::parse(&text).unwrap().to_string(), text);
    }
}
