//! Certificate chains and roots, with one fault at a time and otherwise properly issued.

use x509_cert::{
    der::{Decode as _, Encode as _, asn1::BitString, oid::ObjectIdentifier},
    ext::Extension,
};

use super::{Case, GPU, NOW, NVIDIA, parts};
use crate::{
    nvidia::simulated::{
        Identity, Key, Role, Template,
        pki::{self, pem},
    },
    roots::RootClass,
};

const LEAF: &str = "CN=GH100 A01 GSP FMC LF,O=NVIDIA Corporation,C=US";
const FIRMWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");

/// Returns the good chain, from the leaf to the root.
fn chain() -> [Identity; 5] {
    let [root, line, provisioner] = NVIDIA.devices.clone();
    [
        GPU.attestation.clone(),
        GPU.identity.clone(),
        provisioner,
        line,
        root,
    ]
}

/// Returns the good case with this chain, and with a report signed by its leaf.
fn under(chain: &[Identity]) -> Case {
    Case {
        report: parts().signed(&chain[0].key),
        chain: pem(&chain.iter().collect::<Vec<_>>()).unwrap(),
        ..Case::good()
    }
}

/// Returns the good case with the certificate at `place` issued anew from `template`, for the same key.
fn with(place: usize, template: Template) -> Case {
    let mut chain = chain();
    let issuer = chain[place + 1].clone();
    chain[place] = template.issued(chain[place].key.clone(), &issuer).unwrap();
    under(&chain)
}

/// Returns a template with the subject and extensions of the certificate at `place`.
fn template(place: usize) -> Template {
    let body = chain()[place].parsed().unwrap().tbs_certificate;
    Template {
        subject: body.subject.to_string(),
        validity: (NOW - 1000, NOW + 1000),
        extensions: Ok(body.extensions.unwrap()),
    }
}

#[test]
fn cocoon_gpu_3() {
    let names = [
        "the certificate of the GPU's attestation key",
        "the certificate of the GPU's identity",
        "the certificate of NVIDIA's provisioner",
        "the certificate of NVIDIA's product line",
    ];
    for (place, name) in names.into_iter().enumerate() {
        assert_eq!(
            with(place, template(place)).failures(),
            missing_revocation(place),
            "{name}"
        );
        for (validity, reason) in [
            (
                (NOW + 1, NOW + 2),
                format!(
                    "{name} is valid from {} (Unix time), and it is {NOW}: check the clock",
                    NOW + 1
                ),
            ),
            (
                (NOW - 2, NOW - 1),
                format!(
                    "{name} was valid until {} (Unix time), and it is {NOW}: fetch a newer one",
                    NOW - 1
                ),
            ),
        ] {
            assert_eq!(
                with(place, template(place).valid(validity)).refusal(),
                ("gpu.chain", reason)
            );
        }
        let oid = ObjectIdentifier::new_unwrap("1.2.3.4");
        let reason =
            format!("{name} has the critical extension 1.2.3.4, which this verifier does not know");
        let case = with(place, template(place).with(oid, true, vec![5, 0]));
        assert_eq!(case.refusal(), ("gpu.chain", reason));

        // Which of two extensions counts depends on the reader, so the certificate is refused.
        let one = || template(place).with(oid, false, vec![5, 0]);
        assert_eq!(with(place, one()).failures(), missing_revocation(place));
        let reason = format!("{name} has the extension 1.2.3.4 twice");
        let case = with(place, one().with(oid, false, vec![5, 0]));
        assert_eq!(case.refusal(), ("gpu.chain", reason));

        let mut other = chain();
        let stranger = Key::from_seed("stranger").unwrap();
        other[place].certificate =
            pki::sign(other[place].parsed().unwrap().tbs_certificate, &stranger).unwrap();
        let reason = format!("the signature on {name} does not hold");
        assert_eq!(under(&other).refusal(), ("gpu.chain", reason));

        let mut other = chain();
        let mut body = other[place].parsed().unwrap().tbs_certificate;
        body.issuer = "CN=Another".parse().unwrap();
        other[place].certificate = pki::sign(body, &chain()[place + 1].key).unwrap();
        let reason = format!("{name} names another issuer (CN=Another)");
        assert_eq!(under(&other).refusal(), ("gpu.chain", reason));
    }
    for (place, name) in names.into_iter().enumerate().skip(1) {
        let reason = format!("{name} is not an authority for this chain");
        let subject = template(place).subject;
        let signer = Template::new(&subject, Role::Signer);
        assert_eq!(with(place, signer).refusal(), ("gpu.chain", reason.clone()));
        if place > 1 {
            let short = Template::new(
                &subject,
                Role::Authority(Some(u8::try_from(place).unwrap() - 2)),
            );
            assert_eq!(
                with(place, short).refusal(),
                ("gpu.chain", reason),
                "too short a path"
            );
        }
    }
    let authority = Template::new(LEAF, Role::Authority(None));
    let reason = format!("{} is not a certificate that may sign this", names[0]);
    assert_eq!(with(0, authority).refusal(), ("gpu.chain", reason.clone()));
    // Constraints that cannot be read count as an authority's.
    let constraints = ObjectIdentifier::new_unwrap("2.5.29.19");
    let mut unread = template(0);
    let kept = |extension: &Extension| extension.extn_id != constraints;
    unread.extensions.as_mut().unwrap().retain(kept);
    let unread = unread.with(constraints, true, vec![0x30, 0x80]);
    assert_eq!(with(0, unread).refusal(), ("gpu.chain", reason));
}

/// Returns the expected failure for a certificate issued anew: its new serial number has no OCSP response here. The
/// attestation key's certificate needs none.
fn missing_revocation(place: usize) -> Vec<crate::verdict::Check> {
    let case = with(place, template(place));
    let failed = case.failures();
    assert!(
        failed.iter().all(|row| row.id == "gpu.revocation"),
        "{failed:#?}"
    );
    assert!(failed.len() <= 1);
    failed
}

#[test]
fn another_number_of_certificates_is_no_chain() {
    let all = chain();
    for count in [0, 1, 4] {
        let reason = format!("the GPU's certificate chain has {count} certificates, 5 expected");
        let case = Case {
            chain: pem(&all.iter().take(count).collect::<Vec<_>>()).unwrap(),
            ..Case::good()
        };
        assert_eq!(case.refusal(), ("gpu.chain", reason));
    }
    let case = Case {
        chain: [Case::good().chain, NVIDIA.chain(&GPU).unwrap()].concat(),
        ..Case::good()
    };
    let reason = "the GPU's certificate chain has 10 certificates, 5 expected";
    assert_eq!(case.refusal(), ("gpu.chain", reason.to_owned()));
    let padded = Case {
        chain: format!("{}\0\0\0", Case::good().chain),
        ..Case::good()
    };
    assert_eq!(padded.failures(), [], "the driver's buffer ends in zeroes");
}

/// NVIDIA signs only with ECDSA on P-384 and SHA-384, so other algorithms are refused.
#[test]
fn another_algorithm_is_refused() {
    let mut chain = chain();
    let mut certificate = chain[0].parsed().unwrap();
    // ECDSA with SHA-256.
    certificate.signature_algorithm.oid = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
    certificate.tbs_certificate.signature = certificate.signature_algorithm.clone();
    let signature = GPU
        .identity
        .key
        .sign_der(&certificate.tbs_certificate.to_der().unwrap());
    certificate.signature = BitString::from_bytes(&signature).unwrap();
    chain[0].certificate = certificate.to_der().unwrap();
    let reason = "the certificate of the GPU's attestation key has a signature of another kind than ECDSA on P-384 with SHA-384";
    assert_eq!(under(&chain).refusal(), ("gpu.chain", reason.to_owned()));
}

#[test]
fn cocoon_gpu_4() {
    let case = Case::reporting(|parts| parts.field(20)[47] ^= 1);
    let row = case.failure();
    assert_eq!(row.id, "gpu.firmware_id");
    assert_eq!(row.expected, Some(hex::encode(GPU.firmware_id)));
    assert_eq!(
        row.cause.as_deref(),
        Some("the certificate is of another firmware than the one that made the report")
    );
    let early = Case::reporting(|parts| parts.opaque.retain(|(id, _)| *id != 20));
    assert_eq!(
        early.failures(),
        [],
        "reports of early firmware do not repeat it"
    );

    let missing = with(0, Template::new(LEAF, Role::Signer));
    let reason = "the certificate of the GPU's attestation key does not name its firmware (extension 2.23.133.5.4.1)";
    assert_eq!(missing.refusal(), ("gpu.firmware_id", reason.to_owned()));

    let named = |edit: fn(&mut Vec<u8>)| {
        let leaf = GPU.attestation.parsed().unwrap().tbs_certificate;
        let found = leaf.extensions.unwrap();
        let own = found
            .iter()
            .find(|extension| extension.extn_id == FIRMWARE_ID)
            .unwrap();
        let mut value = own.extn_value.as_bytes().to_vec();
        edit(&mut value);
        let leaf = Template::new(LEAF, Role::Signer).with(FIRMWARE_ID, false, value);
        with(0, leaf)
    };
    let value = |edit| named(edit).refusal();
    // Changes the last byte of the object identifier, which makes it SHA-512.
    let (id, cause) = value(|value| {
        let at = value.len() - 51;
        value[at] = 3;
    });
    assert_eq!(id, "gpu.firmware_id");
    assert!(
        cause.ends_with("is not SHA-384 but 2.16.840.1.101.3.4.2.3"),
        "{cause}"
    );
    let other_device = |value: &mut Vec<u8>| {
        let at = value.len() - 64;
        value[at] ^= 1;
    };
    let reason = "the certificate of the GPU's attestation key names another device identity than the key that signed it";
    assert_eq!(value(other_device), ("gpu.firmware_id", reason.to_owned()));
    // The same holds for early firmware, whose reports do not repeat the digest.
    let mut early = parts();
    early.opaque.retain(|(id, _)| *id != 20);
    let early = Case {
        report: early.signed(&GPU.attestation.key),
        ..named(other_device)
    };
    assert_eq!(early.refusal(), ("gpu.firmware_id", reason.to_owned()));
    let (_, cause) = value(|value| value.truncate(20));
    assert!(cause.contains("cannot be read"), "{cause}");
}

#[test]
fn cocoon_gpu_14() {
    let good = Case::good();
    assert_eq!(good.judge().root, Some(RootClass::Development));
    let [devices, manifests] = NVIDIA.roots().try_into().unwrap();
    for (named, title) in [
        (vec![manifests.clone()], "root of the GPU's certificates"),
        (
            vec![devices.clone()],
            "root of the reference manifest's certificates",
        ),
        (vec![], "root of the GPU's certificates"),
    ] {
        let mut case = good.clone();
        case.policy.development_roots = named;
        let row = case.failures().remove(0);
        assert_eq!((row.id, &*row.title), ("gpu.root", title));
        assert!(
            row.cause
                .unwrap()
                .starts_with("development root not named: ")
        );
    }
    // Without the extension of development roots, it is an untrusted root.
    let plain = Template::new(
        "O=NVIDIA,CN=Simulated Device Identity CA",
        Role::Authority(None),
    )
    .self_signed(NVIDIA.devices[0].key.clone())
    .unwrap();
    let mut other = chain();
    other[4] = plain.clone();
    let mut case = under(&other);
    case.policy.development_roots.push(plain.certificate);
    let row = case.failure();
    assert_eq!(row.id, "gpu.root");
    assert_eq!(
        row.cause.as_deref(),
        Some("the chain ends in a root that is not NVIDIA's: anybody can make such a chain")
    );
    assert!(row.expected.unwrap().contains("e108f61de3fce526"));
    // A root that the policy names counts only within its dates.
    let late = Template::new("O=NVIDIA,CN=Simulated Device Identity CA", Role::Root)
        .valid((NOW - 2, NOW - 1))
        .self_signed(NVIDIA.devices[0].key.clone())
        .unwrap();
    let mut other = chain();
    other[4] = late.clone();
    let mut case = under(&other);
    case.policy.development_roots.push(late.certificate);
    let (id, cause) = case.refusal();
    assert_eq!(id, "gpu.root");
    assert!(
        cause.starts_with("the development root was valid until"),
        "{cause}"
    );
}

/// Blackwell's attestation keys are recognised by the chip's name and by the extension that names their firmware.
#[test]
fn certificates_of_blackwell_are_refused_by_name() {
    let refused = |template: Template| {
        let row = with(0, template).failure();
        assert_eq!(
            (row.id, row.expected.as_deref(), row.cause.as_deref()),
            (
                "gpu.architecture",
                Some("GH100"),
                Some(
                    "unsupported: this verifier understands the evidence of Hopper (H100, H200) alone"
                )
            )
        );
        row.found.unwrap()
    };
    let named = |chip: &str| Template {
        subject: LEAF.replace("GH100", chip),
        ..template(0)
    };
    let tcb_info = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");
    let other_form = |template: Template| template.with(tcb_info, false, vec![0x30, 0]);
    assert_eq!(refused(named("GB100")), "GB100 (Blackwell)");
    assert_eq!(refused(other_form(named("GB202"))), "GB202 (Blackwell)");
    assert_eq!(refused(named("GA100")), "GA100");
    assert_eq!(
        refused(other_form(template(0))),
        "GH100 by name, and a certificate in Blackwell's form (extension 2.23.133.5.4.1.1)"
    );
    let nameless = Template {
        subject: "O=NVIDIA Corporation".to_owned(),
        ..template(0)
    };
    assert_eq!(refused(nameless), "no chip that it names");
}

/// The cause of a refusal includes the decoder's error.
#[test]
fn bytes_that_are_no_certificate_are_named() {
    let case = Case {
        chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ..Case::good()
    };
    let (id, cause) = case.refusal();
    assert_eq!(id, "gpu.chain");
    assert!(
        cause.starts_with("the GPU's certificate chain is not X.509 in DER: "),
        "{cause}"
    );
    assert!(x509_cert::Certificate::from_der(&GPU.attestation.certificate).is_ok());
}
