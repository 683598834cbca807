//! Tests of the web server over a socket, with requests written by hand.

use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn start() -> (SocketAddr, crate::running::Task<()>) {
    let settings = WebSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
    };
    let web = Web::bind(&settings).unwrap();
    let address = web.address().unwrap();
    let kept = |_| async { Page::new("text/plain", "kept").cached(Cache::Seconds(60)) };
    let below = |parts: Parts| async move { Page::new("text/plain", parts.uri.path().to_owned()) };
    let pieces = |_| async {
        let (to, pieces) = tokio::sync::mpsc::channel(2);
        to.try_send("one,".into()).unwrap();
        to.try_send("two".into()).unwrap();
        Page::pieces("text/plain", pieces).with("content-security-policy", "default-src 'self'")
    };
    let routes = vec![
        Route::exact("/kept", kept),
        Route::below("/all/", below),
        Route::exact("/pieces", pieces),
    ];
    (address, crate::running::Task(tokio::spawn(web.run(routes))))
}

async fn ask(address: SocketAddr, request: &str) -> (StatusCode, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = request.replacen('\n', " HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", 1);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_first_route_that_fits_answers() {
    let (address, _web) = start().await;
    let (status, head, body) = ask(address, "GET /all/a?b\n").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "/all/a"));
    assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
    assert!(!head.contains("etag"), "{head}");
    let (status, head, body) = ask(address, "GET /pieces\n").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        head.contains("\r\ncontent-security-policy: default-src 'self'\r\n"),
        "{head}"
    );
    assert!(body.contains("one,") && body.contains("two"), "{body}");
    for missing in ["GET /all/\n", "GET /kept/\n", "GET /\n"] {
        let (status, _, body) = ask(address, missing).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{missing}");
        assert_eq!(body, "there is no such document\n");
    }
    let (status, head, _) = ask(address, "POST /kept\n").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(head.contains("\r\nallow: GET, HEAD"), "{head}");
    let (status, _, body) = ask(address, "GET /kept\ncontent-length: 1\r\n").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body, "requests have no body: leave it out\n");
}

#[tokio::test]
async fn who_has_the_bytes_is_not_sent_them_again() {
    let (address, _web) = start().await;
    let (status, head, body) = ask(address, "GET /kept\n").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "kept"));
    assert!(
        head.contains("\r\ncache-control: public, max-age=60\r\n"),
        "{head}"
    );
    let tag = format!("\"{}\"", cocoon_protocol::bytes::Hex32::sha256(b"kept"));
    assert!(head.contains(&format!("\r\netag: {tag}\r\n")), "{head}");
    for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let request = format!("GET /kept\nif-none-match: {known}\r\n");
        let (status, head, body) = ask(address, &request).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert!(head.contains(&tag), "{head}");
    }
    let (status, _, _) = ask(address, "GET /kept\nif-none-match: \"other\"\r\n").await;
    assert_eq!(status, StatusCode::OK);
    let (status, head, body) = ask(address, "HEAD /kept\n").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
    assert!(head.contains("\r\ncontent-length: 4\r\n"), "{head}");
}

#[tokio::test]
async fn files_that_are_no_certificate_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
    let said = |certificate: PathBuf, key: PathBuf| {
        let tls = Some(TlsFiles { certificate, key });
        let listen = "127.0.0.1:0".parse().unwrap();
        let error = Web::bind(&WebSettings { listen, tls }).err();
        error.map(|error| error.to_string())
    };
    let (certificate, key) = (tests.join("certificate.pem"), tests.join("key.pem"));
    assert_eq!(said(certificate.clone(), key.clone()), None);
    let missing = folder.path().join("missing");
    let expected = format!("cannot read {missing:?}");
    assert_eq!(said(missing.clone(), key.clone()), Some(expected));
    let expected = format!("{key:?} holds no certificates in PEM");
    assert_eq!(said(key.clone(), key), Some(expected));
    let expected = format!("{certificate:?} holds no private key in PEM");
    assert_eq!(said(certificate.clone(), certificate), Some(expected));
}

/// The project's own attestation client completes the handshake, and its request is answered as over HTTP.
#[tokio::test]
async fn over_tls_the_same_is_answered() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
    let settings = WebSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: Some(TlsFiles {
            certificate: tests.join("certificate.pem"),
            key: tests.join("key.pem"),
        }),
    };
    let web = Web::bind(&settings).unwrap();
    let address = web.address().unwrap();
    let _web = crate::running::Task(tokio::spawn(web.run(vec![])));
    let error = crate::attest::show(address).await.unwrap_err();
    let expected =
        "the guest answered the question for its evidence with status 405 Method Not Allowed";
    assert_eq!(error.to_string(), expected);
}
