//! Tests of digests, requests and answers, and of answers that must be refused.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pieces() -> (Pieces, [Hex32; 3]) {
    let mut pieces = Pieces::default();
    let names = [b"one".as_slice(), b"", b"three"].map(|piece| pieces.insert(piece.to_vec()));
    (pieces, names)
}

/// The exact bytes of names and answers, and every way in which an answer is malformed.
#[test]
fn cocoon_collateral_1() {
    let (pieces, [one, empty, three]) = pieces();
    assert_eq!(one, Hex32::sha256(b"one"));
    let asked = [three, one, empty];
    let answer = pieces.encode(&asked).unwrap();
    assert_eq!(answer, b"\0\0\0\x05three\0\0\0\x03one\0\0\0\0");
    assert_eq!(answer.len(), pieces.encoded_len());
    assert_eq!(Pieces::decode(&answer, &asked).unwrap(), pieces);
    assert_eq!(pieces.encode(&[one, Hex32::ZERO]), None);

    let refused = |answer: &[u8], asked: &[Hex32]| {
        let error = Pieces::decode(answer, asked).unwrap_err();
        error.to_string()
    };
    const SHORT: &str = "the answer ends in the middle of a piece of collateral";
    for cut in 0..answer.len() {
        assert_eq!(refused(&answer[..cut], &asked), SHORT, "{cut}");
    }
    assert_eq!(refused(b"\xff\xff\xff\xffthree", &[three]), SHORT);
    let behind = [&answer[..], b"\0"].concat();
    assert_eq!(
        refused(&behind, &asked),
        "the answer goes on behind the last piece of collateral that was asked for"
    );
    // Pieces in another order, then a piece with one flipped bit.
    assert_eq!(
        refused(&answer, &[one, three, empty]),
        format!(
            "the piece of collateral {one} came with the digest {three}: it was exchanged or damaged"
        )
    );
    let mut turned = answer;
    turned[4] ^= 1;
    let found = Hex32::sha256(&turned[4..9]);
    assert_eq!(
        refused(&turned, &asked),
        format!(
            "the piece of collateral {three} came with the digest {found}: it was exchanged or damaged"
        )
    );
}

#[test]
fn questions_are_for_some_pieces_once_each() {
    let name = |number: usize| Hex32::sha256(&number.to_be_bytes());
    let check = |names: Vec<Hex32>| PiecesRequest { pieces: names }.check();
    let all: Vec<_> = (0..MAX_PIECES).map(name).collect();
    assert!(check(all.clone()).is_ok());
    let more = [&all[..], &[name(MAX_PIECES)]].concat();
    for bad in [Vec::new(), vec![name(1), name(1)], more] {
        assert_eq!(
            check(bad).unwrap_err().to_string(),
            "a question for collateral names 1 to 105 pieces, each once"
        );
    }
    // The largest valid request fits within the limit.
    let json = serde_json::to_vec(&PiecesRequest { pieces: all }).unwrap();
    assert!(json.len() <= MAX_PIECES_REQUEST, "{}", json.len());
    let extra = serde_json::from_slice::<PiecesRequest>(b"{\"pieces\":[],\"more\":1}");
    assert!(extra.is_err());
}

proptest! {
    #[test]
    fn answers_are_read_as_they_were_written(contents in vec(vec(any::<u8>(), 0..64), 0..8)) {
        let mut pieces = Pieces::default();
        let asked: Vec<_> = contents.into_iter().map(|piece| pieces.insert(piece)).collect();
        let answer = pieces.encode(&asked).unwrap();
        prop_assert_eq!(Pieces::decode(&answer, &asked).unwrap(), pieces);
    }

    #[test]
    fn foreign_answers_give_only_what_was_asked_for(answer in vec(any::<u8>(), 0..64), piece in vec(any::<u8>(), 0..8)) {
        let asked = [Hex32::sha256(&piece)];
        if let Ok(pieces) = Pieces::decode(&answer, &asked) {
            prop_assert_eq!(pieces.get(&asked[0]), Some(&piece[..]));
            prop_assert_eq!(pieces.count(), 1);
        }
    }
}
