//! Requests that a web page makes the user's browser send are refused.
//!
//! A page reaches the cache of the machine that shows it. By an image it makes a node fetch and share a path; by DNS
//! rebinding, where the page's own name becomes an address of this machine, it reads what it likes. So a request must be
//! for a host that is known here, and a browser must say that no other site asks. Nix and curl send a `Host` and none of
//! the rest.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

/// The longest name of a host, in bytes, as the DNS has it.
pub const HOST_NAME_BYTES_MAX: usize = 253;

/// How often the log tells of a refusal, at most: a page can cause many.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The name of a host, in lower case, without a port and without the dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// Text that is no name of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host's name has 1 to {HOST_NAME_BYTES_MAX} letters, digits, dots, dashes and underscores, and no port"
)]
pub struct HostNameError;

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let fits = (1..=HOST_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal);
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(HostNameError) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names under which the cache may be asked: `localhost`, and those that were given. Any IP address is accepted as
/// well, for a page that is rebound asks by the page's name.
#[derive(Debug, Clone)]
pub struct HostNames(BTreeSet<HostName>);

impl FromIterator<HostName> for HostNames {
    fn from_iter<I: IntoIterator<Item = HostName>>(names: I) -> Self {
        Self(names.into_iter().chain([HostName("localhost".into())]).collect())
    }
}

impl Default for HostNames {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl HostNames {
    /// Whether a `Host` header, `name`, `name:port`, `IP` or `[IPv6]:port`, is for this host.
    fn know(&self, authority: &str) -> bool {
        if let Some(rest) = authority.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else { return false };
            // An address of a link may have the link's name behind it.
            let address = address.split_once('%').map_or(address, |(address, _)| address);
            return address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || is_port(port.strip_prefix(':')));
        }
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let is_known = || host.parse().is_ok_and(|name| self.0.contains(&name));
        (port.is_none() || is_port(port)) && (host.parse::<Ipv4Addr>().is_ok() || is_known())
    }
}

fn is_port(text: Option<&str>) -> bool {
    text.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Why a request is not answered. The text is for the person who sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the request names no host, or several")]
    NoHost,
    #[error(
        "this cache does not know itself by the name that was asked for: ask by address, or set http-host to that name"
    )]
    Host,
    #[error("a page of another site asks")]
    OtherSite,
    #[error(
        "a browser asks without saying for which site: use Nix or curl, or ask at 127.0.0.1 or localhost"
    )]
    SilentBrowser,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = if self == Self::NoHost { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
        (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("refused: {self}\n"))
            .into_response()
    }
}

/// The one host that a request is for; `None` where an old client names none, which no browser does.
fn host_of<'a>(version: Version, uri: &Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Refusal::Host)?,
        (None, _) if version < Version::HTTP_11 && uri.authority().is_none() => return Ok(None),
        _ => return Err(Refusal::NoHost),
    };
    match uri.authority() {
        Some(other) if !other.as_str().eq_ignore_ascii_case(host) => Err(Refusal::Host),
        _ => Ok(Some(host)),
    }
}

/// The host and port in an `Origin` or a `Referer`. That of a page without an origin, `null`, has none.
fn site(value: &HeaderValue) -> Option<&str> {
    let (_, rest) = value.to_str().ok()?.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

fn judge(names: &HostNames, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = host_of(version, uri, headers)?;
    if host.is_some_and(|host| !names.know(host)) {
        return Err(Refusal::Host);
    }
    let is_own =
        |value| matches!((site(value), host), (Some(site), Some(host)) if site.eq_ignore_ascii_case(host));
    let mut sites = [header::ORIGIN, header::REFERER].into_iter().flat_map(|name| headers.get_all(name));
    let mut says = headers.get_all(SEC_FETCH_SITE).iter();
    if !sites.all(is_own) || !says.all(|site| site == "same-origin" || site == "none") {
        return Err(Refusal::OtherSite);
    }
    // Browsers say it to this machine itself and over TLS alone, and old ones never do.
    let is_browser =
        headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    if is_browser && !headers.contains_key(SEC_FETCH_SITE) {
        return Err(Refusal::SilentBrowser);
    }
    Ok(())
}

/// What stands before all routes.
pub(crate) struct Guard {
    names: HostNames,
    /// When the log last told of a refusal.
    told: Mutex<Option<Instant>>,
}

impl Guard {
    pub(crate) fn new(names: HostNames) -> Arc<Self> {
        Arc::new(Self { names, told: Mutex::new(None) })
    }

    fn tell(&self, refusal: Refusal, headers: &HeaderMap) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            let header = |name: HeaderName| {
                headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default().escape_ascii()
            };
            let (host, origin) = (header(header::HOST), header(header::ORIGIN));
            tracing::warn!(%host, %origin, "an HTTP request was refused: {refusal}");
        }
    }
}

/// Refuses what a page of another site asks; no browser gives any answer to one, nor keeps one that is not good.
pub(crate) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let judged = judge(&guard.names, request.version(), request.uri(), request.headers());
    let mut response = match judged {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            guard.tell(refusal, request.headers());
            refusal.into_response()
        }
    };
    let is_good = response.status().is_success();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if !is_good {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let names: HostNames = ["cache.example.lan".parse().unwrap()].into_iter().collect();
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        judge(&names, Version::HTTP_11, &Uri::from_static("/"), &HeaderMap::from_iter(headers))
    }

    #[test]
    fn a_host_is_an_address_or_a_name_that_is_known() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7333",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:7333",
            "[fe80::1%eth0]:7333",
            "localhost",
            "LocalHost:7333",
            "localhost.",
            "cache.example.lan:1",
            "Cache.Example.LAN.",
        ] {
            assert_eq!(judged(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7333",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "example.lan",
            "127.0.0.1@evil.example",
            "127.0.0.1:7333:1",
            "127.0.0.1:port",
            "127.1",
            "2130706433",
            "::1",
            "[::1",
            "[::1]evil",
            "[evil]",
            "localhost..",
        ] {
            assert_eq!(judged(&[("host", host)]), Err(Refusal::Host), "{host}");
        }
    }

    #[test]
    fn a_request_is_for_one_host() {
        let names = HostNames::default();
        let judge = |version, uri: &str, hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (header::HOST, host.parse().unwrap()));
            let mut headers = HeaderMap::new();
            hosts.for_each(|(name, value)| _ = headers.append(name, value));
            super::judge(&names, version, &uri.parse().unwrap(), &headers)
        };
        assert_eq!(judge(Version::HTTP_10, "/", &[]), Ok(()));
        assert_eq!(judge(Version::HTTP_10, "/", &["evil.example"]), Err(Refusal::Host));
        assert_eq!(judge(Version::HTTP_10, "http://evil.example/", &[]), Err(Refusal::NoHost));
        assert_eq!(judge(Version::HTTP_11, "/", &[]), Err(Refusal::NoHost));
        assert_eq!(judge(Version::HTTP_11, "/", &["localhost", "evil.example"]), Err(Refusal::NoHost));
        assert_eq!(judge(Version::HTTP_11, "http://localhost:1/", &["localhost:1"]), Ok(()));
        assert_eq!(judge(Version::HTTP_11, "http://evil.example/", &["localhost"]), Err(Refusal::Host));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let host = ("host", "127.0.0.1:7333");
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "http://127.0.0.1:8080"),
            ("origin", "http://127.0.0.1"),
            ("origin", "http://localhost:7333"),
            ("origin", "null"),
            ("origin", ""),
            ("referer", "https://evil.example/127.0.0.1:7333"),
            ("referer", "http://127.0.0.1:7333@evil.example/"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", ""),
            ("sec-fetch-site", "something-new"),
        ] {
            assert_eq!(judged(&[host, (name, value)]), Err(Refusal::OtherSite), "{name}: {value}");
        }
        for (name, value) in [
            ("origin", "http://127.0.0.1:7333"),
            ("referer", "http://127.0.0.1:7333/nix-cache-info"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("user-agent", "curl/8.5.0 Nix/2.24"),
        ] {
            assert_eq!(judged(&[host, (name, value)]), Ok(()), "{name}: {value}");
        }
        let browser =
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0");
        assert_eq!(judged(&[("host", "10.0.0.1:7333"), browser]), Err(Refusal::SilentBrowser));
        assert_eq!(judged(&[host, browser, ("sec-fetch-site", "none")]), Ok(()));
        assert_eq!(judged(&[host, browser, ("sec-fetch-site", "cross-site")]), Err(Refusal::OtherSite));
    }

    #[test]
    fn names_are_names() {
        for name in ["", ".", "a:1", "a b", "[::1]", "a/b", &"a".repeat(254)] {
            assert_eq!(name.parse::<HostName>(), Err(HostNameError), "{name}");
        }
        assert_eq!("Cache_1.Example.".parse::<HostName>(), "cache_1.example".parse());
    }
}
