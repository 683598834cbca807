//! Signed ID blocks, and their refusal after a change in any field.

use p384::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::*;

const OWNER: u8 = 0x11;
const AUTHOR: u8 = 0x22;

fn block() -> IdBlock {
    IdBlock {
        launch_digest: [1; 48],
        family_id: [2; 16],
        image_id: [3; 16],
        guest_svn: 4,
        policy: 0x3_0000,
    }
}

/// Returns the PEM file of the private key whose scalar consists of 48 times this byte.
fn pem(byte: u8) -> String {
    let key = SigningKey::from_slice(&[byte; 48]).unwrap();
    key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
}

fn key(byte: u8) -> IdKey {
    IdKey::from_pem(&pem(byte)).unwrap()
}

#[test]
fn the_block_has_the_abis_layout() {
    let mut expected = vec![1; 48];
    expected.extend([2; 16]);
    expected.extend([3; 16]);
    expected.extend([1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    assert_eq!(block().to_bytes()[..], expected);
}

#[test]
fn cocoon_snp_9() {
    let (owner, author) = (key(OWNER), key(AUTHOR));
    for by in [None, Some(&author)] {
        let auth = IdAuth::sign(&block(), &owner, by);
        assert_eq!(auth, IdAuth::sign(&block(), &owner, by));
        assert_eq!(
            launch_identity(&block().to_bytes(), auth.as_bytes()),
            Ok(LaunchIdentity {
                id_key_digest: owner.digest(),
                author_key_digest: by.map_or([0; 48], IdKey::digest),
            })
        );
    }
    assert_ne!(owner.digest(), author.digest());
    assert_eq!(format!("{owner:?}"), "IdKey(…)");
}

#[test]
fn every_changed_byte_is_refused_for_its_reason() {
    let auth = IdAuth::sign(&block(), &key(OWNER), Some(&key(AUTHOR)));
    let with = |at: usize| {
        let mut bytes = auth.as_bytes().to_vec();
        bytes[at] ^= 0x40;
        launch_identity(&block().to_bytes(), &bytes).unwrap_err()
    };
    let field = |field, offset| IdBlockError::Field { field, offset };
    for (at, error) in [
        (0, field("the ID key's algorithm", 0)),
        (4, field("the author key's algorithm", 4)),
        (8, field("reserved", 8)),
        (0x644, field("reserved", 0x644)),
        (0xfff, field("reserved", 0xc84)),
        (0x40, IdBlockError::Signature { over: "ID block" }),
        (0x40 + 48, field("a signature", 0x40)),
        (0x43f, field("a public key", 0x240)),
        (0x240, field("a public key", 0x240)),
        (0x244, field("a public key", 0x240)),
        (0x680, IdBlockError::Signature { over: "ID key" }),
        (0x880, field("a public key", 0x880)),
    ] {
        assert_eq!(with(at), error, "offset {at:#x}");
    }
    for at in 0..ID_BLOCK_LENGTH {
        let mut other = block().to_bytes();
        other[at] ^= 1;
        assert_eq!(
            launch_identity(&other, auth.as_bytes()),
            Err(IdBlockError::Signature { over: "ID block" })
        );
    }
    let mut half = IdAuth::sign(&block(), &key(OWNER), None)
        .as_bytes()
        .to_vec();
    half[0x880] = 2;
    assert_eq!(
        launch_identity(&block().to_bytes(), &half),
        Err(field("the author's part without an author", 0x680))
    );
}

#[test]
fn other_lengths_and_other_keys_are_refused() {
    let length = |structure, length, expected| IdBlockError::Length {
        structure,
        length,
        expected,
    };
    assert_eq!(
        launch_identity(&[0; 95], &[]),
        Err(length("ID block", 95, 96))
    );
    assert_eq!(
        launch_identity(&[0; 96], &[0; 4097]),
        Err(length("ID authentication", 4097, 4096))
    );
    let cut = pem(OWNER).replace("MIG2", "MIG3");
    assert_ne!(cut, pem(OWNER));
    assert_eq!(IdKey::from_pem(&cut).unwrap_err(), IdBlockError::Key);
}
