//! Addresses of appliances: `https://HOST[:PORT]`, parsed once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

/// An appliance's address. The name proves nothing; only evidence shows what is listening there.
/// Cheap to clone, because every error holds one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(Arc<Parts>);

#[derive(PartialEq, Eq, Hash)]
struct Parts {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

/// Why a text is not a valid appliance address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an appliance's address: {problem}; write https://HOST:PORT")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

impl Address {
    /// Host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// TCP port, 443 when the text named none.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Returns `HOST:PORT` as in a `Host` header, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        let Parts { host, port, .. } = &*self.0;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    pub(crate) fn server_name(&self) -> ServerName<'static> {
        self.0.server_name.clone()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |problem| AddressError {
            text: text.to_owned(),
            problem,
        };
        let uri: Uri = text.parse().map_err(|_| refuse("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(refuse("the scheme is not https"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse("it has a path or a query"));
        }
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it names a user"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let server_name = ServerName::try_from(host.clone())
            .map_err(|_| refuse("its host is no DNS name or IP address"))?;
        let port = match authority.port() {
            Some(port) => port
                .as_str()
                .parse()
                .map_err(|_| refuse("its port is not 1 to 65535"))?,
            // `Uri` reports no port for `https://host:` and `https://host:99999` instead of
            // failing.
            None if authority.as_str().trim_end_matches(']').contains("]:")
                || (!authority.as_str().starts_with('[') && authority.as_str().contains(':')) =>
            {
                return Err(refuse("its port is not 1 to 65535"));
            }
            None => 443,
        };
        if port == 0 {
            return Err(refuse("its port is not 1 to 65535"));
        }
        Ok(Self(Arc::new(Parts {
            host,
            port,
            server_name,
        })))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("https://example.org", "https://example.org:443"),
            ("https://127.0.0.1:8443/", "https://127.0.0.1:8443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for (text, problem) in [
            ("http://example.org", "the scheme is not https"),
            ("example.org:1", "the scheme is not https"),
            ("https://user@example.org", "it names a user"),
            ("https://example.org/v1", "it has a path or a query"),
            ("https://example.org:0", "its port is not 1 to 65535"),
            ("https://example.org:99999", "its port is not 1 to 65535"),
            ("https://ex ample.org", "it is not a URL"),
        ] {
            assert_eq!(
                text.parse::<Address>().unwrap_err().problem,
                problem,
                "{text}"
            );
        }
    }
}
