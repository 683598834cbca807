//! OCSP responses: status, subject, signer and dates.

use x509_cert::der::{Encode as _, oid::ObjectIdentifier};
use x509_ocsp::OcspResponse;

use super::{Case, GPU, NOW, NVIDIA, TIMES};
use crate::{
    nvidia::{
        ocsp::{MAX_OCSP, OcspError},
        simulated::{
            Identity, Key, Role, Status, Template, Times,
            status::{data, responder, response, signed},
        },
    },
    verdict::Outcome,
};

/// Returns the good case with another response about the revocable certificate number `place`.
fn with(place: usize, response: Vec<u8>) -> Case {
    let mut case = Case::good();
    case.ocsp[place] = response;
    case
}

fn pair(place: usize) -> (&'static Identity, &'static Identity) {
    NVIDIA.revocable(&GPU)[place]
}

const MISSING: &str = "no OCSP response about this certificate was presented: a revoked one could not be told from a good one";

#[test]
fn cocoon_gpu_11() {
    let names = [
        "GH100 A01 GSP BROM",
        "Simulated GH100 Provisioner ICA 1",
        "Simulated GH100 Identity",
        "Simulated HCC RIM L4 Signer",
        "Simulated Reference Value L3 GH100 001",
        "Simulated Reference Value GH100 CA",
    ];
    for (place, name) in names.into_iter().enumerate() {
        let (subject, issuer) = pair(place);
        let judged = |status, times| {
            let row = with(place, response(subject, issuer, status, times).unwrap()).failure();
            assert_eq!(
                (row.id, row.title),
                ("gpu.revocation", format!("revocation of {name}"))
            );
            row.cause.unwrap()
        };
        assert_eq!(
            judged(Status::Revoked(NOW - 5), TIMES),
            format!(
                "NVIDIA revoked it at {} (Unix time), for the reason KeyCompromise",
                NOW - 5
            )
        );
        assert_eq!(
            judged(Status::Unknown, TIMES),
            "NVIDIA does not know this certificate"
        );
        let times = |this_update, next_update| Times {
            this_update,
            next_update,
        };
        assert_eq!(
            judged(Status::Good, times(NOW - 9, Some(NOW - 1))),
            format!(
                "the OCSP response was valid until {} (Unix time), and it is {NOW}: fetch a newer one",
                NOW - 1
            )
        );
        assert_eq!(
            judged(Status::Good, times(NOW + 1, Some(NOW + 9))),
            format!(
                "the OCSP response is valid from {} (Unix time), and it is {NOW}: check the clock",
                NOW + 1
            )
        );
        let week = 7 * 86_400;
        for next in [Some(NOW + 9), None] {
            assert_eq!(
                judged(Status::Good, times(NOW - week - 1, next)),
                "stale OCSP response: it is still in its time, but older than this client accepts, and may hide a newer revocation"
            );
        }
        let mut case = Case::good();
        case.ocsp.remove(place);
        assert_eq!(case.refusal(), ("gpu.revocation", MISSING.to_owned()));
        case.policy.accept_missing_gpu_revocation = true;
        assert_eq!(case.failures(), []);
        let noted = |row: &&crate::verdict::Check| {
            row.id == "gpu.revocation" && row.outcome == Outcome::Note
        };
        assert_eq!(case.judge().checks.iter().filter(noted).count(), 1);
    }
}

/// A policy that accepts missing responses also accepts outdated ones, but neither bad news nor a stranger's signature.
#[test]
fn only_what_could_be_withheld_is_forgiven() {
    let (subject, issuer) = pair(0);
    let times = |this_update, next_update| Times {
        this_update,
        next_update: Some(next_update),
    };
    let of = |status, times| response(subject, issuer, status, times).unwrap();
    let judged = |responses: &[&Vec<u8>]| {
        let mut case = Case::good();
        case.ocsp
            .splice(..1, responses.iter().map(|der| der.to_vec()));
        let strict = case.judge();
        case.policy.accept_missing_gpu_revocation = true;
        let row = |row: &crate::verdict::Check| {
            row.id == "gpu.revocation" && row.outcome != Outcome::Pass
        };
        let rows: Vec<_> = case.judge().checks.into_iter().filter(row).collect();
        let [row] = &rows[..] else {
            panic!("one row: {rows:?}")
        };
        (strict.lapsed, row.outcome)
    };
    let week = 7 * 86_400;
    let (over, stale) = (times(NOW - 9, NOW - 1), times(NOW - week - 1, NOW + 9));
    let ended = of(Status::Good, over);
    for forgiven in [&ended, &of(Status::Good, stale), &of(Status::Unknown, over)] {
        assert_eq!(judged(&[forgiven]), (true, Outcome::Note));
    }
    let stranger = Key::from_seed("stranger").unwrap();
    let forged = data(subject, issuer, Status::Good, TIMES).unwrap();
    let forged = signed(forged, &stranger, &[]).unwrap();
    let bad = [
        &of(Status::Revoked(NOW), TIMES),
        &of(Status::Revoked(NOW - 9), over),
        &of(Status::Unknown, TIMES),
        &of(Status::Good, times(NOW + 1, NOW + 9)),
        &forged,
    ];
    for bad in bad {
        assert_eq!(judged(&[bad]), (false, Outcome::Fail));
        // The order makes no difference.
        assert_eq!(judged(&[bad, &ended]), (false, Outcome::Fail));
        assert_eq!(judged(&[&ended, bad]), (false, Outcome::Fail));
    }
}

/// Without `nextUpdate`, newer responses are always available, so that the age alone decides.
#[test]
fn a_response_without_an_end_counts_until_it_is_too_old() {
    let (subject, issuer) = pair(0);
    let judged = |status, made| {
        let open = Times {
            this_update: made,
            next_update: None,
        };
        with(0, response(subject, issuer, status, open).unwrap())
    };
    let week = 7 * 86_400;
    for (age, found) in [
        (0, "good, said 0 hours ago, at 1800000000"),
        (week, "good, said 168 hours ago, at 1799395200"),
    ] {
        let case = judged(Status::Good, NOW - age);
        assert_eq!(case.failures(), []);
        let found = format!("{found}; newer ones are to be had at any time");
        let rows = case.judge().checks;
        assert!(
            rows.iter().any(|row| row.found.as_ref() == Some(&found)),
            "{rows:?}"
        );
    }
    assert!(judged(Status::Good, NOW - week - 1).judge().lapsed);
    // A revocation counts whatever its age.
    let old = NOW - 2 * week;
    let cause = judged(Status::Revoked(old), old).refusal().1;
    assert_eq!(
        cause,
        format!("NVIDIA revoked it at {old} (Unix time), for the reason KeyCompromise")
    );
    assert_eq!(
        judged(Status::Good, NOW + 1).refusal().1,
        format!(
            "the OCSP response is valid from {} (Unix time), and it is {NOW}: check the clock",
            NOW + 1
        )
    );
}

/// A response counts if the issuer signed it, or a responder that the issuer certified for this purpose.
#[test]
fn only_the_issuers_responder_answers() {
    let (subject, issuer) = pair(0);
    let good = || data(subject, issuer, Status::Good, TIMES).unwrap();
    let own = with(0, signed(good(), &issuer.key, &[]).unwrap());
    assert_eq!(own.failures(), []);

    let refused = |response| with(0, response).refusal().1;
    let nobody = "the OCSP response is signed neither by the issuer nor by a responder that the issuer certified";
    let stranger = Key::from_seed("stranger").unwrap();
    assert_eq!(refused(signed(good(), &stranger, &[]).unwrap()), nobody);
    // A certificate by the same issuer, but for another purpose: the GPU's own.
    assert_eq!(
        refused(signed(good(), &subject.key, &[subject]).unwrap()),
        nobody
    );
    // A responder of another issuer.
    let other = responder(pair(1).1).unwrap();
    let found = refused(signed(good(), &other.key, &[&other]).unwrap());
    assert!(
        found.starts_with("the certificate of the OCSP responder names another issuer"),
        "{found}"
    );
    let forged = Template::new("CN=Forged", Role::Responder);
    let mut forged = forged.self_signed(stranger.clone()).unwrap();
    let mut body = forged.parsed().unwrap().tbs_certificate;
    body.issuer = issuer.parsed().unwrap().tbs_certificate.subject;
    forged.certificate = crate::nvidia::simulated::pki::sign(body, &stranger).unwrap();
    let found = refused(signed(good(), &stranger, &[&forged]).unwrap());
    assert_eq!(
        found,
        "the signature on the certificate of the OCSP responder does not hold"
    );
    let late = Template::new("CN=Late", Role::Responder).valid((NOW - 2, NOW - 1));
    let late = late.issued(stranger.clone(), issuer).unwrap();
    let found = refused(signed(good(), &stranger, &[&late]).unwrap());
    assert!(
        found.starts_with("the certificate of the OCSP responder was valid until"),
        "{found}"
    );
    // The signed content is changed.
    let mut response = response(subject, issuer, Status::Good, TIMES).unwrap();
    let at = response
        .windows(15)
        .position(|bytes| bytes.ends_with(b"Z") && bytes.starts_with(b"20"))
        .unwrap();
    response[at + 3] ^= 1;
    assert_eq!(refused(response), nobody);
}

/// A response whose certificate id differs in any part is about another certificate.
#[test]
fn a_response_is_about_one_certificate_of_one_issuer() {
    let (subject, issuer) = pair(0);
    type Edit = fn(&mut x509_ocsp::CertId);
    let edits: [Edit; 4] = [
        |id| id.issuer_name_hash = x509_cert::der::asn1::OctetString::new([0; 48]).unwrap(),
        |id| id.issuer_key_hash = x509_cert::der::asn1::OctetString::new([0; 48]).unwrap(),
        |id| id.serial_number = x509_cert::serial_number::SerialNumber::new(&[1]).unwrap(),
        // SHA-1.
        |id| id.hash_algorithm.oid = ObjectIdentifier::new_unwrap("1.3.14.3.2.26"),
    ];
    let responder = responder(issuer).unwrap();
    for edit in edits {
        let mut data = data(subject, issuer, Status::Good, TIMES).unwrap();
        edit(&mut data.responses[0].cert_id);
        let case = with(0, signed(data, &responder.key, &[&responder]).unwrap());
        assert_eq!(case.refusal(), ("gpu.revocation", MISSING.to_owned()));
    }
}

/// Of several responses the newest counts, unless one says that the certificate is revoked, even if that one has expired.
#[test]
fn bad_news_outlive_good_ones() {
    let (subject, issuer) = pair(0);
    let old = Times {
        this_update: NOW - 7200,
        ..TIMES
    };
    let expired = Times {
        this_update: NOW - 7200,
        next_update: Some(NOW - 3600),
    };
    for times in [old, expired] {
        let mut case = Case::good();
        case.ocsp
            .push(response(subject, issuer, Status::Revoked(NOW - 8000), times).unwrap());
        assert!(case.refusal().1.starts_with("NVIDIA revoked it at"));
    }
    let newer = Times {
        this_update: TIMES.this_update + 1,
        ..TIMES
    };
    for (times, failures) in [(old, 0), (newer, 1)] {
        let mut case = Case::good();
        case.ocsp
            .push(response(subject, issuer, Status::Unknown, times).unwrap());
        assert_eq!(case.failures().len(), failures);
    }
    let mut case = Case::good();
    case.ocsp
        .insert(0, response(subject, issuer, Status::Good, expired).unwrap());
    assert_eq!(
        case.failures(),
        [],
        "an old response beside a new one harms nobody"
    );
}

#[test]
fn responses_of_no_form_are_named() {
    let refused = |response: Vec<u8>| {
        let mut case = Case::good();
        case.ocsp.push(response);
        let row = case.failure();
        assert_eq!((row.id, &*row.title), ("gpu.revocation", "OCSP response 6"));
        row.cause.unwrap()
    };
    assert!(
        refused(Vec::new()).starts_with("the OCSP response is not DER of the form of RFC 6960: ")
    );
    let length = MAX_OCSP + 1;
    assert_eq!(
        refused(vec![0; length]),
        OcspError::TooLarge { length }.to_string()
    );
    let later = OcspResponse::try_later().to_der().unwrap();
    assert_eq!(
        refused(later),
        "the OCSP response says TryLater instead of answering"
    );
    let (subject, issuer) = pair(0);
    let mut many = data(subject, issuer, Status::Good, TIMES).unwrap();
    many.responses = vec![many.responses[0].clone(); 17];
    assert_eq!(
        refused(signed(many, &issuer.key, &[]).unwrap()),
        "the OCSP response has 17 answers, at most 16 are read"
    );
    let five = [issuer; 5];
    let data = data(subject, issuer, Status::Good, TIMES).unwrap();
    assert_eq!(
        refused(signed(data, &issuer.key, &five).unwrap()),
        "the OCSP response has 5 certificates, at most 4 are read"
    );
}
