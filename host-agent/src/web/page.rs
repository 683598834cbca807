//! An answer: what it is, how long it may be kept, and the headers that keep a browser from making more of it.

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

/// How long an answer may be kept by whoever gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Not at all.
    Never,
    /// So many seconds; after them it is asked for again by its `ETag`.
    Seconds(u32),
    /// For ever: its name says which bytes it is.
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

/// What an answer consists of.
#[derive(Debug)]
pub enum Body {
    /// All at once, with its length.
    Whole(Option<Bytes>),
    /// Piece by piece as they come, until the sender is dropped or the connection's life is over.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Page {
    /// A good answer of the media type `kind`. It may not be kept, unless [`Page::cached`] says otherwise.
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

    /// A good answer whose pieces come by and by.
    #[must_use]
    pub fn pieces(kind: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            body: Body::Pieces(pieces),
            ..Self::new(kind, Bytes::new())
        }
    }

    /// A few words with a status.
    #[must_use]
    pub fn text(status: StatusCode, words: &'static str) -> Self {
        Self {
            status,
            ..Self::new("text/plain; charset=utf-8", words)
        }
    }

    /// There is no such thing.
    #[must_use]
    pub fn missing() -> Self {
        Self::text(StatusCode::NOT_FOUND, "there is no such document\n")
    }

    /// The same, to be kept so long.
    #[must_use]
    pub fn cached(self, cache: Cache) -> Self {
        Self { cache, ..self }
    }

    /// The same with a header, in lower case. One of those that every page has replaces it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// What goes out. `known` is the client's `If-None-Match`; `head` leaves the body out.
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
            // Ours, but for digests and numbers: always a valid value.
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

/// Whether the client's list names this entity: weak or not, it has these bytes (RFC 9110 §13.1.2).
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
