//! What is answered under which URL.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use firn_castore::Root;
use firn_engine::{EngineError, Nar, NarName};
use firn_nix::{STORE_DIR, StorePathHash};
use futures::TryStreamExt;

use crate::guard::{Guard, guard};
use crate::range::Part;
use crate::{Gateway, listing, names};

/// How long the first contents of a NAR may be in coming, before it counts as missing: longer than a busy peer may ask to be
/// left alone, twice over.
const FIRST_CONTENTS_TIMEOUT: Duration = Duration::from_secs(30);

type Context = State<Arc<Gateway>>;
/// The variable part of a URL; malformed percent-encoding is an error.
type Name = Result<Path<String>, PathRejection>;

impl Gateway {
    /// The routes, for whoever brings the connections.
    pub fn router(self) -> Router {
        let guarded = from_fn_with_state(Guard::new(self.config.hosts.clone()), guard);
        Router::new()
            .route("/nix-cache-info", get(cache_info))
            .route("/healthz", get(async || text("text/plain; charset=utf-8", "ok\n".into())))
            .route("/version", get(version))
            .route("/{of_path}", get(of_path))
            .route("/nar/snix-castore/{root}", get(nar_of_root))
            .route("/nar/{file}", get(nar_of_hash))
            .fallback(unknown)
            .layer(guarded)
            .with_state(Arc::new(self))
    }
}

/// No such URL. Whoever wants to upload hears that it is not possible.
async fn unknown(method: Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        return missing();
    }
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET,HEAD")]).into_response()
}

async fn cache_info(State(gateway): Context) -> Response {
    let priority = gateway.config.priority;
    let info = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: {priority}\n");
    text("text/x-nix-cache-info", info)
}

async fn version(State(gateway): Context) -> Response {
    text("text/plain; charset=utf-8", format!("{}\n", gateway.config.version))
}

/// What a path is, and what is in it: two files at the top, with its hash for their name.
async fn of_path(State(gateway): Context, name: Name) -> Response {
    let Ok(Path(name)) = name else { return missing() };
    let hash = |suffix| name.strip_suffix(suffix)?.parse::<StorePathHash>().ok();
    let answer = match (hash(".narinfo"), hash(".ls")) {
        (Some(hash), _) => narinfo(&gateway, hash).await,
        (_, Some(hash)) => listing(&gateway, hash).await,
        (None, None) => Ok(None),
    };
    match answer {
        Ok(answer) => answer.unwrap_or_else(missing),
        Err(error) => failed(&error),
    }
}

async fn narinfo(gateway: &Gateway, hash: StorePathHash) -> Result<Option<Response>, EngineError> {
    let resolved = gateway.engine.resolve(hash, (gateway.config.budget)()).await?;
    Ok(resolved.map(|resolved| text("text/x-nix-narinfo", names::narinfo(&resolved).to_string())))
}

/// What is in a path that is proven; of one that waits for its NAR match nothing is told.
async fn listing(gateway: &Gateway, hash: StorePathHash) -> Result<Option<Response>, EngineError> {
    let budget = (gateway.config.budget)();
    let Some(resolved) = gateway.engine.resolve(hash, budget).await? else { return Ok(None) };
    let name = NarName::Root(resolved.facts().root.clone());
    let nar = gateway.engine.nar(name, Some(hash), budget).await?;
    let Some(nar) = nar.filter(Nar::is_proven) else { return Ok(None) };
    let closure = nar.open().await?.closure().clone();
    if !listing::can_be_told(&closure) {
        return Ok(None);
    }
    let body = Body::from_stream(listing::pieces(gateway.engine.clone(), closure));
    Ok(Some(([(header::CONTENT_TYPE, "application/json")], body).into_response()))
}

async fn nar_of_root(
    State(gateway): Context,
    name: Name,
    query: Asked,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let name = name.ok().and_then(|Path(root)| Root::from_base64url(&root).ok()).map(NarName::Root);
    nar(&gateway, name, query, &method, &headers).await
}

async fn nar_of_hash(
    State(gateway): Context,
    name: Name,
    query: Asked,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let name = name.ok().and_then(|Path(file)| names::nar_file(&file));
    nar(&gateway, name, query, &method, &headers).await
}

/// What follows the question mark in the URL of a NAR.
#[derive(serde::Deserialize)]
struct NarQuery {
    narsize: Option<u64>,
    path: Option<String>,
}

type Asked = Result<Query<NarQuery>, QueryRejection>;

async fn nar(
    gateway: &Gateway,
    name: Option<NarName>,
    query: Asked,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    let (Some(name), Ok(Query(NarQuery { narsize, path }))) = (name, query) else { return missing() };
    let Ok(path) = path.map(|hash| hash.parse::<StorePathHash>()).transpose() else { return missing() };
    let nar = match gateway.engine.nar(name, path, (gateway.config.budget)()).await {
        Ok(Some(nar)) if narsize.is_none_or(|size| size == nar.size()) => nar,
        Ok(_) => return missing(),
        Err(error) => return failed(&error),
    };
    let size = nar.size();
    if method == Method::HEAD {
        return nar_response(StatusCode::OK, size, nar.is_proven(), Body::empty());
    }
    // Of a NAR that is not proven nobody gets a part: what holds of the whole need not hold of that.
    let part = if nar.is_proven() { Part::of(headers, size) } else { Part::Whole };
    let sent = match part {
        Part::PastEnd => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
        Part::Whole => send(nar, 0..size, StatusCode::OK).await,
        Part::Bytes(range) => {
            send(nar, range.clone(), StatusCode::PARTIAL_CONTENT).await.map(|mut response| {
                let range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                response
                    .headers_mut()
                    .extend(HeaderValue::try_from(range).map(|range| (header::CONTENT_RANGE, range)));
                response
            })
        }
    };
    sent.unwrap_or_else(|error| failed(&error))
}

/// Waits until the first contents of the NAR are here, then streams it. Its length is told first, so that a stream that
/// ends too early is a broken connection, and no NAR.
async fn send(nar: Nar, range: Range<u64>, status: StatusCode) -> Result<Response, EngineError> {
    let (is_proven, length) = (nar.is_proven(), range.end - range.start);
    let bytes = nar.read_begun(range, FIRST_CONTENTS_TIMEOUT).await?;
    let bytes = bytes.inspect_err(|error| tracing::warn!(%error, "a NAR is broken off"));
    Ok(nar_response(status, length, is_proven, Body::from_stream(bytes)))
}

fn nar_response(status: StatusCode, length: u64, is_proven: bool, body: Body) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, "application/x-nix-nar")], body).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if is_proven {
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

fn text(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "not here\n")
        .into_response()
}

/// Something else than *not found* went wrong. Nix must still go on to its next substituter, so it is told nothing else.
fn failed(error: &EngineError) -> Response {
    match error {
        EngineError::NotFound
        | EngineError::Blamed
        | EngineError::Untrusted
        | EngineError::Rejected(_)
        | EngineError::TimedOut => {
            tracing::info!(%error, "missing")
        }
        error => tracing::error!(%error, "counts as missing"),
    }
    missing()
}
