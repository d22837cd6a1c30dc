//! A gateway that is asked without a socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use firn_engine::Engine;
use firn_gateway::{CONNECTIONS_MAX, Gateway, GatewayConfig, HostNames, PRIORITY, WRITE_TIMEOUT};
use firn_nix::{NarInfo, StorePathHash};
use http_body_util::BodyExt;
use tower::ServiceExt;

pub(crate) const BUDGET: Duration = Duration::from_millis(300);

pub(crate) fn gateway(engine: &Engine) -> Gateway {
    let config = GatewayConfig {
        priority: PRIORITY,
        budget: Arc::new(|| BUDGET),
        hosts: HostNames::from_iter(["cache.example.lan".parse().unwrap()]),
        version: "firn 1.2.3".into(),
        connections_max: CONNECTIONS_MAX,
        write_timeout: WRITE_TIMEOUT,
    };
    Gateway { engine: engine.clone(), config }
}

pub(crate) fn router(engine: &Engine) -> Router {
    gateway(engine).router()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The answer to a request for this host, unless the headers name another; its body must be whole.
pub(crate) async fn request(router: &Router, method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(url);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

pub(crate) async fn get(router: &Router, url: &str) -> Answer {
    request(router, Method::GET, url, &[]).await
}

/// The narinfo of a path that must be there.
pub(crate) async fn narinfo(router: &Router, hash: StorePathHash) -> NarInfo {
    let answer = get(router, &format!("/{hash}.narinfo")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), Some("text/x-nix-narinfo"));
    NarInfo::parse(answer.text()).unwrap()
}

/// The URL of a path's NAR, from the root of the gateway.
pub(crate) async fn nar_url(router: &Router, hash: StorePathHash) -> String {
    format!("/{}", narinfo(router, hash).await.url)
}
