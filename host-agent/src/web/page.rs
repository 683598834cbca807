//! An answer: its body, how long it may be cached, and headers that restrict what a browser does with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use cocoon_protocol::bytes::Hex32;
use hyper::body::{Frame, SizeHint};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

/// How long a client may cache an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Must not be cached.
    Never,
    /// May be cached for this number of seconds, then must be revalidated by its `ETag`.
    Seconds(u32),
    /// May be cached for ever: its path determines its bytes.
    Forever,
}

/// An answer.
#[derive(Debug)]
pub struct Page {
    status: StatusCode,
    kind: &'static str,
    cache: Cache,
    body: Body,
    headers: Vec<(&'static str, String)>,
}

/// Body of an answer.
#[derive(Debug)]
pub enum Body {
    /// The whole body at once, with its length.
    Whole(Option<Bytes>),
    /// Pieces as they come, until the sender is dropped or the connection's life is over.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Page {
    /// Makes a successful answer of the media type `kind`. It must not be cached unless [`Page::cached`] is called.
    #[must_use]
    pub fn new(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            kind,
            cache: Cache::Never,
            body: Body::Whole(Some(body.into())),
            headers: vec![],
        }
    }

    /// Makes a successful answer whose body arrives in pieces.
    #[must_use]
    pub fn pieces(kind: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            body: Body::Pieces(pieces),
            ..Self::new(kind, Bytes::new())
        }
    }

    /// Makes a short text answer with this status.
    #[must_use]
    pub fn text(status: StatusCode, words: &'static str) -> Self {
        Self {
            status,
            ..Self::new("text/plain; charset=utf-8", words)
        }
    }

    /// Makes the answer for a path without a document.
    #[must_use]
    pub fn missing() -> Self {
        Self::text(StatusCode::NOT_FOUND, "there is no such document\n")
    }

    /// Sets how long the answer may be cached.
    #[must_use]
    pub fn cached(self, cache: Cache) -> Self {
        Self { cache, ..self }
    }

    /// Adds a header; its name is in lower case. It replaces a default header of the same name.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Returns the response. `known` is the client's `If-None-Match`; `head` omits the body.
    pub(super) fn response(mut self, known: Option<&HeaderValue>, head: bool) -> Response<Body> {
        let tag = match (&self.body, self.cache, self.status) {
            (_, Cache::Never, _) => None,
            (Body::Whole(Some(bytes)), _, StatusCode::OK) => {
                Some(format!("\"{}\"", Hex32::sha256(bytes)))
            }
            _ => None,
        };
        if tag.as_deref().is_some_and(|tag| has(known, tag)) {
            self.status = StatusCode::NOT_MODIFIED;
            self.body = Body::Whole(None);
        }
        let length = match &self.body {
            Body::Whole(Some(bytes)) => Some(bytes.len()),
            _ => None,
        };
        if head {
            self.body = Body::Whole(None);
        }
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let mut put = |name: HeaderName, value: &str| {
            // Values are fixed strings, digests or numbers, so they are always valid.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        put(CONTENT_TYPE, self.kind);
        put(X_CONTENT_TYPE_OPTIONS, "nosniff");
        put(REFERRER_POLICY, "no-referrer");
        put(
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        );
        match self.cache {
            Cache::Never => put(CACHE_CONTROL, "no-store"),
            Cache::Seconds(seconds) => put(CACHE_CONTROL, &format!("public, max-age={seconds}")),
            Cache::Forever => put(CACHE_CONTROL, "public, max-age=31536000, immutable"),
        }
        if let Some(tag) = tag {
            put(ETAG, &tag);
        }
        if let (true, Some(length)) = (head, length) {
            put(hyper::header::CONTENT_LENGTH, &length.to_string());
        }
        for (name, value) in &self.headers {
            put(HeaderName::from_static(name), value);
        }
        response
    }
}

/// Returns whether the client's list names this entity. Weak tags match too (RFC 9110 §13.1.2).
fn has(known: Option<&HeaderValue>, tag: &str) -> bool {
    let Some(list) = known.and_then(|known| known.to_str().ok()) else {
        return false;
    };
    let mut tags = list.split(',').map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes| Ok(Frame::data(bytes));
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(frame)),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(frame)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}
