//! Test doubles: an HTTP server, a signing key, and a small Debian archive made with both.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey,
};
use pgp::ser::Serialize;
use pgp::types::Password;

use crate::Digest;

/// Response of the server for one path.
#[derive(Clone, Default)]
pub(crate) struct Page {
    pub body: Vec<u8>,
    /// The first response ends after this many bytes.
    pub cut: Option<usize>,
    pub ignores_ranges: bool,
    pub status: Option<u16>,
}

impl From<Vec<u8>> for Page {
    fn from(body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::default()
        }
    }
}

/// An HTTP server that lives as long as the test process.
pub(crate) struct Server {
    pub url: String,
    /// Path of each request, followed by ` from N` if the request has a range.
    pub hits: Arc<Mutex<Vec<String>>>,
    pub pages: Arc<Mutex<BTreeMap<String, Page>>>,
}

impl Server {
    pub(crate) fn start(pages: impl IntoIterator<Item = (String, Page)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/debian", listener.local_addr().expect("bound"));
        let (hits, pages) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(Mutex::new(pages.into_iter().collect())),
        );
        let server = Self {
            url,
            hits: Arc::clone(&hits),
            pages: Arc::clone(&pages),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Some tests make the client close the connection.
                let _hung_up = answer(stream, &hits, &pages);
            }
        });
        server
    }

    pub(crate) fn hits(&self) -> Vec<String> {
        self.hits.lock().expect("no panic").clone()
    }

    pub(crate) fn put(&self, path: &str, page: impl Into<Page>) {
        self.pages
            .lock()
            .expect("no panic")
            .insert(path.to_owned(), page.into());
    }

    pub(crate) fn page(&self, path: &str) -> Vec<u8> {
        let pages = self.pages.lock().expect("no panic");
        pages.get(path).cloned().unwrap_or_default().body
    }

    pub(crate) fn remove(&self, path: &str) {
        self.pages.lock().expect("no panic").remove(path);
    }
}

fn answer(
    mut stream: TcpStream,
    hits: &Mutex<Vec<String>>,
    pages: &Mutex<BTreeMap<String, Page>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = value.trim_end_matches('-').parse::<usize>().ok();
        }
    }
    hits.lock()
        .expect("no panic")
        .push(range.map_or_else(|| path.clone(), |from| format!("{path} from {from}")));
    let page = {
        let mut pages = pages.lock().expect("no panic");
        let page = pages.get(&path).cloned();
        if let Some(page) = pages.get_mut(&path) {
            page.cut = None;
        }
        page
    };
    let Some(page) = page else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
    };
    if let Some(status) = page.status {
        return write!(
            stream,
            "HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
    }
    let total = page.body.len();
    let from = range.filter(|from| *from < total && !page.ignores_ranges);
    let body = &page.body[from.unwrap_or(0)..];
    let head = from.map_or_else(
        || "200 OK".to_owned(),
        |from| {
            format!(
                "206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}",
                total - 1
            )
        },
    );
    write!(
        stream,
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body[..page.cut.unwrap_or(body.len())])
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// Formats a date as Release files do.
pub(crate) fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)).replace("GMT", "UTC")
}

pub(crate) fn key() -> SignedSecretKey {
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .can_encrypt(EncryptionCaps::None)
        .primary_user_id("archive".into());
    parameters
        .build()
        .expect("complete")
        .generate(rand::thread_rng())
        .expect("generated")
}

pub(crate) fn public(key: &SignedSecretKey) -> Vec<u8> {
    SignedPublicKey::from(key.clone())
        .to_bytes()
        .expect("serialises")
}

pub(crate) fn sign(text: &str, key: &SignedSecretKey) -> Vec<u8> {
    let message = CleartextSignedMessage::sign(
        rand::thread_rng(),
        text,
        &key.primary_key,
        &Password::empty(),
    )
    .expect("signs");
    message
        .to_armored_bytes(ArmorOptions::default())
        .expect("serialises")
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1))
        .expect("valid options");
    writer.write_all(bytes).expect("in memory");
    writer.finish().expect("in memory")
}

/// Name, version, additional fields and content of a package.
pub(crate) type Deb<'a> = (&'a str, &'a str, &'a str, &'a [u8]);

/// Publishes a signed suite with these packages, all in `main`.
pub(crate) fn publish(
    server: &Server,
    key: &SignedSecretKey,
    suite: &str,
    fields: &str,
    debs: &[Deb<'_>],
) {
    publish_components(server, key, suite, fields, &[("main", debs)]);
}

/// Publishes a signed suite with packages by component.
pub(crate) fn publish_components(
    server: &Server,
    key: &SignedSecretKey,
    suite: &str,
    fields: &str,
    components: &[(&str, &[Deb<'_>])],
) {
    let date = date(now() - 60);
    let mut text = format!("Origin: Debian\nCodename: {suite}\nDate: {date}\n{fields}SHA256:\n");
    for (component, debs) in components {
        let mut packages = String::new();
        for (name, version, extra, content) in *debs {
            let path = format!("pool/{component}/{name}_{version}_amd64.deb");
            packages += &format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{extra}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                content.len(),
                Digest::of(content)
            );
            server.put(&format!("/debian/{path}"), content.to_vec());
        }
        let (index, path) = (
            xz(packages.as_bytes()),
            format!("{component}/binary-amd64/Packages.xz"),
        );
        text += &format!(" {} {} {path}\n", Digest::of(&index), index.len());
        server.put(&format!("/debian/dists/{suite}/{path}"), index);
    }
    server.put(
        &format!("/debian/dists/{suite}/InRelease"),
        sign(&text, key),
    );
}
