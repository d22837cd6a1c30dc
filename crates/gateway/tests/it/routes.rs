//! What is answered under which URL, and what is not.

use axum::http::{Method, StatusCode};
use firn_nix::{NarHash, fingerprint, nixbase32};

use crate::fakes::net::{Net, honest, is_for_claims, is_for_closure, is_for_contents};
use crate::fakes::tree::{Tree, file, noise, varied};
use crate::fakes::{Signed, add, facts, key, node, peer, publish, signed};
use crate::http::{get, nar_url, narinfo, request, router};

fn base32(tree: &Tree) -> String {
    nixbase32::encode(NarHash::of(&tree.nar).as_bytes())
}

#[tokio::test]
async fn what_the_cache_says_of_itself() {
    let router = router(&node(&Net::default()).await);
    for (url, content_type, text) in [
        (
            "/nix-cache-info",
            "text/x-nix-cache-info",
            "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n",
        ),
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
        ("/version", "text/plain; charset=utf-8", "firn 1.2.3\n"),
    ] {
        let answer = get(&router, url).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, text));
        assert_eq!(answer.header("content-type"), Some(content_type));
        let head = request(&router, Method::HEAD, url, &[]).await;
        assert_eq!((head.status, head.text()), (StatusCode::OK, ""));
        assert_eq!(head.header("content-length"), Some(text.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_narinfo_says_what_is_signed() {
    let engine = node(&Net::default()).await;
    let router = router(&engine);
    let (data, app) = (varied(1), varied(10));
    let mut facts_of_app = facts("app", &app, &[&facts("data", &data, &[]).path]);
    facts_of_app.deriver = Some("00000000000000000000000000000000-app.drv".parse().unwrap());
    let (path, hash) = (facts_of_app.path.clone(), *facts_of_app.path.hash());
    add(&engine, &app, signed(facts_of_app.clone(), Signed::Attested)).await;
    let narinfo = narinfo(&router, hash).await;
    assert_eq!((&narinfo.store_path, &narinfo.facts), (&path, &facts_of_app.nar));
    assert_eq!(narinfo.deriver, facts_of_app.deriver);
    assert_eq!((narinfo.compression.as_str(), narinfo.file_size), ("none", Some(app.nar.len() as u64)));
    let [signature] = &narinfo.signatures[..] else { panic!("one signature") };
    key().public().verify(fingerprint(&path, &narinfo.facts).as_bytes(), signature).unwrap();

    let head = request(&router, Method::HEAD, &format!("/{hash}.narinfo"), &[]).await;
    assert_eq!((head.status, head.text()), (StatusCode::OK, ""));
    assert_eq!(head.header("content-length"), Some(narinfo.to_string().len().to_string().as_str()));
}

#[tokio::test(start_paused = true)]
async fn urls_of_attested_and_other_paths() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let engine = node(&net).await;
    let router = router(&engine);
    let (attested, by_nix, here) = (varied(1), varied(10), varied(20));
    let hash = publish(&seeder, "attested", &attested, Signed::Attested).await;
    let (root, size) = (attested.root().to_base64url(), attested.nar.len());
    let url = format!("/nar/snix-castore/{root}?narsize={size}&path={hash}");
    assert_eq!(nar_url(&router, hash).await, url);
    get(&router, &url).await;
    assert_eq!(nar_url(&router, hash).await, url, "the same when it is here");

    let hash = publish(&seeder, "by-nix", &by_nix, Signed::ByNix).await;
    let url = format!("/nar/sha256-{}.nar?path={hash}", base32(&by_nix));
    assert_eq!(nar_url(&router, hash).await, url);
    get(&router, &url).await;
    assert_eq!(nar_url(&router, hash).await, url, "the same when it is here");

    let hash = publish(&engine, "here", &here, Signed::Attested).await;
    assert_eq!(nar_url(&router, hash).await, format!("/nar/sha256-{}.nar?path={hash}", base32(&here)));
}

#[tokio::test]
async fn a_nar_under_all_its_names() {
    let engine = node(&Net::default()).await;
    let router = router(&engine);
    for (name, tree) in [("varied", varied(1)), ("one", file(noise(1, 70_000))), ("empty", file(Vec::new()))]
    {
        publish(&engine, name, &tree, Signed::Not).await;
        let (root, hash, size) = (tree.root().to_base64url(), base32(&tree), tree.nar.len());
        for url in [
            format!("/nar/snix-castore/{root}?narsize={size}"),
            format!("/nar/snix-castore/{root}"),
            format!("/nar/sha256-{hash}.nar"),
            format!("/nar/{hash}.nar"),
            format!("/nar/{hash}.nar?hash=of-another-server"),
        ] {
            let answer = get(&router, &url).await;
            assert_eq!(answer.status, StatusCode::OK, "{url}");
            assert!(answer.body == tree.nar, "{url}");
            let head = request(&router, Method::HEAD, &url, &[("range", "bytes=0-1")]).await;
            assert_eq!((head.status, head.text()), (StatusCode::OK, ""), "{url}");
            for answer in [answer, head] {
                assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
                assert_eq!(answer.header("content-type"), Some("application/x-nix-nar"));
                assert_eq!(answer.header("accept-ranges"), Some("bytes"));
                assert_eq!(answer.header("content-encoding"), None);
                assert_eq!(answer.header("transfer-encoding"), None);
            }
        }
    }
}

#[tokio::test]
async fn ranges_of_what_is_proven() {
    let engine = node(&Net::default()).await;
    let router = router(&engine);
    let tree = varied(1);
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let url = nar_url(&router, hash).await;
    let size = tree.nar.len();
    for (range, bytes) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=100-199999".to_owned(), 100..200_000),
        (format!("bytes={}-", size - 7), size - 7..size),
        ("bytes=-1000".to_owned(), size - 1000..size),
        (format!("bytes=5-{}", size * 2), 5..size),
    ] {
        let answer = request(&router, Method::GET, &url, &[("range", &range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        let content_range = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert!(answer.body == tree.nar[bytes], "{range}");
    }
    let range = format!("bytes={size}-");
    let answer = request(&router, Method::GET, &url, &[("range", &range)]).await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
    for headers in [
        &[("range", "bytes=0-1,5-6")][..],
        &[("range", "bytes=0-1"), ("if-range", "\"tag\"")],
        &[("range", "lines=0-1")],
    ] {
        let answer = request(&router, Method::GET, &url, headers).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, size), "{headers:?}");
    }
}

#[tokio::test]
async fn an_attested_nar_is_read_in_parts_before_it_is_here() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let router = router(&node(&net).await);
    let url = nar_url(&router, hash).await;
    let range = [("range", "bytes=1000-1000000")];
    let answer = request(&router, Method::GET, &url, &range).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert!(answer.body == tree.nar[1000..1_000_001]);
}

#[tokio::test]
async fn a_nar_without_proof_goes_out_whole_or_not_at_all() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let router = router(&node(&net).await);
    let url = nar_url(&router, hash).await;
    let range = [("range", "bytes=1000-2000")];
    let head = request(&router, Method::HEAD, &url, &range).await;
    assert_eq!((head.status, head.header("accept-ranges")), (StatusCode::OK, None));
    let answer = request(&router, Method::GET, &url, &range).await;
    assert_eq!((answer.status, answer.header("accept-ranges")), (StatusCode::OK, None));
    assert!(answer.body == tree.nar);

    // By then its NAR has been found to be the signed one.
    let answer = request(&router, Method::GET, &url, &range).await;
    assert_eq!((answer.status, answer.header("accept-ranges")), (StatusCode::PARTIAL_CONTENT, Some("bytes")));
    assert!(answer.body == tree.nar[1000..2001]);
}

#[tokio::test]
async fn head_fetches_nothing() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let router = router(&node(&net).await);
    for (seed, name, how) in [(1, "attested", Signed::Attested), (10, "by-nix", Signed::ByNix)] {
        let tree = varied(seed);
        let hash = publish(&seeder, name, &tree, how).await;
        let url = nar_url(&router, hash).await;
        let head = request(&router, Method::HEAD, &url, &[]).await;
        assert_eq!(head.header("content-length"), Some(tree.nar.len().to_string().as_str()));
    }
    assert_eq!(net.count(|request| is_for_closure(request) || is_for_contents(request)), 0);
    assert_eq!(net.count(is_for_claims), 2);
}

#[tokio::test]
async fn all_else_is_missing_and_nobody_is_asked() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let here = file(b"here".to_vec());
    publish(&engine, "here", &here, Signed::Not).await;
    let router = router(&engine);
    let (root, hash) = (here.root().to_base64url(), base32(&here));
    for url in [
        "/".to_owned(),
        "/index.html".to_owned(),
        "/nar".to_owned(),
        "/nar/".to_owned(),
        "/nar/snix-castore".to_owned(),
        "/nar/snix-castore/".to_owned(),
        "/log/00000000000000000000000000000000-a.drv".to_owned(),
        // Malformed hashes: too short, an illegal letter, no hash, bytes that are no text.
        "/0000000000000000000000000000000.narinfo".to_owned(),
        "/e0000000000000000000000000000000.narinfo".to_owned(),
        "/.narinfo".to_owned(),
        "/%ff%fe.narinfo".to_owned(),
        "/00000000000000000000000000000000".to_owned(),
        "/0000000000000000000000000000000.ls".to_owned(),
        "/.ls".to_owned(),
        "/nar/snix-castore/%ff".to_owned(),
        "/nar/snix-castore/!".to_owned(),
        "/nar/%ff.nar".to_owned(),
        "/nar/sha256-0000.nar".to_owned(),
        format!("/nar/{hash}.nar.xz"),
        format!("/nar/{hash}"),
        format!("/nar/{hash}.nar/more"),
        // What is here, with something false said of it.
        format!("/nar/snix-castore/{root}?narsize={}", here.nar.len() + 1),
        format!("/nar/snix-castore/{root}?narsize=many"),
        format!("/nar/snix-castore/{root}?narsize=-1"),
        format!("/nar/{hash}.nar?path=none"),
        // What was never admitted, though a peer has it.
        format!("/nar/snix-castore/{}?narsize={}", tree.root().to_base64url(), tree.nar.len()),
        format!("/nar/sha256-{}.nar", base32(&tree)),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let answer = request(&router, method.clone(), &url, &[]).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {url}");
        }
    }
    assert!(net.asked().is_empty());
}

#[tokio::test]
async fn nothing_can_be_uploaded() {
    let router = router(&node(&Net::default()).await);
    for url in ["/nix-cache-info", "/00000000000000000000000000000000.narinfo", "/nar/a.nar", "/a/b/c", "/"] {
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let answer = request(&router, method.clone(), url, &[]).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {url}");
            assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{method} {url}");
        }
    }
}
