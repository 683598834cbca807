//! `[web]` and `[status]`: what is shown to anybody, and what to the operator alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::reader::{Report, Table, Wrong};
use super::schema::At;
use super::values::{self, path};
use crate::status::DEFAULT_LISTEN;
use crate::web::{TlsFiles, WebSettings};

const WEB: [&str; 3] = ["listen", "certificate", "key"];
const STATUS: [&str; 4] = ["listen", "certificate", "key", "login"];
/// In place of an address.
const OFF: &str = "off";

/// Keys of `[host]` and of tables like these that name files.
type Files = Vec<(&'static str, At<PathBuf>)>;

/// `[status]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSettings {
    /// Where the status page and the metrics are.
    pub web: WebSettings,
    /// Whether the file says so: then it must be had, whereas the usual place may be another program's.
    pub named: bool,
    /// File of the name and the password without which nothing is shown.
    pub login: Option<PathBuf>,
}

/// Without an address nothing is shown, and without a certificate only to this machine.
pub(super) fn web(
    file: &Table<'_, '_>,
    report: &mut Report<'_>,
    files: &mut Files,
) -> Option<At<WebSettings>> {
    let table = file.table(report, "web", &WEB);
    let keys = ["web.certificate", "web.key"];
    let pair = pair(&table, report, keys, files);
    let (listen, at) = table.optional(report, "listen", values::address)?;
    let tls = tls(&table, report, pair, listen);
    Some((WebSettings { listen, tls }, at))
}

/// `None` is off; without an address it is on the usual one.
pub(super) fn status(
    file: &Table<'_, '_>,
    report: &mut Report<'_>,
    files: &mut Files,
) -> Option<At<StatusSettings>> {
    let table = file.table(report, "status", &STATUS);
    let keys = ["status.certificate", "status.key"];
    let pair = pair(&table, report, keys, files);
    let login = table.optional(report, "login", path);
    if let Some(login) = &login {
        files.push(("status.login", login.clone()));
    }
    let named = table.optional(report, "listen", address_or_off);
    let (listen, at) = match named {
        Some((None, _)) => return None,
        Some((Some(listen), at)) => (listen, at),
        // Wrong and reported, or not named.
        None => (DEFAULT_LISTEN.parse().ok()?, 0),
    };
    let tls = tls(&table, report, pair, listen);
    let (web, named) = (WebSettings { listen, tls }, named.is_some());
    let login = login.map(|(login, _)| login);
    Some((StatusSettings { web, named, login }, at))
}

/// Certificate and key, as far as they are named.
type Pair = (Option<PathBuf>, Option<PathBuf>);

fn pair(
    table: &Table<'_, '_>,
    report: &mut Report<'_>,
    keys: [&'static str; 2],
    files: &mut Files,
) -> Pair {
    let mut named = |key, full| {
        let (file, at) = table.optional(report, key, path)?;
        files.push((full, (file.clone(), at)));
        Some(file)
    };
    (named("certificate", keys[0]), named("key", keys[1]))
}

fn tls(
    table: &Table<'_, '_>,
    report: &mut Report<'_>,
    pair: Pair,
    listen: SocketAddr,
) -> Option<TlsFiles> {
    let wrong = match pair {
        (Some(certificate), Some(key)) => return Some(TlsFiles { certificate, key }),
        (None, None) if listen.ip().is_loopback() => return None,
        (None, None) => "without certificate and key it must be a loopback address, for a proxy",
        (Some(_), None) | (None, Some(_)) => "certificate and key go together",
    };
    table.wrong(report, "listen", Wrong::because(wrong));
    None
}

fn address_or_off(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Wrong> {
    match value.as_str() {
        Some(OFF) => Ok(None),
        _ => values::address(value).map(Some).map_err(|wrong| Wrong {
            allowed: wrong
                .allowed
                .map(|allowed| format!("{allowed}, or {OFF:?}")),
            ..wrong
        }),
    }
}
