//! What is in a path, without its NAR.

use std::process::{Command, Stdio};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fakes::net::{Net, honest, is_for_contents, silent_on};
use crate::fakes::tree::{Tree, file, noise, tree, varied};
use crate::fakes::{Signed, node, peer, publish};
use crate::http::{get, nar_url, request, router};

/// What Nix says of the same NAR.
fn listing_of_nix(tree: &Tree) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nar");
    std::fs::write(&file, &tree.nar).unwrap();
    let mut command = Command::new("nix");
    command.args(["--extra-experimental-features", "nix-command", "nar", "ls", "--json", "--recursive"]);
    let output = command.arg(&file).arg("/").env("HOME", dir.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Looks each file up in the NAR by what the listing says; counts them.
fn check_files(node: &Value, nar: &[u8], path: &str) -> usize {
    match node["type"].as_str().unwrap() {
        "directory" => {
            let entries = node["entries"].as_object().unwrap();
            entries.iter().map(|(name, node)| check_files(node, nar, &format!("{path}/{name}"))).sum()
        }
        "regular" => {
            let number = |field: &str| node[field].as_u64().unwrap() as usize;
            let (size, offset) = (number("size"), number("narOffset"));
            assert_eq!(nar[offset - 8..offset], (size as u64).to_le_bytes(), "{path}");
            assert_eq!(node.get("executable").is_some(), path.starts_with("/bin/"), "{path}");
            assert!(nar[offset + size..].starts_with(&[0; 8][..(8 - size % 8) % 8]));
            1
        }
        "symlink" => 0,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_listing_is_that_of_nix() {
    let engine = node(&Net::default()).await;
    let router = router(&engine);
    for (name, tree) in [
        ("varied", varied(1)),
        ("file", file(noise(1, 70_001))),
        ("void", file(Vec::new())),
        ("empty", tree(&[])),
        ("odd", tree(&[("a \"quoted\" name", b"1".to_vec()), ("umlaut-ä/\n/x", b"22".to_vec())])),
    ] {
        let hash = publish(&engine, name, &tree, Signed::Not).await;
        let answer = get(&router, &format!("/{hash}.ls")).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (StatusCode::OK, Some("application/json"))
        );
        let listing: Value = serde_json::from_str(answer.text()).unwrap();
        check_files(&listing["root"], &tree.nar, "");
        assert_eq!(listing, json!({ "version": 1, "root": listing_of_nix(&tree) }), "{name}");
        let head = request(&router, Method::HEAD, &format!("/{hash}.ls"), &[]).await;
        assert_eq!((head.status, head.text()), (StatusCode::OK, ""));
        assert_eq!(head.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn a_large_listing_comes_in_pieces() {
    let engine = node(&Net::default()).await;
    let names: Vec<_> =
        (0..5_000).map(|number| format!("{}/{}/{number:05}", number % 3, number % 50)).collect();
    let files = names.iter().zip(0..).map(|(name, seed)| (name.as_str(), noise(seed, seed as usize % 40)));
    let tree = tree(&files.collect::<Vec<_>>());
    let hash = publish(&engine, "large", &tree, Signed::Not).await;
    let answer = get(&router(&engine), &format!("/{hash}.ls")).await;
    assert!(answer.body.len() > 200_000);
    let listing: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(check_files(&listing["root"], &tree.nar, ""), 5_000);
}

#[tokio::test]
async fn only_what_is_proven_is_listed() {
    let net = Net::default();
    // Contents it never gives: a listing does not need them.
    let (_, seeder) = peer(&net, 1, silent_on(is_for_contents)).await;
    let attested = publish(&seeder, "attested", &varied(1), Signed::Attested).await;
    let by_nix = publish(&seeder, "by-nix", &varied(10), Signed::ByNix).await;
    let engine = node(&net).await;
    let gateway = router(&engine);
    let answer = get(&gateway, &format!("/{attested}.ls")).await;
    let listing: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(listing["root"], listing_of_nix(&varied(1)));
    assert_eq!(get(&gateway, &format!("/{by_nix}.ls")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&gateway, &format!("/{}.ls", "0".repeat(32))).await.status, StatusCode::NOT_FOUND);

    let (_, other) = peer(&net, 2, honest()).await;
    publish(&other, "by-nix", &varied(10), Signed::ByNix).await;
    let url = nar_url(&gateway, by_nix).await;
    assert!(get(&gateway, &url).await.body == varied(10).nar);
    assert_eq!(get(&gateway, &format!("/{by_nix}.ls")).await.status, StatusCode::OK);
}
