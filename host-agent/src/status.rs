//! The operator's status page and the Prometheus metrics, served on an address of their own.
//!
//! ```text
//! GET /          the page, complete without scripts: the browser reloads it every ten seconds
//! GET /script.js replaces the parts that changed, and shows when the daemon does not answer
//! GET /metrics   the same figures for Prometheus
//! ```
//!
//! Everything is rendered on the server, from a snapshot (`watch`) to text. Strings of guests and operators are escaped
//! by construction (`html.rs`). The page loads nothing from other origins, and its content security policy forbids it.

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

/// Address of the status page unless the configuration file names another.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8450";
/// Number of latest events on the page.
pub const EVENTS: usize = 40;
/// Style sheet of the page.
pub const STYLE: &str = include_str!("status/style.css");
/// Script of the page.
pub const SCRIPT: &str = include_str!("status/script.js");

/// Content security policy: the browser may run the one script, load the one style sheet and request this origin again.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Source of snapshots and events.
pub trait Source: Send + Sync + 'static {
    /// Returns a snapshot of the host and its appliances.
    fn watch(&self) -> Watch;
    /// Returns at most `most` events, the newest first.
    fn events(&self, most: usize) -> Vec<Entry>;
}

/// Returns the routes of a listener at `listen`. With a `login`, only requests that carry it are answered.
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
            // The link to it contains the release, so an upgrade is not masked by the cache.
            Page::new("text/css; charset=utf-8", STYLE).cached(Cache::Seconds(3600))
        }),
        route("/script.js", |_| {
            Page::new("text/javascript; charset=utf-8", SCRIPT)
        }),
        Route::exact("/icon.svg", move |_| {
            let icon = Page::new("image/svg+xml", icon()).cached(hour);
            // The icon carries its colours in an inline style.
            std::future::ready(icon.with(
                "content-security-policy",
                "default-src 'none'; style-src 'unsafe-inline'",
            ))
        }),
    ]
}

const MISDIRECTED: &str = "this listener is asked by its address or as localhost: see [status] in the configuration file\n";

/// Returns whether a request is meant for this listener. With DNS rebinding, a foreign page makes a local browser send
/// requests under a name that points at this machine. On loopback, only an IP address or `localhost` is therefore
/// accepted as host. On other interfaces, the operator decides who can connect.
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
