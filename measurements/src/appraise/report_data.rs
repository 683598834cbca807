//! Check of the report data: which binding the evidence was made for.

use cocoon_protocol::{
    batch::{Batch, BatchError, MAX_LEAVES},
    binding::{self, BINDING_LEN, Claims},
    bytes::{Hex32, Hex64},
    config,
    document::Document,
    gpu_section::GpuSection,
};

use super::{Freshness, Presented};
use crate::{
    manifest::TrustedManifest,
    verdict::{Check, chain},
};

/// Compares the report data with the binding of this session, alone or in its place in a batch. On a mismatch, tries other
/// bindings to name the input that differs.
pub(super) fn report_data(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    found: &Hex64,
) -> Check {
    const ID: &str = "evidence.report_data";
    let title = "report data bind this session";
    match bind(
        presented.document,
        &presented.document.claims,
        presented.fresh,
    ) {
        Ok(expected) => Check::equal(ID, title, &expected, found, || {
            (
                differing_input(presented, manifest, found),
                REPORT_DATA_ADVICE,
            )
        }),
        Err(error) => Check::fail(ID, title, chain(&error), REPORT_DATA_ADVICE).found(found),
    }
}

/// Returns the report data for `document` with the given claims and session.
fn bind(
    document: &Document,
    claims: &Claims,
    fresh: Option<Freshness>,
) -> Result<Hex64, BatchError> {
    let Some(fresh) = fresh else {
        return Ok(binding::report_data(&binding::boot(claims)));
    };
    let session = binding::session(claims, &fresh);
    match &document.batch {
        Some(place) => place.report_data(&session),
        None => Ok(binding::report_data(&session)),
    }
}

/// Names the input of the binding that explains `found`: by trial, or else by elimination.
fn differing_input(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    found: &Hex64,
) -> &'static str {
    let document = presented.document;
    let claims = &document.claims;
    if found.is_zero() {
        return NOTHING_BOUND;
    }
    let boot = binding::boot(claims);
    if presented.fresh.is_some() && binding::report_data(&boot) == *found {
        return BOUND_BOOT;
    }
    let Some(fresh) = presented.fresh else {
        return BOOT_CLAIMS_EDITED;
    };
    let session = binding::session(claims, &fresh);
    let misplaced = document.batch.as_ref();
    if let Some(cause) = misplaced.and_then(|place| misplaced_in(place, &session, &boot, found)) {
        return cause;
    }
    let explains = |claims: &Claims, fresh| bind(document, claims, Some(fresh)) == Ok(*found);
    let earlier = Freshness {
        nonce: document.nonce,
        exporter: fresh.exporter,
    };
    if explains(claims, earlier) {
        return REPLAYED_NONCE;
    }
    if let Some((_, cause)) = corrections(presented, manifest)
        .into_iter()
        .find(|(corrected, _)| explains(corrected, fresh))
    {
        return cause;
    }
    if document.nonce != fresh.nonce {
        return EVIDENCE_OF_OTHER_SESSION;
    }
    match (&document.gpu, &document.batch) {
        (Some(_), _) => EXPORTER_OR_GPUS,
        (None, Some(_)) => NOT_IN_BATCH,
        (None, None) => EXPORTER_MISMATCH,
    }
}

/// Returns a cause if only the place in the batch is wrong.
fn misplaced_in(
    place: &Batch,
    session: &[u8; BINDING_LEN],
    boot: &[u8; BINDING_LEN],
    found: &Hex64,
) -> Option<&'static str> {
    if binding::report_data(session) == *found {
        return Some(NO_BATCH);
    }
    if place.report_data(boot) == Ok(*found) {
        return Some(BOOT_IN_BATCH);
    }
    let most = u16::try_from(MAX_LEAVES).unwrap_or(u16::MAX);
    let mut places = (2..=most).flat_map(|leaves| (0..leaves).map(move |index| (leaves, index)));
    let elsewhere = places.any(|(leaves, index)| {
        let path = place.path.clone();
        let other = Batch {
            leaves,
            index,
            path,
        };
        other.report_data(session) == Ok(*found)
    });
    elsewhere.then_some(PLACE_EDITED)
}

/// Returns the document's claims, each time with one claim replaced by the verifier's own value.
fn corrections(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
) -> [(Claims, &'static str); 5] {
    let document = presented.document;
    let claims = &document.claims;
    [
        (
            Claims {
                leaf_spki_sha256: presented.leaf_spki_sha256,
                ..claims.clone()
            },
            LEAF_EDITED,
        ),
        (
            Claims {
                manifest_id: manifest.id(),
                ..claims.clone()
            },
            MANIFEST_EDITED,
        ),
        (
            Claims {
                model_digest: manifest.model.verity_root,
                ..claims.clone()
            },
            MODEL_EDITED,
        ),
        (
            Claims {
                config_digest: config::digest(claims.tee, &document.config.0),
                ..claims.clone()
            },
            CONFIG_DIGEST_EDITED,
        ),
        (
            Claims {
                gpu_section_digest: document
                    .gpu
                    .as_ref()
                    .map_or(Hex32::ZERO, GpuSection::digest),
                ..claims.clone()
            },
            GPU_DIGEST_EDITED,
        ),
    ]
}

const NOTHING_BOUND: &str = "the evidence binds nothing: its report data are zero";
const BOUND_BOOT: &str = "the evidence is that of the boot, shown as if it were of this session";
const BOOT_CLAIMS_EDITED: &str =
    "the evidence was made for other claims than the certificate's document makes";
const REPLAYED_NONCE: &str =
    "replayed nonce: the evidence is of this TLS session, but answers an earlier challenge";
const LEAF_EDITED: &str =
    "the leaf key in the document was changed: the evidence is of the key in use";
const MANIFEST_EDITED: &str =
    "the manifest's identity in the document was changed: the evidence is of your manifest";
const MODEL_EDITED: &str =
    "the model digest in the document was changed: the evidence is of the manifest's model";
const CONFIG_DIGEST_EDITED: &str = "the configuration digest in the document was changed: the evidence is of the configuration shown";
const GPU_DIGEST_EDITED: &str = "the GPU digest in the document was changed: the evidence is of the GPU section shown, or of none where none is";
const EVIDENCE_OF_OTHER_SESSION: &str =
    "the evidence is of another session, like the document around it";
const EXPORTER_MISMATCH: &str = "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS \
     session than this one (or for a changed meter key, or for a batch whose path was left out): the connection is \
     relayed by someone who holds the guest's key, or an old document was given this session's nonce";
const EXPORTER_OR_GPUS: &str = "nonce and claims fit, but the evidence is of another GPU section than this one, or was made in \
     another TLS session (or for a changed meter key, or another batch): the GPUs' evidence was exchanged, or the \
     connection is relayed by someone who holds the guest's key";
const NO_BATCH: &str =
    "the place in a batch was added to the document: the evidence is of this session alone";
const BOOT_IN_BATCH: &str = "the batch holds the boot binding where this session's belongs, and boot evidence authorises nothing";
const PLACE_EDITED: &str = "the place in the batch was changed: the evidence holds this session in another place than the \
     document says";
const NOT_IN_BATCH: &str = "this session is not in the batch that the evidence is of: nonce and claims fit, so the path is of \
     another batch or place, or was made in another TLS session than this one (or for a changed meter key)";
const REPORT_DATA_ADVICE: &str =
    "nothing was sent; do not use this server until its operator can explain it";
