//! Tests of concurrent requests on one connection that withhold the ends of their bodies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cocoon_guest_agent::api::Limits;
use cocoon_protocol::document::ATTEST_PATH;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use crate::common::client::{DEADLINE, negotiate, refusal};
use crate::common::{FakeEngine, machine};

/// A body that is announced in full, of which the last `kept` bytes never come.
struct Withheld {
    said: Option<Bytes>,
    kept: u64,
}

impl Body for Withheld {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.said.take() {
            Some(said) => Poll::Ready(Some(Ok(Frame::data(said)))),
            None if self.kept > 0 => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let said = self.said.as_ref().map_or(0, Bytes::len) as u64;
        SizeHint::with_exact(said + self.kept)
    }
}

async fn attested(address: SocketAddr) -> SendRequest<Withheld> {
    let tls = negotiate(address, b"h2").await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(connection);
    let nonce = format!("{{\"nonce\":\"{}\"}}", "09".repeat(32));
    let answer = post(sender.clone(), ATTEST_PATH, nonce, 0).await;
    assert_eq!(answer.status(), 200);
    sender
}

async fn post(
    mut sender: SendRequest<Withheld>,
    path: &str,
    said: String,
    kept: u64,
) -> Response<Incoming> {
    let said = Some(Bytes::from(said));
    let request = Request::post(format!("https://cocoon{path}"))
        .body(Withheld { said, kept })
        .unwrap();
    let answer = timeout(DEADLINE, sender.send_request(request)).await;
    answer.expect("answer in time").unwrap()
}

/// A request that waits for the body of another gets no further time for its own, and is told what it waited for.
#[tokio::test]
async fn who_waits_for_others_of_its_connection_is_told_so() {
    let limits = Limits {
        body: 1000,
        body_time: Duration::from_secs(4),
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 2, limits).await;
    let sender = attested(machine.address).await;
    let withheld = || {
        let (sender, said) = (sender.clone(), "{".to_owned());
        async move {
            let answer = post(sender, "/v1/chat/completions", said, 999).await;
            (refusal(answer).await, Instant::now())
        }
    };
    // The first request has all the room. When the second one gets it, no time is left.
    let ((first, ended), (second, then)) = tokio::join!(withheld(), withheld());
    let after = then.duration_since(ended);
    assert!(
        after < limits.body_time / 2,
        "it had a second time: {after:?}"
    );
    let late = |message: &str| {
        let code = Some("request_timeout".to_owned());
        (408, None, code, message.to_owned())
    };
    assert_eq!(first, late("The request body did not arrive in time."));
    assert_eq!(
        second,
        late(
            "This request waited for the bodies of others of its connection, and its time is over: send those to their end sooner, or use another connection."
        )
    );
}
