//! The guest's certificate (SPEC.md §4) as clients see it: from the real guest, and from servers that present it differently.

use cocoon_client::{Address, ConnectError, chain};
use cocoon_measurements::verdict::Class;
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{
    DEVELOPMENT_ROOT_OID, Document, EVIDENCE_OID, MAX_BOOT_DOCUMENT_LEN,
};
use p256::ecdsa::SigningKey;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;

use crate::guest::{Guest, machine, verifier};
use crate::machine::Machine;
use crate::rogue::{Rogue, Script, certificate, evidence, extension, key, spki_sha256};
use crate::stranger::Stranger;

/// Returns a server's answer to attestation requests: good evidence of `vm` over the client's nonce.
fn honestly(vm: Machine) -> Box<dyn Fn(binding::Freshness) -> Vec<u8> + Send + Sync> {
    Box::new(move |fresh| {
        let document = Document {
            nonce: fresh.nonce,
            evidence: vm.evidence(&binding::session(&vm.claims, &fresh)),
            ..vm.document()
        };
        document.to_json()
    })
}

/// Starts a server with good evidence that names the key `named`. Its certificate is for `key`, and `extensions` makes
/// the certificate's extensions from the boot document.
async fn server(
    key: &SigningKey,
    named: &SigningKey,
    extensions: impl FnOnce(&[u8]) -> Vec<Extension>,
) -> Rogue {
    let vm = machine(Tee::SevSnp, spki_sha256(named));
    let document = vm.boot_document().to_json();
    Rogue::start(Script {
        certificate: certificate(key, extensions(&document)),
        key: key.clone(),
        answer: honestly(vm),
    })
    .await
}

/// Connects to `rogue` and returns the error and its text with causes. Asserts that no request was sent after the handshake.
async fn refused(rogue: &Rogue) -> (ConnectError, String) {
    let error = verifier()
        .connect(&rogue.address)
        .await
        .expect_err("must be refused");
    assert!(error.is_rejection(), "{error}");
    assert_eq!(rogue.seen(|seen| seen.requests.len()), 0, "{error}");
    let text = chain(&error);
    (error, text)
}

#[tokio::test]
async fn cocoon_cert_1() {
    // The real guest's certificate has the extension once, marked critical, and no other.
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let guest = Guest::start(tee).await;
        let der = Stranger::new().connect(guest.socket).await.certificate();
        let leaf = Certificate::from_der(&der).unwrap().tbs_certificate;
        let [carrier] = &leaf.extensions.unwrap()[..] else {
            panic!("one extension")
        };
        assert_eq!(
            (carrier.extn_id.to_string().as_str(), carrier.critical),
            (EVIDENCE_OID, true)
        );
        let document =
            Document::parse(carrier.extn_value.as_bytes(), MAX_BOOT_DOCUMENT_LEN).unwrap();
        assert_eq!(document.claims, guest.claims);
        verifier().connect(&guest.address).await.unwrap();
    }

    let own = key(7);
    // Baseline: what the test server must present to be accepted. Each refusal below differs from it in one respect.
    let good = server(&own, &own, |document| vec![evidence(true, document)]).await;
    let accepted = verifier().connect(&good.address).await.unwrap();
    assert_eq!(accepted.verdict().class, Class::Simulated);

    let shown = |address: &Address, why: &str| {
        format!("{address} shows no usable evidence in its certificate: {why}")
    };
    let none = server(&own, &own, |_| Vec::new()).await;
    assert_eq!(
        refused(&none).await.1,
        shown(
            &none.address,
            &format!(
                "certificate has no evidence extension ({EVIDENCE_OID}): this is not a Cocoon appliance"
            )
        )
    );
    let ignorable = server(&own, &own, |document| vec![evidence(false, document)]).await;
    assert_eq!(
        refused(&ignorable).await.1,
        shown(
            &ignorable.address,
            "certificate's evidence extension is not marked critical"
        )
    );
    let twice = server(&own, &own, |document| {
        vec![evidence(true, document), evidence(true, b"{}")]
    })
    .await;
    assert_eq!(
        refused(&twice).await.1,
        shown(
            &twice.address,
            "certificate has the evidence extension more than once"
        )
    );
    // A client may ignore an unknown extension, unless it is marked critical.
    let harmless = server(&own, &own, |document| {
        vec![evidence(true, document), extension("1.2.3.4", false, b"?")]
    })
    .await;
    verifier().connect(&harmless.address).await.unwrap();
    let critical = server(&own, &own, |document| {
        vec![evidence(true, document), extension("1.2.3.4", true, b"?")]
    })
    .await;
    assert_eq!(
        refused(&critical).await.1,
        shown(
            &critical.address,
            "certificate has the critical extension 1.2.3.4, which this client does not know"
        )
    );
}

/// A third party implements a verifier from the specification alone, so it must list the identifiers that the code uses.
#[test]
fn the_specification_names_the_same_object_identifiers() {
    let specification = include_str!("../../measurements/SPEC.md");
    for oid in [EVIDENCE_OID, DEVELOPMENT_ROOT_OID] {
        assert!(specification.contains(&format!("`{oid}`")), "{oid}");
    }
}

#[tokio::test]
async fn cocoon_cert_2() {
    // The server presents the certificate of an honest guest, and signs the handshake with its own key.
    let guest = Guest::start(Tee::SevSnp).await;
    let stolen = Stranger::new().connect(guest.socket).await.certificate();
    let impostor = Rogue::start(Script {
        certificate: stolen.clone(),
        key: key(8),
        answer: honestly(machine(Tee::SevSnp, guest.claims.leaf_spki_sha256)),
    })
    .await;
    let (error, text) = refused(&impostor).await;
    assert!(matches!(error, ConnectError::KeyNotHeld { .. }), "{error}");
    assert_eq!(
        text,
        format!(
            "{} does not hold the key of the certificate that it shows: it replays somebody else's evidence",
            impostor.address
        )
    );

    // The server puts the guest's document into a certificate for its own key: the document's digest is not that key's.
    let (own, guests) = (key(8), key(7));
    let relabelled = server(&own, &guests, |document| vec![evidence(true, document)]).await;
    let (error, text) = refused(&relabelled).await;
    assert!(matches!(error, ConnectError::OtherKey { .. }), "{error}");
    assert_eq!(
        text,
        format!(
            "{} presents evidence about another key: the document names TLS key {}, the certificate holds {}",
            relabelled.address,
            spki_sha256(&guests),
            spki_sha256(&own)
        )
    );

    // The honest guest's digest is that of the complete public key info in its certificate.
    let leaf = Certificate::from_der(&stolen).unwrap().tbs_certificate;
    let spki = leaf.subject_public_key_info.to_der().unwrap();
    assert_eq!(Hex32::sha256(&spki), guest.claims.leaf_spki_sha256);
    let connection = verifier().connect(&guest.address).await.unwrap();
    assert_eq!(
        connection.claims().leaf_spki_sha256,
        guest.claims.leaf_spki_sha256
    );
}
