//! Compares our ID blocks, byte for byte, with those that the `sev` crate publishes with its keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cocoon_measurements::snp::{
    id_block::{IdAuth, IdBlock, IdBlockError, IdKey, launch_identity},
    report::LaunchIdentity,
};

use crate::{crates::in_package, open};

fn published(name: &str) -> Option<Vec<u8>> {
    let path = in_package("sev", &format!("tests/measurement/{name}"));
    if path.is_none() {
        crate::skip("the sources of the crate sev are not in Cargo's registry");
    }
    open(&path?).ok()
}

fn key(name: &str) -> Option<IdKey> {
    let pem = String::from_utf8(published(name)?).unwrap();
    Some(IdKey::from_pem(&pem).unwrap())
}

/// Returns the ID block of the crate's own test.
fn block() -> IdBlock {
    let digest = "a14d638341e5674628fe1e02fbedebe5e5ab4faf1dd72d8966068e615bb99efd13d214b35c231715b38e263dc6059745";
    IdBlock {
        launch_digest: hex::decode(digest).unwrap().try_into().unwrap(),
        family_id: [0; 16],
        image_id: [0; 16],
        guest_svn: 0,
        policy: 0x3_0000,
    }
}

#[test]
fn block_and_key_digests_equal_the_published_ones() {
    assert_eq!(
        STANDARD.encode(block().to_bytes()),
        "oU1jg0HlZ0Yo/h4C++3r5eWrT68d1y2JZgaOYVu5nv0T0hSzXCMXFbOOJj3GBZdFAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAwAAAAAA"
    );
    let (Some(id_key), Some(author)) = (key("test_id_key.pem"), key("test_auth_key.pem")) else {
        return;
    };
    assert_eq!(
        STANDARD.encode(id_key.digest()),
        "WfssaG36T+9J84M5qndckAUcKNVzg93DuvO160sUlt87DbvcuuX+J2d6ZEggdz/i"
    );
    assert_eq!(
        STANDARD.encode(author.digest()),
        "7tgRafsMteDsNHlPEo/U4MSkb2fGWhrfqB/LJLzAiMJyNpt//D6ytq9qQoShs2xf"
    );
}

/// The published signatures are randomised, so theirs are copied into ours before all bytes are compared.
#[test]
fn authentication_equals_the_published_one_but_for_the_signatures() {
    let (Some(id_key), Some(author)) = (key("test_id_key.pem"), key("test_auth_key.pem")) else {
        return;
    };
    let theirs = published("test_auth_block.bin").unwrap();
    let auth = IdAuth::sign(&block(), &id_key, Some(&author));
    let mut ours = auth.as_bytes().to_vec();
    for (at, name) in [(0x40, "test_id_sig.bin"), (0x680, "test_auth_sig.bin")] {
        ours[at..at + 512].copy_from_slice(&published(name).unwrap());
    }
    assert_eq!(ours, theirs);
    let identity = Ok(LaunchIdentity {
        id_key_digest: id_key.digest(),
        author_key_digest: author.digest(),
    });
    let block = block().to_bytes();
    assert_eq!(launch_identity(&block, auth.as_bytes()), identity);
    // The published signatures, made by OpenSSL, verify as well.
    assert_eq!(launch_identity(&block, &theirs), identity);
    let mut other = block;
    other[84] ^= 1;
    assert_eq!(
        launch_identity(&other, &theirs),
        Err(IdBlockError::Signature { over: "ID block" })
    );
}
