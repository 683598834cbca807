//! Access control for the status page and the metrics: one name and one password with HTTP Basic authentication (RFC 7617),
//! which browsers and Prometheus support. Beyond loopback the listener requires TLS, so the password is never sent in clear.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_protocol::bytes::Hex32;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use zeroize::Zeroizing;

use crate::web::Page;

/// Shortest password, in characters. Guesses are limited only by the rate of connections.
pub const SHORTEST: usize = 16;
/// Most bytes of the file.
const MAX_FILE: u64 = 1024;
/// Longest header that is considered, in bytes: twice the file.
const MAX_HEADER: usize = 2048;

/// The name and password that grant access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// SHA-256 of `NAME:PASSWORD`. The time that comparing two digests takes reveals nothing about their inputs.
    digest: Hex32,
}

/// Why the login file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file cannot be read.
    #[error("cannot read {path:?}, which login of [status] names")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Every user can read the file.
    #[error(
        "{path:?}, which login of [status] names, can be read by every user: chmod 640, and chgrp to the daemon's"
    )]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file is not one line `NAME:PASSWORD` with a long enough password.
    #[error(
        "{path:?}, which login of [status] names, is not one line NAME:PASSWORD with a password of at least {SHORTEST} characters"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Login {
    /// Reads the login from the one line of the file at `path`.
    ///
    /// # Errors
    /// [`LoginError`] if the file cannot be read, is open to every user or is malformed.
    pub fn load(path: &Path) -> Result<Self, LoginError> {
        let fail = |source| LoginError::Read {
            path: path.to_owned(),
            source,
        };
        let malformed = || LoginError::Malformed {
            path: path.to_owned(),
        };
        let file = File::open(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.permissions().mode();
        if mode & 0o007 != 0 {
            let path = path.to_owned();
            return Err(LoginError::Open { path });
        }
        let mut text = Zeroizing::new(String::new());
        let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
        if read.map_err(fail)? as u64 > MAX_FILE {
            return Err(malformed());
        }
        let line = text.trim_end_matches(['\r', '\n']);
        let (name, password) = line.split_once(':').ok_or_else(malformed)?;
        let long = password.chars().count() >= SHORTEST;
        match !name.is_empty() && long && !line.contains(char::is_control) {
            true => Ok(Self {
                digest: Hex32::sha256(line.as_bytes()),
            }),
            false => Err(malformed()),
        }
    }

    /// Returns whether a request carries the name and password.
    #[must_use]
    pub fn knows(&self, parts: &Parts) -> bool {
        let header = parts.headers.get(AUTHORIZATION);
        let header = header.filter(|header| header.len() <= MAX_HEADER);
        let Some((scheme, told)) = header
            .and_then(|header| header.to_str().ok())
            .and_then(|header| header.split_once(' '))
        else {
            return false;
        };
        let told = STANDARD.decode(told.trim()).map(Zeroizing::new);
        scheme.eq_ignore_ascii_case("basic")
            && told.is_ok_and(|told| Hex32::sha256(&told) == self.digest)
    }

    /// Returns the answer to requests without the name and password.
    #[must_use]
    pub fn refusal() -> Page {
        let words = "who are you? see login of [status] in the configuration file\n";
        let challenge = "Basic realm=\"cocoon-host\", charset=\"UTF-8\"";
        Page::text(StatusCode::UNAUTHORIZED, words).with("www-authenticate", challenge)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use hyper::Request;

    use super::*;
    use crate::text::chain;

    const LINE: &str = "operator:correct horse: battery";

    fn load(text: &str, mode: u32) -> Result<Login, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let said = |error: LoginError| chain(&error).replace(path.to_str().unwrap(), "F");
        Login::load(&path).map_err(said)
    }

    fn knows(login: &Login, header: &str) -> bool {
        let request = Request::builder().header(AUTHORIZATION, header).body(());
        login.knows(&request.unwrap().into_parts().0)
    }

    #[test]
    fn one_name_and_one_password_are_known_and_no_others() {
        let login = load(&format!("{LINE}\n"), 0o640).unwrap();
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(knows(&login, &basic(LINE)));
        assert!(knows(&login, &basic(LINE).replace("Basic", "basic")));
        for told in [
            "operator:correct horse: batterz",
            "operator:",
            "Operator:correct horse: battery",
            "",
        ] {
            assert!(!knows(&login, &basic(told)), "{told}");
        }
        for header in [
            &basic(LINE).replace("Basic", "Bearer"),
            "Basic",
            "Basic !",
            &format!("{}{}", basic(LINE), " ".repeat(MAX_HEADER)),
        ] {
            assert!(!knows(&login, header), "{header}");
        }
        let nobody = Request::new(()).into_parts().0;
        assert!(!login.knows(&nobody));
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        let malformed = "\"F\", which login of [status] names, is not one line NAME:PASSWORD with a password of at least 16 characters";
        for text in [
            "",
            "operator",
            ":correct horse battery",
            "operator:short",
            "operator:correct horse battery\nother:correct horse battery",
            // Cut short, it would be another password.
            &format!("operator:{}", "x".repeat(1016)),
        ] {
            assert_eq!(load(text, 0o600), Err(malformed.to_owned()), "{text}");
        }
        assert_eq!(
            load(LINE, 0o644).unwrap_err(),
            "\"F\", which login of [status] names, can be read by every user: chmod 640, and chgrp to the daemon's"
        );
        let missing = chain(&Login::load(Path::new("/nowhere")).unwrap_err());
        assert!(
            missing.starts_with("cannot read \"/nowhere\", which login of [status] names: No such"),
            "{missing}"
        );
    }
}
