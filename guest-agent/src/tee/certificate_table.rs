//! Parser for the certificate table that accompanies an SNP report (GHCB specification, extended guest request): entries of
//! GUID, offset and length up to a zero GUID, then the certificates.
//!
//! The host writes the table, so it is untrusted: verifiers check each certificate's signature. Malformed or unknown entries
//! are skipped, because the collateral can supply the chain.

use cocoon_protocol::bytes::Blob;

const ENTRY: usize = 24;
/// Largest number of entries that are read.
const MAX_ENTRIES: usize = 16;
/// Longest certificate that is accepted, in bytes.
const MAX_CERTIFICATE: usize = 8 * 1024;

/// GUIDs in the order of the document: keys that sign reports, then ASK, then ARK.
const WANTED: [[u8; 16]; 4] = [
    // 63da758d-e664-4564-adc5-f4b93be8accd, VCEK
    [
        0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac,
        0xcd,
    ],
    // a8074bc2-a25a-483e-aae6-39c045a0b8a1, VLEK
    [
        0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8,
        0xa1,
    ],
    // 4ab7b379-bbac-4fe4-a02f-05aef327c782, ASK
    [
        0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7,
        0x82,
    ],
    // c0b406a4-a803-4952-9743-3fb6014cd0ae, ARK
    [
        0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0,
        0xae,
    ],
];

/// Returns the table's certificates in DER, in the order of the document.
pub fn certificates(table: &[u8]) -> Vec<Blob> {
    let entries: Vec<(&[u8], &[u8])> = table
        .chunks_exact(ENTRY)
        .take(MAX_ENTRIES)
        .map_while(|entry| {
            entry
                .split_first_chunk::<16>()
                .filter(|(guid, _)| **guid != [0; 16])
        })
        .filter_map(|(guid, place)| {
            let at = usize::try_from(u32::from_le_bytes(*place.first_chunk()?)).ok()?;
            let length = usize::try_from(u32::from_le_bytes(*place.last_chunk()?)).ok()?;
            let certificate = table.get(at..at.checked_add(length)?)?;
            (1..=MAX_CERTIFICATE)
                .contains(&length)
                .then_some((guid.as_slice(), certificate))
        })
        .collect();
    WANTED
        .iter()
        .filter_map(|wanted| entries.iter().find(|(guid, _)| guid == wanted))
        .map(|(_, certificate)| Blob(certificate.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(guid: [u8; 16], at: u32, length: u32) -> Vec<u8> {
        [guid.as_slice(), &at.to_le_bytes(), &length.to_le_bytes()].concat()
    }

    #[test]
    fn order_is_the_documents() {
        let mut table = [
            entry(WANTED[3], 96, 1),
            entry(WANTED[0], 97, 2),
            entry([9; 16], 96, 1),
            entry([0; 16], 0, 0),
        ]
        .concat();
        table.extend([3, 1, 1]);
        assert_eq!(certificates(&table), [Blob(vec![1, 1]), Blob(vec![3])]);
    }

    #[test]
    fn places_outside_the_table_are_left_out() {
        let table = [
            entry(WANTED[0], u32::MAX, u32::MAX),
            entry(WANTED[2], 40, 100),
            entry([0; 16], 0, 0),
        ]
        .concat();
        assert_eq!(certificates(&table), []);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(table in prop::collection::vec(any::<u8>(), 0..200)) {
            certificates(&table);
        }
    }
}
