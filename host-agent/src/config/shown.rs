//! `[web]` and `[status]`: the published documents, and the operator's status page and metrics.

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
/// Value of `status.listen` that turns the status page off.
const OFF: &str = "off";

/// Keys that name files, with the files.
type Files = Vec<(&'static str, At<PathBuf>)>;

/// Settings of the status page, from `[status]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSettings {
    /// Address and certificate of the status page and the metrics.
    pub web: WebSettings,
    /// Whether the file names the address. Only then is a failure to bind it an error: the default may be in use elsewhere.
    pub named: bool,
    /// File with the name and password that the page requires, if any.
    pub login: Option<PathBuf>,
}

/// Reads `[web]`. Without an address nothing is published; without a certificate only a loopback address is allowed.
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

/// Reads `[status]`. Returns `None` if the page is off; without an address it has the default one.
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
        // Not named, or wrong and reported.
        None => (DEFAULT_LISTEN.parse().ok()?, 0),
    };
    let tls = tls(&table, report, pair, listen);
    let (web, named) = (WebSettings { listen, tls }, named.is_some());
    let login = login.map(|(login, _)| login);
    Some((StatusSettings { web, named, login }, at))
}

/// Files of certificate and key, as far as they are named.
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
