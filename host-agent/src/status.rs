//! The status page and the metrics: what an operator looks at, on an address of their own.
//!
//! ```text
//! GET /          the page, whole without scripts: it asks again every ten seconds
//! GET /script.js what makes it better: parts that changed are put in place, and silence is shown
//! GET /metrics   the same for Prometheus
//! ```
//!
//! Everything is rendered here, from a moment (`watch`) to text; strings of guests and operators are escaped by
//! construction (`html.rs`). The page loads nothing of anybody else's, and its policy forbids it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::HOST;
use hyper::http::request::Parts;

use crate::daemon::api::Entry;
use crate::watch::{Watch, metrics};
use crate::web::{Cache, Page, Route};

mod appliance;
mod boot;
mod html;
mod login;
mod page;
mod words;

pub use login::{Login, LoginError};
pub use page::page;

/// Where the page is unless the file says otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8450";
/// Latest events on the page.
pub const EVENTS: usize = 40;
/// How the page looks.
pub const STYLE: &str = include_str!("status/style.css");
/// What makes it better.
pub const SCRIPT: &str = include_str!("status/script.js");

/// What a browser may do with the page: run the one script, show the one style, ask this address again.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where moments come from.
pub trait Source: Send + Sync + 'static {
    /// What everything is doing now.
    fn watch(&self) -> Watch;
    /// The newest `most` events, the newest first.
    fn events(&self, most: usize) -> Vec<Entry>;
}

/// The routes of a listener at `listen`, for whoever knows `login`, or for anybody who comes there.
#[must_use]
pub fn routes(source: &Arc<dyn Source>, listen: SocketAddr, login: Option<&Login>) -> Vec<Route> {
    let route = |path, page: fn(&dyn Source) -> Page| {
        let (source, login) = (Arc::clone(source), login.cloned());
        Route::exact(path, move |parts| {
            let known = login.as_ref().is_none_or(|login| login.knows(&parts));
            let page = match (meant(&parts, listen.ip()), known) {
                (true, true) => page(&*source),
                (true, false) => Login::refusal(),
                (false, _) => Page::text(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED),
            };
            std::future::ready(page)
        })
    };
    let hour = Cache::Seconds(3600);
    vec![
        route("/", |source| {
            let page = page(&source.watch(), &source.events(EVENTS));
            Page::new("text/html; charset=utf-8", page).with("content-security-policy", POLICY)
        }),
        route("/metrics", |source| {
            Page::new(metrics::CONTENT_TYPE, metrics::text(&source.watch()))
        }),
        route("/style.css", |_| {
            // Its address has the release in it.
            Page::new("text/css; charset=utf-8", STYLE).cached(Cache::Seconds(3600))
        }),
        route("/script.js", |_| {
            Page::new("text/javascript; charset=utf-8", SCRIPT)
        }),
        Route::exact("/icon.svg", move |_| {
            let icon = Page::new("image/svg+xml", icon()).cached(hour);
            // Its own colours are in it.
            std::future::ready(icon.with(
                "content-security-policy",
                "default-src 'none'; style-src 'unsafe-inline'",
            ))
        }),
    ]
}

const MISDIRECTED: &str = "this listener is asked by its address or as localhost: see [status] in the configuration file\n";

/// Whether a request means this listener. A name that somebody points at this machine makes a browser on it ask on behalf
/// of a foreign page (DNS rebinding); an address or `localhost` cannot be such a name. On other interfaces whoever
/// configured the address decides who comes.
fn meant(parts: &Parts, listen: IpAddr) -> bool {
    if !listen.is_loopback() {
        return true;
    }
    let Some(host) = parts.headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn icon() -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><style>path{{fill:#0b7a5b}}.thread{{fill:none;stroke:#fff;stroke-width:1.6}}</style>{}</svg>",
        page::MARK
    )
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn names_that_others_control_are_not_answered() {
        let asked = |host: &str, listen: &str| {
            let request = Request::builder().header(HOST, host).body(()).unwrap();
            meant(&request.into_parts().0, listen.parse().unwrap())
        };
        for host in [
            "127.0.0.1:8450",
            "localhost:8450",
            "LOCALHOST",
            "[::1]:8450",
            "10.0.0.7",
        ] {
            assert!(asked(host, "127.0.0.1"), "{host}");
        }
        for host in [
            "evil.example:8450",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!asked(host, "127.0.0.1"), "{host}");
        }
        assert!(asked("status.example", "192.0.2.1"));
    }
}
