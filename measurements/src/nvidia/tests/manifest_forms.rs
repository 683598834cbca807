//! Malformed reference manifests: unsupported XML, signatures of another shape, invalid attributes.

use super::manifests::{cause, changed, edited};
use crate::nvidia::simulated::manifest::Resource;

#[test]
fn cocoon_gpu_7() {
    let unread = "the reference manifest cannot be read: XML ";
    for (what, inserted) in [
        ("holds a comment", "<!-- -->"),
        ("holds a CDATA section", "<![CDATA[ ]]>"),
        ("holds a document type", "<!DOCTYPE x>"),
        (
            "holds a declaration or processing instruction",
            "<?xml version=\"1.0\"?>",
        ),
        ("holds an entity or character reference", "&amp;"),
        ("holds an entity or character reference", "&#x20;"),
        (
            "holds an attribute of the xml: namespace",
            "<a xml:lang=\"en\"/>",
        ),
        (
            "holds an element that takes a namespace back",
            "<a xmlns=\"\"/>",
        ),
        ("is not well-formed: ", "<a>"),
    ] {
        for anchor in ["    <ns0:Payload", "<ds:SignedInfo>"] {
            let case = edited(|text| text.replacen(anchor, &format!("{inserted}{anchor}"), 1));
            let found = cause(&case, "gpu.rim");
            assert!(
                found.starts_with(&format!("{unread}{what}")),
                "{inserted}: {found}"
            );
        }
    }
    let case = edited(|text| format!("\u{feff}{text}"));
    assert!(cause(&case, "gpu.rim").contains("a byte order mark at offset 0x0"));
    let case = edited(|text| format!("{text}{}", " ".repeat(64 << 10)));
    assert!(cause(&case, "gpu.rim").ends_with("bytes, more than 65536"));
    let many: String = (0..20)
        .map(|n| format!(" xmlns:x{n}=\"urn:{n}\""))
        .collect();
    let case = edited(|text| text.replacen(" corpus", &format!("{many} corpus"), 1));
    assert!(
        cause(&case, "gpu.rim").ends_with("namespaces, more than 16"),
        "{}",
        cause(&case, "gpu.rim")
    );

    let refused = "the reference manifest's signature is refused: ";
    for (from, to, what) in [
        (
            "2006/12/xml-c14n11\"></ds:Can",
            "2001/10/xml-exc-c14n#\"></ds:Can",
            "Canonical XML 1.1 expected",
        ),
        (
            "xmldsig-more#ecdsa-sha384",
            "xmldsig-more#ecdsa-sha256",
            "ECDSA with SHA-384 expected",
        ),
        (
            "URI=\"\"",
            "URI=\"#a\"",
            "a reference to the whole document expected",
        ),
        (
            "URI=\"\"",
            "URI=\"\" Id=\"a\"",
            "a reference to the whole document expected",
        ),
        (
            "xmldsig#enveloped-signature",
            "xmldsig#base64",
            "the transform for an enveloped signature expected",
        ),
        (
            "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"></ds:Transform>",
            "",
            "two elements Transform expected",
        ),
        (
            "xml-c14n11\"></ds:Transform>",
            "xml-c14n11\">.</ds:Transform>",
            "nothing expected",
        ),
        ("xmldsig-more#sha384", "xmlenc#sha256", "SHA-384 expected"),
        (
            "<ds:DigestValue>",
            "<ds:DigestValue>AA",
            "48 bytes of Base64 expected",
        ),
        (
            "<ds:SignatureValue>",
            "<ds:SignatureValue>*",
            "96 bytes of Base64 expected",
        ),
        (
            "<ds:SignatureValue>",
            "<ds:SignatureValue Id=\"a\">",
            "an element without attributes expected",
        ),
        (
            "<ds:SignedInfo>",
            "<ds:SignedInfo Id=\"a\">",
            "an element without attributes expected",
        ),
        (
            "<ds:KeyInfo>",
            "<ds:Object></ds:Object><ds:KeyInfo>",
            "SignedInfo, SignatureValue and KeyInfo expected",
        ),
        (
            "<ds:X509Data>",
            "<ds:KeyName>k</ds:KeyName><ds:X509Data>",
            "X509Data expected",
        ),
        (
            "<ds:X509Data>",
            "<ds:X509Data><ds:X509Certificate>AAAA</ds:X509Certificate>",
            "four elements X509Certificate expected",
        ),
    ] {
        let found = cause(&edited(|text| text.replacen(from, to, 1)), "gpu.rim");
        assert!(
            found.starts_with(refused) && found.ends_with(what),
            "{to}: {found}"
        );
    }
}

/// A second signature, or one in another place, would make it ambiguous what is signed.
#[test]
fn a_manifest_has_one_signature_at_its_end() {
    let place = |edit: fn(&str, &str) -> String| {
        let case = edited(|text| {
            let (begin, end) = (
                text.find("<ds:Signature ").unwrap(),
                text.find("</SoftwareIdentity>").unwrap(),
            );
            edit(text, &text[begin..end])
        });
        let found = cause(&case, "gpu.rim");
        found.split(": ").nth(1).unwrap().to_owned()
    };
    let refusal = |count| {
        format!("the manifest has {count} signatures, or its signature is not the last thing in it")
    };
    assert_eq!(
        place(|text, signature| text.replace(signature, "")),
        refusal(0)
    );
    assert_eq!(
        place(|text, signature| text.replace(signature, &signature.repeat(2))),
        refusal(2)
    );
    assert_eq!(
        place(|text, signature| {
            let moved = text.replace(signature, "");
            moved.replace("    <ns0:Payload", &format!("{signature}<ns0:Payload"))
        }),
        refusal(1)
    );
    assert_eq!(
        place(|text, signature| text.replace(signature, &format!("{signature} "))),
        refusal(1)
    );
    assert_eq!(
        place(|text, signature| text.replace(signature, &format!("<ns0:a>{signature}</ns0:a>"))),
        refusal(1),
        "a wrapped signature"
    );
}

/// Resources of another type are skipped, as NVIDIA's own verifiers do. A resource without a type is refused.
#[test]
fn resources_that_are_no_measurements_are_left_out() {
    let kinds = |kind: &str, which: fn(&Resource) -> bool| {
        changed(|parts| {
            let resources = parts.resources.iter_mut().filter(|r| which(r));
            resources.for_each(|r| kind.clone_into(&mut r.kind));
        })
    };
    let inactive = |r: &Resource| r.active == "False";
    assert_eq!(kinds("Configuration", inactive).failures(), []);
    // This one would be expected: it is the first of the driver's four.
    let first = kinds("measurement", |r| r.index == "1");
    assert_eq!(first.failures(), []);
    let rows = first.judge().checks;
    let found = Some("all 6 as expected".to_owned());
    assert!(rows.iter().any(|row| row.found == found), "{rows:#?}");
    assert_eq!(
        cause(&kinds("Configuration", |_| true), "gpu.rim.driver"),
        "reference manifest: no measurement is active, so it would accept anything"
    );
    let found = cause(&kinds("", inactive), "gpu.rim.driver");
    assert!(
        found.starts_with("reference manifest: type is  at offset 0x")
            && found.ends_with(", a word, in an element Resource expected"),
        "{found}"
    );
}

/// Attributes must be valid even in a signed manifest.
#[test]
fn each_attribute_of_a_measurement_has_one_meaning() {
    type Edit = fn(&mut Resource);
    let changes: [(Edit, &str); 9] = [
        (|r| "64".clone_into(&mut r.index), "index is 64"),
        (|r| "01".clone_into(&mut r.index), "index is 01"),
        (|r| "true".clone_into(&mut r.active), "active is true"),
        (|r| "64".clone_into(&mut r.size), "size is 64"),
        (
            |r| r.alternatives = Some("2".to_owned()),
            "alternatives is 2",
        ),
        (
            |r| r.alternatives = Some("0".to_owned()),
            "alternatives is 0",
        ),
        (
            |r| r.digests = vec!["ab".repeat(47)],
            "Hash is missing or of another form",
        ),
        (
            |r| r.digests = vec!["AB".repeat(48)],
            "Hash is missing or of another form",
        ),
        (
            |r| r.digests = vec!["ab".repeat(48); 33],
            "alternatives is 33",
        ),
    ];
    for (edit, what) in changes {
        let found = cause(
            &changed(|parts| edit(&mut parts.resources[1])),
            "gpu.rim.driver",
        );
        assert!(
            found.starts_with(&format!("reference manifest: {what} at offset ")),
            "{what}: {found}"
        );
    }
    let found = cause(
        &changed(|parts| "2".clone_into(&mut parts.resources[1].index)),
        "gpu.rim.driver",
    );
    assert_eq!(found, "reference manifest: measurement 2 stands twice");
    let found = cause(
        &changed(|parts| {
            parts
                .resources
                .iter_mut()
                .for_each(|r| "False".clone_into(&mut r.active))
        }),
        "gpu.rim.driver",
    );
    assert_eq!(
        found,
        "reference manifest: no measurement is active, so it would accept anything"
    );
}
