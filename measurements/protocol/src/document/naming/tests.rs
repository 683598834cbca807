//! Tests of documents that name their collateral, valid and refused.

use crate::bytes::{Blob, Hex32};
use crate::document::tests::document;
use crate::document::{Collateral, Document, Kind, MAX_DOCUMENT_LEN};
use crate::gpu::{GpuCollateral, MAX_OCSP, MAX_OCSP_RESPONSES, MAX_RIM, MAX_RIMS};
use crate::gpu_section::tests::section;
use crate::pieces::{MAX_PIECES_LEN, Names, Pieces};

/// A document names its collateral in transit and holds it when it is appraised. It never does both.
#[test]
fn cocoon_doc_6() {
    let whole = Document {
        kind: Kind::Session,
        collateral: Some(Collateral::Tdx {
            json: Blob(b"{\"tcb_info\":1}".to_vec()),
        }),
        gpu: Some(section()),
        gpu_collateral: Some(GpuCollateral {
            rims: vec!["<xml/>".into(), "<xml/>".into()],
            ocsp: vec![Blob(vec![1])],
        }),
        ..document()
    };
    let mut named = whole.clone();
    let pieces = named.name_collateral();
    let xml = Hex32::sha256(b"<xml/>");
    let names = [Hex32::sha256(b"{\"tcb_info\":1}"), xml, Hex32::sha256(&[1])];
    assert_eq!((named.names(), pieces.count()), (names.to_vec(), 3));
    let json = String::from_utf8(named.to_json()).unwrap();
    let [tcb, _, response] = names;
    let expected = format!(
        "\"named\":{{\"collateral\":{{\"tdx\":{{\"json\":\"{tcb}\"}}}},\"gpu_collateral\":{{\"rims\":[\"{xml}\",\"{xml}\"],\"ocsp\":[\"{response}\"]}}}}}}"
    );
    assert!(json.ends_with(&expected), "{json}");
    let mut read = Document::parse(json.as_bytes(), MAX_DOCUMENT_LEN).unwrap();
    assert_eq!(read, named);
    read.fill(&pieces).unwrap();
    assert_eq!(read, whole);
    // A document without collateral names nothing, so that its JSON has no `named`.
    let mut bare = Document {
        kind: Kind::Session,
        ..document()
    };
    assert_eq!(bare.name_collateral(), Pieces::default());
    assert!(!String::from_utf8(bare.to_json()).unwrap().contains("named"));

    // A piece that is missing, then one that is not of the kind that its place requires.
    let unfilled = |edit: &dyn Fn(&mut Document) -> Pieces| {
        let mut changed = named.clone();
        let pieces = edit(&mut changed);
        let error = changed.fill(&pieces).unwrap_err();
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    };
    assert_eq!(
        unfilled(&|_| Pieces::default()),
        format!("the piece of collateral {tcb}, which the document names, is missing")
    );
    let foreign = Hex32::sha256(&[0xff]);
    assert_eq!(
        unfilled(&|document| {
            gpus(document).rims[1] = foreign;
            let mut more = pieces.clone();
            more.insert(vec![0xff]);
            more
        }),
        format!(
            "the piece of collateral {foreign} is no text, and the document names it a reference manifest"
        )
    );
    assert_eq!(
        unfilled(&|document| {
            let mut more = pieces.clone();
            gpus(document).ocsp[0] = more.insert(vec![0; crate::gpu::MAX_OCSP + 1]);
            more
        }),
        "with the collateral that it names the document is none: attestation document has collateral of GPUs of no form"
    );

    let refused = |edit: &dyn Fn(&mut Document)| {
        let mut changed = named.clone();
        edit(&mut changed);
        Document::parse(&changed.to_json(), MAX_DOCUMENT_LEN)
            .unwrap_err()
            .to_string()
    };
    const BOTH: &str =
        "attestation document names collateral that it holds as well: one or the other";
    assert_eq!(
        refused(&|d| d.collateral.clone_from(&whole.collateral)),
        BOTH
    );
    assert_eq!(
        refused(&|d| d.gpu_collateral.clone_from(&whole.gpu_collateral)),
        BOTH
    );
    assert_eq!(
        refused(&|d| {
            d.kind = Kind::Boot;
            d.gpu = None;
        }),
        "attestation document of the boot names collateral: only those of sessions have some"
    );
    assert_eq!(
        refused(&|d| d.gpu = None),
        "attestation document has evidence or collateral of GPUs where none has a place: in a boot document, or without a \
         GPU section"
    );
    for (edit, what, limit) in [
        (rims as fn(&mut Document, usize), "reference manifests", 32),
        (ocsp, "OCSP responses", 64),
        (certificates, "certificates of the CPU", 8),
    ] {
        let mut most = named.clone();
        edit(&mut most, limit);
        assert!(
            Document::parse(&most.to_json(), MAX_DOCUMENT_LEN).is_ok(),
            "{what}"
        );
        assert_eq!(
            refused(&|document| edit(document, limit + 1)),
            format!(
                "attestation document names {} {what}, where at most {limit} are allowed",
                limit + 1
            )
        );
    }

    fn rims(document: &mut Document, count: usize) {
        gpus(document).rims = vec![Hex32::ZERO; count];
    }
    fn ocsp(document: &mut Document, count: usize) {
        gpus(document).ocsp = vec![Hex32::ZERO; count];
    }
    fn certificates(document: &mut Document, count: usize) {
        let collateral = Some(Collateral::SevSnp {
            certificates: vec![Hex32::ZERO; count],
            crl: None,
        });
        document.named = Some(Names {
            collateral,
            gpu_collateral: None,
        });
    }
}

/// A piece that is named several times counts in each place, and the total is checked before any copy is made.
#[test]
fn a_piece_counts_in_every_place() {
    let mut named = Document {
        kind: Kind::Session,
        gpu: Some(section()),
        gpu_collateral: Some(GpuCollateral {
            rims: vec!["<xml/>".into()],
            ocsp: vec![Blob(vec![1])],
        }),
        ..document()
    };
    let honest = named.name_collateral();
    let filled = |edit: &dyn Fn(&mut Document, &mut Pieces)| {
        let (mut changed, mut pieces) = (named.clone(), honest.clone());
        edit(&mut changed, &mut pieces);
        changed.fill(&pieces)
    };
    // Every place that a document has, each with a piece of the maximum size.
    filled(&|document, pieces| {
        gpus(document).rims = vec![pieces.insert(vec![b' '; MAX_RIM]); MAX_RIMS];
        gpus(document).ocsp = vec![pieces.insert(vec![1; MAX_OCSP]); MAX_OCSP_RESPONSES];
    })
    .unwrap();

    let whole = |json: usize, certificates: usize| {
        filled(&|document, pieces| {
            let piece = pieces.insert(vec![b'{'; json]);
            document.named.as_mut().unwrap().collateral = Some(match certificates {
                0 => Collateral::Tdx { json: piece },
                count => Collateral::SevSnp {
                    certificates: vec![piece; count],
                    crl: Some(piece),
                },
            });
        })
    };
    let small = honest.size();
    whole(MAX_PIECES_LEN - small, 0).unwrap();
    for (json, certificates, found) in [
        (MAX_PIECES_LEN - small + 1, 0, MAX_PIECES_LEN + 1),
        (MAX_PIECES_LEN, 8, 2 * MAX_PIECES_LEN),
    ] {
        assert_eq!(
            whole(json, certificates).unwrap_err().to_string(),
            format!(
                "the pieces of collateral that the document names have {found} bytes in its places, where 4194304 are \
                 allowed"
            )
        );
    }
}

fn gpus(document: &mut Document) -> &mut GpuCollateral<Hex32, Hex32> {
    let named = document.named.as_mut().unwrap();
    named.gpu_collateral.as_mut().unwrap()
}
