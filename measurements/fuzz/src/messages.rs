//! Targets for data that arrive over a connection: attestation documents and their collateral, and the frames of control
//! channel, engine and collector.

use cocoon_protocol::batch::{self, Batch};
use cocoon_protocol::binding::{self, Freshness, Tee};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::control::{GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE};
use cocoon_protocol::document::{AttestRequest, Document, MAX_BOOT_DOCUMENT_LEN, MAX_DOCUMENT_LEN};
use cocoon_protocol::engine::{FromEngine, MAX_FROM_ENGINE, MAX_TO_ENGINE, ToEngine};
use cocoon_protocol::frame::{Decoder, encode};
use cocoon_protocol::gpu::MAX_GPUS;
use cocoon_protocol::gpu::collector::{
    Found, FromCollector, MAX_FROM_COLLECTOR, MAX_TO_COLLECTOR, ToCollector,
};
use cocoon_protocol::pieces::{MAX_PIECES, Pieces, PiecesRequest};
use cocoon_simulator::tdx::TdReport;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::edits;
use crate::evidence::session;
use crate::memory::bounded;
use crate::platform::{EVENT_LOG, FRESH, TDX_COLLATERAL, claims, made, td_report, tdx_document};
use crate::signer;

/// Memory in bytes, beyond a multiple of the input, that parsing a message may hold at once.
const READ: usize = 64 << 10;

/// Parses foreign bytes as an attestation document and as the request for one, without verifying anything. Each stays the same
/// when encoded and parsed again.
pub fn document_read(data: &[u8]) {
    read_document(data);
    if let Ok(request) = serde_json::from_slice::<AttestRequest>(data) {
        let written = made(serde_json::to_vec(&request));
        assert_eq!(
            made(serde_json::from_slice::<AttestRequest>(&written)),
            request
        );
    }
}

/// Appraises foreign bytes as an attestation document. Only documents with the good evidence are accepted.
pub fn document(data: &[u8]) {
    if let Some(document) = read_document(data) {
        let tee = document.claims.tee;
        if session(&document, tee) {
            // No other claims and no other nonce were ever signed.
            assert_eq!(document.claims, claims(tee));
            assert_eq!(document.nonce, FRESH.nonce);
        }
    }
}

fn read_document(data: &[u8]) -> Option<Document> {
    let read = |limit| bounded(READ + 16 * data.len(), || Document::parse(data, limit));
    let Ok(document) = read(MAX_DOCUMENT_LEN) else {
        let smaller = read(MAX_BOOT_DOCUMENT_LEN);
        assert!(smaller.is_err(), "the smaller limit accepts more");
        return None;
    };
    assert_eq!(document.claims.tee, document.evidence.tee());
    let written = document.to_json();
    assert_eq!(made(Document::parse(&written, MAX_DOCUMENT_LEN)), document);
    named(&document);
    Some(document)
}

/// Asserts that naming and filling the collateral gives the same document, and that a document which names collateral cannot
/// be filled without it.
fn named(document: &Document) {
    let names = document.names();
    assert!(names.len() <= MAX_PIECES);
    let mut other = document.clone();
    match document.named {
        None => {
            let pieces = other.name_collateral();
            made(other.fill(&pieces));
            assert_eq!(other, *document);
        }
        Some(_) => assert_eq!(other.fill(&Pieces::default()).is_err(), !names.is_empty()),
    }
}

/// Parses foreign bytes as a request for collateral, and as the answer to one. Only requested pieces are accepted.
pub fn collateral_pieces(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<PiecesRequest>(data) {
        let bounded = request.check().is_ok();
        assert!(!bounded || (1..=MAX_PIECES).contains(&request.pieces.len()));
    }
    // The first two bytes are the contents of the two requested pieces.
    let Some((asked, answer)) = data.split_at_checked(2) else {
        return;
    };
    let asked = [Hex32::sha256(&asked[..1]), Hex32::sha256(&asked[1..])];
    if let Ok(pieces) = bounded(READ + 2 * answer.len(), || Pieces::decode(answer, &asked)) {
        assert_eq!(pieces.encode(&asked).as_deref(), Some(answer));
    }
}

/// Appraises documents whose claims a script has changed before the hardware signs their binding. Exactly the right claims are
/// accepted.
pub fn document_bound(script: &[u8]) {
    let good = binding::session(&claims(Tee::Tdx), &FRESH);
    let mut bytes = good;
    // The claims, the nonce and the exporter follow after tag, version and TEE.
    edits::apply(script, &mut bytes[20..]);
    let mut field = bytes[20..].iter().copied();
    let mut next = |into: &mut [u8]| {
        into.iter_mut()
            .zip(&mut field)
            .for_each(|(to, from)| *to = from)
    };
    let mut claims = claims(Tee::Tdx);
    next(&mut claims.leaf_spki_sha256.0);
    next(&mut claims.meter_key.0);
    next(&mut claims.manifest_id.0);
    next(&mut claims.model_digest.0);
    next(&mut claims.config_digest.0);
    next(&mut claims.gpu_section_digest.0);
    let mut fresh = FRESH;
    next(&mut fresh.nonce.0);
    next(&mut fresh.exporter.0);
    let meter_key = claims.meter_key;
    let bound = binding::session(&claims, &fresh);
    assert_eq!(bound, bytes, "the binding's layout");
    let report = TdReport {
        report_data: binding::report_data(&bound).0,
        ..td_report()
    };
    let Ok(body) = <&[u8; signer::TD10]>::try_from(&report.to_bytes()[..]).copied() else {
        return;
    };
    let quote = signer::quote_4(&body);
    let mut document = tdx_document(quote, EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    document.claims = claims;
    document.nonce = fresh.nonce;
    // The guest chooses the meter key. The verifier knows everything else.
    let mut expected = good;
    expected[52..84].copy_from_slice(&meter_key.0);
    assert_eq!(session(&document, Tee::Tdx), bytes == expected);
    document.batch = Some(Batch {
        leaves: 2,
        index: 0,
        path: vec![Hex32::ZERO],
    });
    assert!(!session(&document, Tee::Tdx), "evidence of one session");
}

/// Appraises documents whose batch position a script has changed after the hardware signed the root. Exactly the right
/// position is accepted.
pub fn document_batched(script: &[u8]) {
    let claims = claims(Tee::Tdx);
    let (at, script) = script.split_first().unwrap_or((&0, &[]));
    let count = 2 + at % 31;
    let own = (at / 31) % count;
    let waiting: Vec<_> = (0..count)
        .map(|number| {
            let exporter = Hex32::sha256(&[number]);
            let other = Freshness { exporter, ..FRESH };
            binding::session(&claims, if number == own { &FRESH } else { &other })
        })
        .collect();
    let Some(shared) = batch::share(&waiting) else {
        panic!("{count} sessions are no batch");
    };
    let report = TdReport {
        report_data: shared.report_data.0,
        ..td_report()
    };
    let Ok(body) = <&[u8; signer::TD10]>::try_from(&report.to_bytes()[..]).copied() else {
        return;
    };
    let quote = signer::quote_4(&body);
    let mut document = tdx_document(quote, EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    let Some(good) = shared.places[usize::from(own)].clone() else {
        panic!("a session of a batch has no place in it");
    };
    let mut bytes: Vec<u8> = [good.leaves, good.index].map(u16::to_be_bytes).concat();
    bytes.extend(good.path.iter().flat_map(|hash| hash.0));
    edits::apply(script, &mut bytes);
    let (numbers, path) = bytes.split_at(4);
    let hash = |bytes: &[u8]| {
        let mut hash = Hex32::ZERO;
        hash.0[..bytes.len()].copy_from_slice(bytes);
        hash
    };
    let place = Batch {
        leaves: u16::from_be_bytes([numbers[0], numbers[1]]),
        index: u16::from_be_bytes([numbers[2], numbers[3]]),
        path: path.chunks(32).map(hash).collect(),
    };
    let right = place == good;
    document.batch = Some(place);
    assert_eq!(session(&document, Tee::Tdx), right);
    let parsed = Document::parse(&document.to_json(), MAX_DOCUMENT_LEN);
    assert!(
        !right || made(parsed) == document,
        "a good place is not read"
    );
}

/// Parses foreign bytes as frames of the control channel, of either side and split in any way.
pub fn control_frames(data: &[u8]) {
    frames::<HostMessage>(data, MAX_HOST_MESSAGE);
    frames::<GuestMessage>(data, MAX_GUEST_MESSAGE);
}

/// Parses foreign bytes as one message of the control channel, of either side.
pub fn control_message(data: &[u8]) {
    message::<HostMessage>(data, MAX_HOST_MESSAGE);
    message::<GuestMessage>(data, MAX_GUEST_MESSAGE);
}

/// Parses foreign bytes as frames of the engine's socket, then as one message, of either side.
pub fn engine_frames(data: &[u8]) {
    frames::<FromEngine>(data, MAX_FROM_ENGINE);
    frames::<ToEngine>(data, MAX_TO_ENGINE);
    message::<FromEngine>(data, MAX_FROM_ENGINE);
    message::<ToEngine>(data, MAX_TO_ENGINE);
}

/// Parses foreign bytes as frames of the collector's socket, then as one message, of either side, and checks the message.
pub fn collector_frames(data: &[u8]) {
    frames::<FromCollector>(data, MAX_FROM_COLLECTOR);
    frames::<ToCollector>(data, MAX_TO_COLLECTOR);
    message::<FromCollector>(data, MAX_FROM_COLLECTOR);
    message::<ToCollector>(data, MAX_TO_COLLECTOR);
    let checked = |message: &FromCollector| message.check().is_ok();
    if let Some(message) = serde_json::from_slice(data).ok().filter(checked) {
        let gpus = match message {
            FromCollector::Attached {
                found: Found::Gpus { gpus, .. },
                ..
            } => gpus.len(),
            FromCollector::Evidence { gpus, .. } => gpus.len(),
            FromCollector::Metrics { gpus } => gpus.len(),
            _ => 0,
        };
        assert!(gpus <= MAX_GPUS);
    }
}

/// The first byte is the length of the pieces in which the rest arrives. All at once gives the same messages and the same end.
fn frames<T: Serialize + DeserializeOwned>(data: &[u8], limit: usize) {
    let Some((step, stream)) = data.split_first() else {
        return;
    };
    let room = READ + 64 * stream.len();
    let whole = bounded(room, || read::<T>(stream, stream.len().max(1), limit));
    let pieces = bounded(room, || read::<T>(stream, usize::from(*step).max(1), limit));
    assert_eq!(
        whole, pieces,
        "the pieces in which bytes arrive change what they say"
    );
}

/// Returns all messages as JSON, and how the stream ended.
fn read<T: Serialize + DeserializeOwned>(
    stream: &[u8],
    step: usize,
    limit: usize,
) -> (Vec<Value>, Option<String>) {
    let mut decoder = Decoder::new(limit);
    let mut messages = Vec::new();
    for piece in stream.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next::<T>() {
                Ok(Some(message)) => messages.push(made(serde_json::to_value(message))),
                Ok(None) => break,
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    let open = decoder.is_mid_frame().then(|| "within a frame".to_owned());
    (messages, open)
}

/// Puts `json` into one frame. A message that is accepted has the same encoding after it is encoded and parsed again.
fn message<T: Serialize + DeserializeOwned>(json: &[u8], limit: usize) {
    let Ok(length) = u32::try_from(json.len()) else {
        return;
    };
    let framed = [&length.to_be_bytes()[..], json].concat();
    let next = |bytes: &[u8]| {
        let mut decoder = Decoder::new(limit);
        decoder.push(bytes);
        decoder.next::<T>()
    };
    let Ok(Some(message)) = bounded(READ + 64 * json.len(), || next(&framed)) else {
        return;
    };
    // A float can take more digits than it came with, so the encoding may exceed the limit of the channel.
    let written = made(encode(&message, 2 * limit));
    let mut decoder = Decoder::new(2 * limit);
    decoder.push(&written);
    let again: Option<T> = made(decoder.next());
    let again = again.map(|message| made(encode(&message, 2 * limit)));
    assert_eq!(again.as_ref(), Some(&written));
}
