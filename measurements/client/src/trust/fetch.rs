//! Fetches a manifest from its URL or from a host's `/.well-known/cocoon/`.
//!
//! The origin of a manifest does not make it trusted: like a manifest from a file, it is trusted
//! for its signatures or its pinned hash. The certificate of an HTTPS server is verified all the
//! same, because an impostor could offer an older release that is still valid.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::manifest::MAX_ENVELOPE_LEN;
use cocoon_protocol::manifest::MAX_MANIFEST_LEN;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::TrustError;
use crate::dial::dial;

/// Path at which a host publishes its manifest.
const WELL_KNOWN: &str = "/.well-known/cocoon/manifest.json";
/// Time limit for connecting.
const REACH: Duration = Duration::from_secs(10);
/// Time limit for fetching one document.
const PATIENCE: Duration = Duration::from_secs(30);

/// URL of a manifest that is not in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    text: String,
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// A manifest and its signature file, if there is one.
pub(super) type Fetched = (Vec<u8>, Option<Vec<u8>>);

impl Url {
    /// Parses the URL of a manifest; returns `None` for the name of a file. A host without a path
    /// stands for its published manifest.
    pub(super) fn of(manifest: &Path) -> Result<Option<Self>, TrustError> {
        let text = manifest.to_string_lossy();
        let tls = match text.split_once("://") {
            Some(("https", _)) => true,
            Some(("http", _)) => false,
            _ => return Ok(None),
        };
        let bad = || failed(&text, "this is no URL of a manifest");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if uri.query().is_some()
            || uri
                .authority()
                .is_some_and(|all| all.as_str().contains('@'))
        {
            return Err(bad());
        }
        let path = match uri.path() {
            "" | "/" => WELL_KNOWN,
            path => path,
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Some(Self {
            text: text.clone().into_owned(),
            tls,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
            path: path.to_owned(),
        }))
    }

    /// Fetches manifest and signature file. Blocks, and may be called inside an async runtime.
    pub(super) fn fetch(&self) -> Result<Fetched, TrustError> {
        let fetch = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().map_err(|e| e.to_string())?;
            runtime.block_on(self.both())
        };
        // On a thread of its own, because a runtime cannot block inside another.
        let fetched = std::thread::scope(|scope| scope.spawn(fetch).join());
        let fetched = fetched.unwrap_or_else(|_| Err("the request broke off".to_owned()));
        fetched.map_err(|why| failed(&self.text, &why))
    }

    async fn both(&self) -> Result<Fetched, String> {
        let tls = self.tls.then(connector).transpose()?;
        let get = |path, limit| self.get(tls.as_ref(), path, limit);
        let Some(manifest) = get(self.path.clone(), MAX_MANIFEST_LEN).await? else {
            return Err(format!("there is no {}", self.path));
        };
        let signatures = get(format!("{}.dsse", self.path), MAX_ENVELOPE_LEN).await?;
        Ok((manifest, signatures))
    }

    async fn get(
        &self,
        tls: Option<&TlsConnector>,
        path: String,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, String> {
        let got = async {
            let late = |_| format!("cannot connect within {} seconds", REACH.as_secs());
            let tcp = dial(&self.host, self.port, REACH).await.map_err(late)?;
            let tcp = tcp.map_err(|error| format!("cannot connect: {error}"))?;
            let Some(tls) = tls else {
                return self.ask(tcp, &path, limit).await;
            };
            let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
            let tls = tls.connect(name, tcp).await;
            let tls = tls.map_err(|error: io::Error| format!("no TLS session: {error}"))?;
            self.ask(tls, &path, limit).await
        };
        let late = |_| format!("no answer within {} seconds", PATIENCE.as_secs());
        tokio::time::timeout(PATIENCE, got).await.map_err(late)?
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, String> {
        let broken = |error: hyper::Error| format!("the connection broke: {error}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // The task ends with this runtime.
        tokio::spawn(connection);
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        let request = Request::get(path)
            .header(HOST, host)
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            // Redirects are not followed: they lead to a host that nobody named.
            status => return Err(format!("{path} is answered with status {status}")),
        }
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body =
            body.map_err(|_| format!("{path} is longer than {limit} bytes, or broke off"))?;
        Ok(Some(body.to_bytes().to_vec()))
    }
}

fn failed(url: &str, why: &str) -> TrustError {
    TrustError::Fetch {
        url: url.chars().filter(|c| !c.is_control()).take(200).collect(),
        why: why.to_owned(),
    }
}

/// Makes a TLS connector that trusts the machine's certificate authorities.
fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs.into_iter().map(CertificateDer::into_owned));
    if roots.is_empty() {
        return Err("this machine has no list of certificate authorities".to_owned());
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn url(text: &str) -> Url {
        Url::of(Path::new(text)).unwrap().unwrap()
    }

    #[test]
    fn a_host_alone_stands_for_what_it_publishes() {
        let host = url("https://example.org:8444");
        assert_eq!(
            (host.host.as_str(), host.port, host.tls),
            ("example.org", 8444, true)
        );
        assert_eq!(host.path, WELL_KNOWN);
        let file = url("http://[::1]/a/manifest.json");
        assert_eq!(
            (file.host.as_str(), file.port, file.tls),
            ("::1", 80, false)
        );
        assert_eq!(file.path, "/a/manifest.json");
        for name in [
            "manifest.json",
            "/https:/manifest.json",
            "ftp://host/manifest.json",
        ] {
            assert_eq!(Url::of(Path::new(name)).unwrap(), None, "{name}");
        }
        for bad in ["https://", "https://user@host/m", "https://host/m?x=1"] {
            let error = Url::of(Path::new(bad)).unwrap_err().to_string();
            let expected = format!("cannot fetch the manifest {bad}: this is no URL of a manifest");
            assert_eq!(error, expected);
        }
    }

    /// Starts a server that expects requests for the given paths in order and sends the given
    /// answers.
    fn server(answers: Vec<(&'static str, String)>) -> (u16, std::thread::JoinHandle<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            for (path, answer) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let count = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..count]);
                assert!(
                    request.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                    "{request}"
                );
                // A client that has read enough may close the connection early.
                let written = stream.write_all(answer.as_bytes());
                let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                assert!(
                    written
                        .map_err(|error| error.kind())
                        .err()
                        .is_none_or(|kind| gone.contains(&kind))
                );
            }
        });
        (port, serving)
    }

    const MISSING: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

    fn found(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn manifest_and_signatures_are_fetched_and_may_be_missing() {
        let (port, serving) = server(vec![
            (WELL_KNOWN, found("{}")),
            ("/.well-known/cocoon/manifest.json.dsse", found("{}")),
        ]);
        let fetched = url(&format!("http://127.0.0.1:{port}/")).fetch().unwrap();
        assert_eq!(fetched, (b"{}".to_vec(), Some(b"{}".to_vec())));
        serving.join().unwrap();
        let (port, serving) = server(vec![("/m", found("{}")), ("/m.dsse", MISSING.into())]);
        let fetched = url(&format!("http://127.0.0.1:{port}/m")).fetch().unwrap();
        assert_eq!(fetched, (b"{}".to_vec(), None));
        serving.join().unwrap();
    }

    #[test]
    fn what_is_no_manifest_is_said() {
        let moved =
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n";
        // One byte more than a manifest may have, and all of it is sent.
        let long = found(&" ".repeat(MAX_MANIFEST_LEN + 1));
        let broken = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}";
        let cases = [
            (MISSING.to_owned(), "there is no /m"),
            (moved.to_owned(), "/m is answered with status 302 Found"),
            (long, "/m is longer than 1048576 bytes, or broke off"),
            (
                broken.to_owned(),
                "/m is longer than 1048576 bytes, or broke off",
            ),
        ];
        for (answer, why) in cases {
            let (port, serving) = server(vec![("/m", answer)]);
            let text = format!("http://127.0.0.1:{port}/m");
            let error = url(&text).fetch().unwrap_err().to_string();
            assert_eq!(error, format!("cannot fetch the manifest {text}: {why}"));
            serving.join().unwrap();
        }
    }
}
