//! Blanked and kept fields, and malformed tables.

use proptest::prelude::*;

use super::{MAX_TABLE, ProcessorId, SmbiosError, measured};
use crate::bytes::Truncated;

const PROCESSOR: ProcessorId = ProcessorId {
    signature: 0x0008_06f8,
    features: 0x1f8b_fbff,
};

fn structure(kind: u8, body: &[u8], strings: &[&str]) -> Vec<u8> {
    let length = u8::try_from(4 + body.len()).unwrap();
    let mut bytes = vec![kind, length, 0x34, 0x12];
    bytes.extend(body);
    for string in strings {
        bytes.extend(string.as_bytes());
        bytes.push(0);
    }
    bytes.extend(if strings.is_empty() {
        &[0, 0][..]
    } else {
        &[0]
    });
    bytes
}

fn table(structures: &[Vec<u8>]) -> Vec<u8> {
    [structures.concat(), structure(127, &[], &[])].concat()
}

fn after(structures: &[Vec<u8>]) -> Vec<u8> {
    measured(&table(structures), PROCESSOR).unwrap()
}

#[test]
fn a_system_keeps_its_kind_and_loses_its_name() {
    let mut body = vec![1, 2, 3, 4];
    body.extend([0xaa; 16]);
    body.extend([6, 0, 0]);
    let mut blank = vec![1, 2, 3, 0];
    blank.extend([0; 16 + 3]);
    let system = structure(1, &body, &["QEMU", "Q35", "pc-q35-10.0", "S123"]);
    let expected = structure(1, &blank, &["QEMU", "Q35", "pc-q35-10.0", "    "]);
    assert_eq!(after(&[system]), table(&[expected]));
}

#[test]
fn a_processor_has_the_given_id_and_no_count() {
    let mut body: Vec<u8> = (4..0x30).collect();
    body[0x20 - 4] = 0;
    body[0x21 - 4] = 1;
    // A number beyond the last string stands for the last one.
    body[0x22 - 4] = 9;
    let mut expected = body.clone();
    expected[4..12].copy_from_slice(&[0xf8, 0x06, 0x08, 0x00, 0xff, 0xfb, 0x8b, 0x1f]);
    for at in [
        0x11, 0x16, 0x17, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
    ] {
        expected[at - 4] = 0;
    }
    assert_eq!(
        after(&[structure(4, &body, &["tag", "part"])]),
        table(&[structure(4, &expected, &["   ", "    "])])
    );
}

/// Exactly the listed fields are blanked, in structures of 48 bytes with one string.
#[test]
fn cocoon_tdx_14() {
    let fields: [(u8, &[usize], bool); 9] = [
        (
            1,
            &[
                7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
            ],
            true,
        ),
        (2, &[7, 10], true),
        (3, &[7, 8], true),
        (
            4,
            &[17, 22, 23, 32, 33, 34, 35, 36, 37, 42, 43, 44, 45, 46, 47],
            true,
        ),
        (17, &[24, 25, 26], true),
        (22, &[7, 16, 17, 18, 19], true),
        (23, &[5, 6], false),
        (27, &[12, 13], false),
        (39, &[8, 9, 10], true),
    ];
    for (kind, blank, string) in fields {
        let body = [1; 44];
        let mut expected = body;
        for at in blank {
            expected[at - 4] = 0;
        }
        if kind == 4 {
            expected[4..12].copy_from_slice(&[0xf8, 0x06, 0x08, 0x00, 0xff, 0xfb, 0x8b, 0x1f]);
        }
        let text = if string { "    " } else { "text" };
        assert_eq!(
            after(&[structure(kind, &body, &["text"])]),
            table(&[structure(kind, &expected, &[text])]),
            "type {kind}"
        );
    }
}

#[test]
fn whole_kinds_are_zero_behind_their_header() {
    for kind in [11, 15, 18, 31, 33, 128, 255] {
        let before = structure(kind, &[1, 2, 3], &["secret"]);
        let expected = [before[..4].to_vec(), vec![0; before.len() - 4]].concat();
        assert_eq!(after(&[before]), table(&[expected]), "type {kind}");
    }
    let kept = structure(16, &[1, 2, 3], &["array"]);
    assert_eq!(after(std::slice::from_ref(&kept)), table(&[kept]));
}

/// A field that an older, shorter structure does not have is skipped, not looked for among the strings.
#[test]
fn short_structures_have_fewer_fields() {
    let short = structure(3, &[1, 2, 3], &["a", "b", "c"]);
    assert_eq!(after(std::slice::from_ref(&short)), table(&[short]));
}

#[test]
fn each_flaw_has_its_error() {
    let flaw = |bytes: &[u8]| measured(bytes, PROCESSOR).unwrap_err();
    assert_eq!(
        flaw(&vec![0; MAX_TABLE + 1]),
        SmbiosError::TooLarge {
            length: MAX_TABLE + 1
        }
    );
    let structure_flaw = |kind, offset, flaw| SmbiosError::Structure { kind, offset, flaw };
    assert_eq!(
        flaw(&[1, 3, 0, 0, 0, 0]),
        structure_flaw(1, 0, "is shorter than its header")
    );
    assert_eq!(
        flaw(&table(&[
            structure(16, &[], &[]),
            structure(4, &[0; 11], &[])
        ])),
        structure_flaw(4, 6, "has no processor id")
    );
    assert_eq!(
        flaw(&table(&[structure(3, &[0, 0, 0, 1, 0], &[])])),
        structure_flaw(3, 0, "names a string and has none")
    );
    let endless = structure(16, &[], &[]);
    assert_eq!(
        flaw(&endless),
        SmbiosError::Truncated(Truncated {
            structure: "SMBIOS table",
            offset: 6,
            needed: 2,
            available: 0
        })
    );
    assert_eq!(
        flaw(&[16, 4, 0, 0, b'a', 0]),
        SmbiosError::Truncated(Truncated {
            structure: "SMBIOS table",
            offset: 4,
            needed: 3,
            available: 2
        })
    );
    assert_eq!(
        flaw(&[table(&[]), vec![0; 3]].concat()),
        SmbiosError::Trailing {
            offset: 6,
            length: 3
        }
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..256)) {
        if let Ok(measured) = measured(&bytes, PROCESSOR) {
            prop_assert_eq!(measured.len(), bytes.len());
        }
    }
}
