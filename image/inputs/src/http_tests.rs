//! Tests of resumed downloads: a partial file is discarded only if the server has another file.

use std::fs;

use crate::report::{Reporter as _, Silent};
use crate::testing::{Page, Server};

use super::Http;

const PATH: &str = "/debian/file";
const BODY: &[u8] = b"0123456789";

/// Resumes a download of [`BODY`] after its first four bytes. Returns the result, the bytes then stored, and the
/// requests made.
fn resumed(page: impl Into<Page>) -> (Result<(), String>, Vec<u8>, Vec<String>) {
    let server = Server::start([(PATH.to_owned(), page.into())]);
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    fs::write(&part, &BODY[..4]).unwrap();
    let task = Silent.start("file", Some(BODY.len() as u64));
    let url = format!("{}/file", server.url);
    let done = Http::impatient().download(&url, BODY.len() as u64, &part, &*task);
    let said = done.map_err(|error| error.to_string().replace(&url, "URL"));
    (said, fs::read(&part).unwrap(), server.hits())
}

fn refusing(status: u16) -> Page {
    Page {
        status: Some(status),
        ..Page::from(BODY.to_vec())
    }
}

#[test]
fn a_server_that_refuses_for_now_takes_nothing_away() {
    let from_there = "/debian/file from 4".to_owned();
    for (status, attempts) in [(408, 4), (429, 4), (500, 4), (503, 4), (403, 1), (404, 1)] {
        let (said, part, hits) = resumed(refusing(status));
        assert_eq!(said, Err(format!("URL: HTTP status {status}")));
        assert_eq!(part, &BODY[..4], "{status}");
        assert_eq!(hits, vec![from_there.clone(); attempts], "{status}");
    }
    let (said, part, hits) = resumed(BODY.to_vec());
    assert_eq!((said, part), (Ok(()), BODY.to_vec()));
    assert_eq!(hits, [from_there]);
}

#[test]
fn another_file_is_fetched_from_its_start() {
    // The server's file has no bytes after the first four.
    let (said, part, hits) = resumed(refusing(416));
    assert_eq!(said, Err("URL: HTTP status 416".to_owned()));
    assert_eq!(part, b"");
    assert_eq!(hits, ["/debian/file from 4", PATH]);
    // The range is a part of a longer file.
    let (said, part, hits) = resumed(b"another file, longer".to_vec());
    let expected = "URL: the server offers 20 bytes, expected 10";
    assert_eq!(said, Err(expected.to_owned()));
    assert_eq!(part, b"");
    assert_eq!(hits, ["/debian/file from 4", PATH]);
    // The server ignores ranges.
    let whole = Page {
        ignores_ranges: true,
        ..Page::from(b"abcdefghij".to_vec())
    };
    let (said, part, hits) = resumed(whole);
    assert_eq!((said, part), (Ok(()), b"abcdefghij".to_vec()));
    assert_eq!(hits, ["/debian/file from 4"]);
}
