//! Documents that are old, relayed, edited or in the wrong place. The evidence itself is good in every test here.

use cocoon_measurements::appraise::{Freshness, Presented, appraise};
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::{Document, Kind};

use crate::machine::{FRESH, MANIFEST, Machine, NOW, accepted, judge, policy, refused, session};

const BOTH: [Tee; 2] = [Tee::Tdx, Tee::SevSnp];
const REPORT_DATA: &str = "evidence.report_data";
const REPLAYED: (&str, &str) = (
    "document.nonce",
    "replayed document: it answers another challenge than the one this client sent",
);
pub const EXPORTER: &str = "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one \
     (or for a changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds \
     the guest's key, or an old document was given this session's nonce";

/// Has the machine answer `fresh`, edits its document, and asserts what the verifier refuses on its own connection.
#[track_caller]
fn answering(fresh: Freshness, edit: fn(&mut Document), expected: &[(&str, &str)]) {
    for tee in BOTH {
        let mut document = Machine {
            fresh,
            ..Machine::good(tee)
        }
        .document();
        edit(&mut document);
        refused(&judge(&document, &policy()), expected);
    }
}

#[test]
fn replayed_documents() {
    let earlier = Freshness {
        nonce: Hex([9; 32]),
        exporter: Hex([8; 32]),
    };
    answering(
        earlier,
        |_| (),
        &[
            REPLAYED,
            (
                REPORT_DATA,
                "the evidence is of another session, like the document around it",
            ),
        ],
    );
    // The document's nonce is replaced, but the signed one is still the old one.
    answering(
        earlier,
        |document| document.nonce = FRESH.nonce,
        &[(REPORT_DATA, EXPORTER)],
    );
    // An earlier answer on the same connection.
    answering(
        Freshness {
            nonce: Hex([9; 32]),
            ..FRESH
        },
        |_| (),
        &[
            REPLAYED,
            (
                REPORT_DATA,
                "replayed nonce: the evidence is of this TLS session, but answers an earlier challenge",
            ),
        ],
    );
}

#[test]
fn relayed_into_another_session() {
    let elsewhere = Freshness {
        exporter: Hex([8; 32]),
        ..FRESH
    };
    answering(elsewhere, |_| (), &[(REPORT_DATA, EXPORTER)]);
}

#[test]
fn shown_by_a_server_with_another_key() {
    const OTHER_KEY: &str = "the TLS connection ends at another key than the guest's: the server shows a document of a \
        machine whose key it does not hold, or something between takes the connection apart (a proxy that ends TLS)";
    let theirs = Hex([0x66; 32]);
    for tee in BOTH {
        let mut document = Machine::good(tee).document();
        let on = |document: &Document| {
            let presented = Presented {
                leaf_spki_sha256: theirs,
                ..session(document)
            };
            appraise(&presented, &MANIFEST, &policy(), NOW)
        };
        refused(&on(&document), &[("document.leaf_key", OTHER_KEY)]);
        // The server puts its own key into the document, but the evidence is bound to the guest's.
        document.claims.leaf_spki_sha256 = theirs;
        refused(&on(&document), &[(REPORT_DATA, EXPORTER)]);
    }
}

#[test]
fn boot_and_session_documents_in_each_others_place() {
    let boot_as_session = (
        "document.kind",
        "a boot document was given where one of this session was asked for",
    );
    let bound_to_boot = (
        REPORT_DATA,
        "the evidence is that of the boot, shown as if it were of this session",
    );
    for tee in BOTH {
        let vm = Machine::good(tee);
        // With the endorsements of a session document, so that nothing else is missing.
        let mut document = Document {
            evidence: vm.evidence(&binding::boot(&vm.claims)),
            ..vm.document()
        };
        refused(&judge(&document, &policy()), &[bound_to_boot]);
        document.kind = Kind::Boot;
        document.nonce = Hex32::ZERO;
        refused(
            &judge(&document, &policy()),
            &[boot_as_session, REPLAYED, bound_to_boot],
        );

        let document = vm.document();
        let presented = Presented {
            fresh: None,
            ..session(&document)
        };
        refused(
            &appraise(&presented, &MANIFEST, &policy(), NOW),
            &[
                (
                    "document.kind",
                    "a session document was given where the certificate's boot document belongs",
                ),
                (
                    "document.nonce",
                    "a boot document carries no nonce: this one was changed",
                ),
                (
                    REPORT_DATA,
                    "the evidence was made for other claims than the certificate's document makes",
                ),
            ],
        );
    }
}

/// The real boot document as the answer of a session: it also lacks what a session document must have.
#[test]
fn the_certificates_own_document_as_an_answer() {
    let tdx = Machine::good(Tee::Tdx).boot_document();
    let kind = "a boot document was given where one of this session was asked for";
    let missing = "missing collateral: without the vendor's certificates and revocation data nothing vouches for the evidence";
    refused(
        &judge(&tdx, &policy()),
        &[
            ("document.kind", kind),
            REPLAYED,
            ("evidence.collateral", missing),
        ],
    );
    let snp = Machine::good(Tee::SevSnp).boot_document();
    refused(
        &judge(&snp, &policy()),
        &[
            ("document.kind", kind),
            REPLAYED,
            (
                REPORT_DATA,
                "the evidence is that of the boot, shown as if it were of this session",
            ),
            (
                "evidence.collateral",
                "no revocation list of AMD was presented: a revoked processor could not be told from a good one",
            ),
        ],
    );
}

/// The guest itself makes claims that differ from the verifier's manifest, and binds them into its evidence.
#[test]
fn claims_of_the_guest() {
    for tee in BOTH {
        let claiming = |edit: fn(&mut binding::Claims)| {
            let mut vm = Machine::good(tee);
            edit(&mut vm.claims);
            vm.verdict()
        };
        refused(
            &claiming(|claims| claims.model_digest.0[31] ^= 1),
            &[(
                "document.model",
                "another model volume is mounted than the manifest's",
            )],
        );
        refused(
            &claiming(|claims| claims.config_digest.0[0] ^= 1),
            &[(
                "document.config_digest",
                "the configuration in the document is not the one whose digest the guest claims",
            )],
        );
        refused(
            &claiming(|claims| claims.gpu_section_digest = Hex([1; 32])),
            &[(
                "document.gpu",
                "the guest claims a GPU, and the manifest's image has none",
            )],
        );
        // The guest may choose its meter key: the key is bound, but compared with nothing.
        accepted(&claiming(|claims| claims.meter_key = Hex([7; 32])));
    }
}

/// The host edits a claim after the guest bound it. Where the verifier knows the true value, the report data show which
/// claim was edited.
#[test]
fn claims_edited_on_the_way() {
    type Edit = fn(&mut Document);
    let cases: [(Edit, &[(&str, &str)]); 5] = [
        (|d| d.claims.meter_key.0[0] ^= 1, &[(REPORT_DATA, EXPORTER)]),
        (
            |d| d.claims.manifest_id.0[0] ^= 1,
            &[
                (
                    "document.manifest",
                    "the guest was started with another manifest than yours",
                ),
                (
                    REPORT_DATA,
                    "the manifest's identity in the document was changed: the evidence is of your manifest",
                ),
            ],
        ),
        (
            |d| d.claims.model_digest.0[0] ^= 1,
            &[
                (
                    "document.model",
                    "another model volume is mounted than the manifest's",
                ),
                (
                    REPORT_DATA,
                    "the model digest in the document was changed: the evidence is of the manifest's model",
                ),
            ],
        ),
        (
            |d| d.claims.config_digest.0[0] ^= 1,
            &[
                (
                    "document.config_digest",
                    "the configuration in the document is not the one whose digest the guest claims",
                ),
                (
                    REPORT_DATA,
                    "the configuration digest in the document was changed: the evidence is of the configuration shown",
                ),
            ],
        ),
        (
            |d| d.claims.gpu_section_digest.0[0] ^= 1,
            &[
                (
                    "document.gpu",
                    "the guest claims a GPU, and the manifest's image has none",
                ),
                (
                    REPORT_DATA,
                    "the GPU digest in the document was changed: the evidence is of the GPU section shown, or of none where none is",
                ),
            ],
        ),
    ];
    for (edit, expected) in cases {
        answering(FRESH, edit, expected);
    }
}

/// The document shows another configuration than the one that was launched, bound and measured.
#[test]
fn configuration_edited_on_the_way() {
    let cheaper = OperatorConfig {
        price_prompt_million: 1,
        ..OperatorConfig::default()
    }
    .canonical();
    for (tee, measured) in [(Tee::Tdx, "tdx.config"), (Tee::SevSnp, "snp.config")] {
        let mut document = Machine::good(tee).document();
        document.config = Blob(cheaper.clone());
        let claimed =
            "the configuration in the document is not the one whose digest the guest claims";
        let launched = "the launch was given another configuration than the document shows";
        refused(
            &judge(&document, &policy()),
            &[("document.config_digest", claimed), (measured, launched)],
        );
        document.claims.config_digest = config::digest(tee, &cheaper);
        refused(
            &judge(&document, &policy()),
            &[(REPORT_DATA, EXPORTER), (measured, launched)],
        );
    }
}

/// A document, built without the parser, that claims one TEE and carries another's evidence.
#[test]
fn one_tee_claimed_and_another_shown() {
    let mut document = Machine::good(Tee::SevSnp).document();
    document.claims.tee = Tee::Tdx;
    let verdict = judge(&document, &policy());
    let first = verdict.failures().next().unwrap();
    assert_eq!(
        (first.id, first.cause.as_deref()),
        (
            "document.form",
            Some("attestation document claims tdx but carries evidence of sev-snp")
        )
    );
    assert_eq!(verdict.authorizes(), None);
}
