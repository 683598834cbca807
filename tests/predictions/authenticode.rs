//! Compares Authenticode digests with those of `osslsigncode`.

use std::fs;
use std::path::Path;

use cocoon_measurements::pe::{authenticode_sha256, authenticode_sha384};

use crate::artefacts::Artefacts;
use crate::pe_image::{Magic, PeImage, certificates};
use crate::tools::{Packages, had, output, read};

/// DER of the object identifier 2.16.840.1.101.3.4.2.1; the next constant is that of 2.16.840.1.101.3.4.2.2.
const SHA256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const SHA384: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x02";

#[test]
fn the_kernels_authenticode_digest_equals_osslsigncodes() {
    let Some((artefacts, peer)) = had("osslsigncode", || {
        Ok((Artefacts::open()?, Packages::of_tests("osslsigncode")?))
    }) else {
        return;
    };
    let kernel = read(&artefacts.kernel).unwrap();
    let table = certificates(&kernel).expect("Debian signs its kernel");
    let theirs = compared(&peer, "the kernel", &kernel);

    // Debian's signature is not covered by the digest, neither in our computation nor in the peer's after removing it.
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("bare");
    let mut remove = peer.program("osslsigncode");
    remove
        .args(["remove-signature", "-in"])
        .arg(&artefacts.kernel)
        .arg("-out")
        .arg(&bare);
    output(&mut remove).unwrap();
    let bare = read(&bare).unwrap();
    assert_eq!(certificates(&bare), None);
    assert_eq!(bare.len(), table.start);
    assert_eq!(
        compared(&peer, "the kernel without its signature", &bare),
        theirs
    );
}

#[test]
fn the_authenticode_digest_of_odd_images_equals_osslsigncodes() {
    let Some((artefacts, peer)) = had("osslsigncode", || {
        Ok((Artefacts::open()?, Packages::of_tests("osslsigncode")?))
    }) else {
        return;
    };
    let kernel = read(&artefacts.kernel).unwrap();
    // A valid one, because the peer parses it.
    let table = &kernel[certificates(&kernel).expect("Debian signs its kernel")];
    let image = |magic, sections, backwards, trailing, certificates| {
        PeImage {
            magic,
            sections,
            backwards,
            trailing,
            certificates,
        }
        .build()
    };
    let mut digests = Vec::new();
    for (what, image) in [
        (
            "one section",
            image(Magic::Pe32Plus, &[0x200], false, 0, &[]),
        ),
        ("32 bits", image(Magic::Pe32, &[0x200], false, 0, &[])),
        (
            "odd sections",
            image(Magic::Pe32Plus, &[0x1f3, 1, 0x20c], false, 0, &[]),
        ),
        (
            "sections listed backwards",
            image(Magic::Pe32Plus, &[0x1f3, 1, 0x21c], true, 0, &[]),
        ),
        (
            "an empty section",
            image(Magic::Pe32Plus, &[0x200, 0, 0x100], false, 0, &[]),
        ),
        ("no section", image(Magic::Pe32Plus, &[], false, 0x28, &[])),
        (
            "trailing data",
            image(Magic::Pe32Plus, &[0x200], false, 0x38, &[]),
        ),
        (
            "odd section, trailing data to eight bytes",
            image(Magic::Pe32Plus, &[0x201], false, 0x37, &[]),
        ),
        (
            "certificates",
            image(Magic::Pe32Plus, &[0x200, 0x40], false, 0, table),
        ),
        (
            "trailing data and certificates",
            image(Magic::Pe32Plus, &[0x3c7], false, 0x39, table),
        ),
        (
            "32 bits, trailing data and certificates",
            image(Magic::Pe32, &[0x3c7], false, 0x39, table),
        ),
    ] {
        digests.push(compared(&peer, what, &image));
    }
    // Certificates are not hashed, but everything else is.
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 11);
}

/// The one known difference: Microsoft's specification and the peer pad a file to eight bytes, and edk2 does not.
/// Without padding, a file therefore has two digests, and firmware measures ours.
#[test]
fn a_file_of_odd_length_is_not_padded_as_osslsigncode_does() {
    let Some(peer) = had("osslsigncode", || Packages::of_tests("osslsigncode")) else {
        return;
    };
    for trailing in [1, 3, 7] {
        let mut image = PeImage {
            magic: Magic::Pe32Plus,
            sections: &[0x200],
            backwards: false,
            trailing,
            certificates: &[],
        }
        .build();
        let theirs = osslsigncode(&peer, &image, "sha384", SHA384);
        assert_ne!(authenticode_sha384(&image).unwrap()[..], theirs);
        image.resize(image.len().next_multiple_of(8), 0);
        assert_eq!(authenticode_sha384(&image).unwrap()[..], theirs);
        println!(
            "{trailing} trailing bytes: {} after padding only",
            hex::encode(theirs)
        );
    }
}

/// Asserts that both digests of `image` equal the peer's, and returns the SHA-384.
fn compared(peer: &Packages, what: &str, image: &[u8]) -> [u8; 48] {
    let ours = authenticode_sha384(image).unwrap();
    assert_eq!(
        ours[..],
        osslsigncode(peer, image, "sha384", SHA384),
        "{what}"
    );
    let ours_256 = authenticode_sha256(image).unwrap();
    assert_eq!(
        ours_256[..],
        osslsigncode(peer, image, "sha256", SHA256),
        "{what}"
    );
    println!("{what}, {} bytes: {}", image.len(), hex::encode(ours));
    ours
}

/// Returns the digest that `osslsigncode` would sign.
fn osslsigncode(peer: &Packages, image: &[u8], hash: &str, identifier: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("image"), folder.path().join("data"));
    fs::write(&file, image).unwrap();
    let mut extract = peer.program("osslsigncode");
    extract
        .args(["extract-data", "-h", hash, "-in"])
        .arg(&file)
        .arg("-out")
        .arg(&data);
    output(&mut extract).unwrap();
    digest_of(&data, identifier)
}

/// Returns the digest in a PKCS#7 with SpcIndirectDataContent and no signer: algorithm, octet string, empty set.
fn digest_of(pkcs7: &Path, identifier: &[u8]) -> Vec<u8> {
    let der = read(pkcs7).unwrap();
    let at = der
        .windows(identifier.len())
        .rposition(|part| part == identifier);
    let rest = &der[at.expect("the algorithm asked for") + identifier.len()..];
    let rest = rest
        .strip_prefix(b"\x05\0\x04")
        .expect("no parameters, an octet string");
    let (length, rest) = rest.split_first().expect("a length");
    let (digest, rest) = rest.split_at(usize::from(*length));
    assert_eq!(rest, b"\x31\0", "something else follows the digest");
    digest.to_owned()
}
