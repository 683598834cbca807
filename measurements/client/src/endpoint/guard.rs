//! Access control of the local endpoint: applications that hold the token may use it, web pages may
//! not.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, AsHeaderName, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::reply::{Refusal, refusal};

/// A bearer token. Wiped on drop, and hidden by `Debug`.
pub struct Token(Zeroizing<String>);

/// Why a text is not usable as a bearer token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is too short to be safe from guessing, or too long for a header.
    #[error("a token has 16 to 512 characters, this one has {0}")]
    Length(usize),
    /// The token has a character that a header cannot contain.
    #[error("a token consists of visible ASCII characters without spaces")]
    Characters,
    /// The operating system's random generator failed.
    #[error("the operating system gives no random bytes for a token")]
    Random(#[source] getrandom::Error),
}

impl Token {
    /// Generates a token: `sk-cocoon-` and 32 random bytes in Base64. Applications expect API keys
    /// to begin with `sk-`.
    pub fn generate() -> Result<Self, TokenError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(TokenError::Random)?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str("sk-cocoon-");
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        Ok(Self(text))
    }

    /// Makes a token from a text that a person chose. White space around it is dropped.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !(16..=512).contains(&text.len()) {
            return Err(TokenError::Length(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Returns the token itself, to be shown to its owner once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Checks every request before its body is read.
pub(super) struct Guard {
    hosts: [String; 2],
    token_sha256: [u8; 32],
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Token) -> Self {
        Self {
            hosts: [address.to_string(), format!("localhost:{}", address.port())],
            token_sha256: Sha256::digest(token.expose()).into(),
        }
    }

    /// Accepts requests of an application on this machine that holds the token; refuses all others.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        // After DNS rebinding, a web page reaches this address but sends its own name as Host.
        if !single(headers, HOST).is_some_and(|host| self.is_ours(host)) {
            let [ip, localhost] = &self.hosts;
            let message = format!("this endpoint answers to the names {ip} and {localhost} only");
            return Err(refusal(
                StatusCode::FORBIDDEN,
                "invalid_request_error",
                "host_not_allowed",
                message,
            ));
        }
        // A web page that sends requests through its visitor's browser cannot hide its origin.
        if headers.contains_key(ORIGIN)
            && !single(headers, ORIGIN)
                .and_then(|origin| origin.strip_prefix("http://"))
                .is_some_and(|host| self.is_ours(host))
        {
            let message = "this endpoint is for applications on this machine, not for web pages of other origins".to_owned();
            return Err(refusal(
                StatusCode::FORBIDDEN,
                "invalid_request_error",
                "origin_not_allowed",
                message,
            ));
        }
        if !single(headers, AUTHORIZATION)
            .and_then(bearer)
            .is_some_and(|token| self.is_token(token))
        {
            let message = "missing or wrong bearer token: use the one that was printed when the endpoint started".to_owned();
            return Err(refusal(
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "invalid_api_key",
                message,
            ));
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(host))
    }

    /// Compares digests in constant time, so that the time of a wrong guess reveals nothing about
    /// the token.
    fn is_token(&self, token: &str) -> bool {
        Sha256::digest(token).ct_eq(&self.token_sha256).into()
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "sixteen-letters-or-more";

    fn code(pairs: &[(&'static str, &str)]) -> Option<String> {
        let guard = Guard::new(
            "127.0.0.1:8080".parse().unwrap(),
            Token::new(TOKEN).unwrap(),
        );
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        guard
            .check(&headers)
            .err()
            .and_then(|refusal| refusal.error.code)
    }

    #[test]
    fn only_our_names_our_origin_and_the_token_pass() {
        let good = ("authorization", "Bearer sixteen-letters-or-more");
        let host = ("host", "127.0.0.1:8080");
        let forbidden_host = Some("host_not_allowed".to_owned());
        let forbidden_origin = Some("origin_not_allowed".to_owned());
        let forbidden_token = Some("invalid_api_key".to_owned());

        assert_eq!(code(&[host, good]), None);
        assert_eq!(
            code(&[
                ("host", "LocalHost:8080"),
                good,
                ("origin", "http://localhost:8080")
            ]),
            None
        );
        assert_eq!(code(&[good]), forbidden_host);
        assert_eq!(code(&[host, host, good]), forbidden_host);
        assert_eq!(code(&[("host", "127.0.0.1:8081"), good]), forbidden_host);
        assert_eq!(code(&[("host", "evil.example:8080"), good]), forbidden_host);
        for origin in [
            "https://evil.example",
            "null",
            "http://evil.example:8080",
            "https://localhost:8080",
        ] {
            assert_eq!(
                code(&[host, good, ("origin", origin)]),
                forbidden_origin,
                "{origin}"
            );
        }
        assert_eq!(code(&[host]), forbidden_token);
        assert_eq!(code(&[host, good, good]), forbidden_token);
        assert_eq!(
            code(&[host, ("authorization", "Bearer sixteen-letters-or-mor")]),
            forbidden_token
        );
        assert_eq!(
            code(&[host, ("authorization", "Basic sixteen-letters-or-more")]),
            forbidden_token
        );
    }

    #[test]
    fn tokens_are_long_random_and_hidden() {
        let [one, two] = [Token::generate().unwrap(), Token::generate().unwrap()];
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 10 + 43);
        assert_eq!(format!("{one:?}"), "Token(..)");
        assert!(matches!(Token::new("short"), Err(TokenError::Length(5))));
        assert!(matches!(
            Token::new("sixteen letters or more"),
            Err(TokenError::Characters)
        ));
    }
}
