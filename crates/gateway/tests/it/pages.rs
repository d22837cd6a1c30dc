//! What a web page in the user's browser has of the cache: nothing.

use axum::http::{Method, StatusCode};

use crate::fakes::net::{Net, honest};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, node, peer, publish};
use crate::http::{get, nar_url, request, router};

/// Requests that pages cause: by images, scripts, fetches and frames, and by a name that became an address of ours.
const PAGES: [&[(&str, &str)]; 7] = [
    &[("host", "evil.example:7333")],
    &[("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
    &[("host", "127.0.0.1:7333"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    &[("host", "127.0.0.1:7333"), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate")],
    &[("host", "localhost:7333"), ("origin", "null")],
    &[
        ("host", "cache.example.lan"),
        ("origin", "https://evil.example"),
        ("access-control-request-method", "GET"),
    ],
    &[("host", "192.168.1.2:7333"), ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")],
];

#[tokio::test]
async fn a_page_gets_nothing_by_any_url_and_causes_nothing() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let there = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    let here = publish(&engine, "here", &varied(10), Signed::Not).await;
    let router = router(&engine);
    let nar = nar_url(&router, here).await;
    let urls = [
        format!("/{here}.narinfo"),
        format!("/{here}.ls"),
        nar,
        format!("/{there}.narinfo"),
        "/nix-cache-info".into(),
        "/healthz".into(),
        "/version".into(),
        "/".into(),
        "/no/such/url".into(),
        "/%ff.narinfo".into(),
    ];
    for (url, page) in urls.iter().flat_map(|url| PAGES.map(|page| (url, page))) {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST, Method::PUT] {
            let answer = request(&router, method.clone(), url, page).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {url} {page:?}");
            assert!(answer.text().is_empty() || answer.text().starts_with("refused: "), "{}", answer.text());
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(net.asked().is_empty(), "a page has made the node ask its peers");
}

#[tokio::test]
async fn who_asks_by_a_known_name_is_answered() {
    let router = router(&node(&Net::default()).await);
    for page in [
        &[("host", "127.0.0.1:7333")] as &[_],
        &[("host", "[::1]:7333"), ("user-agent", "curl/8.5.0 Nix/2.24")],
        &[("host", "cache.example.lan")],
        &[("host", "localhost:7333"), ("user-agent", "Mozilla/5.0"), ("sec-fetch-site", "none")],
    ] {
        let answer = request(&router, Method::GET, "/healthz", page).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok\n"), "{page:?}");
    }
}

#[tokio::test]
async fn what_is_missing_now_may_be_here_later() {
    let engine = node(&Net::default()).await;
    let router = router(&engine);
    let hash = publish(&engine, "here", &varied(1), Signed::Not).await;
    let nar = nar_url(&router, hash).await;
    for (url, status, kept) in [
        ("/00000000000000000000000000000000.narinfo", StatusCode::NOT_FOUND, Some("no-store")),
        ("/00000000000000000000000000000000.ls", StatusCode::NOT_FOUND, Some("no-store")),
        ("/nar/nothing.nar", StatusCode::NOT_FOUND, Some("no-store")),
        ("/no/such/url", StatusCode::NOT_FOUND, Some("no-store")),
        (&nar, StatusCode::OK, None),
        ("/healthz", StatusCode::OK, None),
    ] {
        let answer = get(&router, url).await;
        assert_eq!((answer.status, answer.header("cache-control")), (status, kept), "{url}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{url}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{url}");
    }
}
