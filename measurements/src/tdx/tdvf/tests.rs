//! Invalid sections and tables, one flaw at a time.

use super::{METADATA_OFFSET, SectionKind, Tdvf, TdvfError};
use crate::test_firmware::{Firmware, TdxSection};

fn refuse(change: impl FnOnce(&mut [TdxSection])) -> TdvfError {
    let mut firmware = Firmware::small();
    change(&mut firmware.tdx);
    Tdvf::parse(&firmware.build()).unwrap_err()
}

fn reason(error: &TdvfError) -> (usize, &'static str) {
    match error {
        TdvfError::Section { index, reason, .. } => (*index, reason),
        other => panic!("another error: {other}"),
    }
}

#[test]
fn reads_a_sound_table() {
    let firmware = Firmware::small().build();
    let tdvf = Tdvf::parse(&firmware).unwrap();
    assert_eq!(tdvf.sections().len(), 4);
    let cfv = tdvf.configuration_volume().unwrap();
    assert_eq!(tdvf.data(cfv).len(), 8192);
    assert_eq!(tdvf.hob_section().unwrap().address, 0x80_9000);
}

#[test]
fn sections_that_contradict_themselves_are_named() {
    type Change = fn(&mut TdxSection);
    let cases: [(&str, usize, Change); 9] = [
        ("its data lie outside the image", 0, |s| {
            s.data_offset = u32::MAX
        }),
        ("its memory wraps around", 2, |s| {
            s.address = u64::MAX - 4095
        }),
        ("its memory is not made of whole pages", 2, |s| {
            s.address += 1
        }),
        ("it has no memory", 2, |s| s.memory_size = 0),
        ("its data are larger than its memory", 0, |s| {
            s.memory_size = 4096
        }),
        ("a firmware volume without data", 1, |s| s.raw_size = 0),
        ("working memory with data", 3, |s| s.raw_size = 16),
        ("it has unknown attributes", 0, |s| s.attributes = 5),
        ("its type is unknown", 3, |s| s.kind = 9),
    ];
    for (expected, index, change) in cases {
        assert_eq!(
            reason(&refuse(|sections| change(&mut sections[index]))),
            (index, expected)
        );
    }
    let huge = refuse(|sections| sections[3].memory_size = 65 << 20);
    assert_eq!(
        reason(&huge),
        (3, "the sections together claim more than 64 MiB")
    );
}

#[test]
fn the_table_as_a_whole_is_checked() {
    assert_eq!(
        refuse(|s| s[3].address = s[2].address),
        TdvfError::Overlap {
            first: 2,
            second: 3
        }
    );
    assert_eq!(
        refuse(|s| s[2].kind = 3),
        TdvfError::KindCount {
            kind: SectionKind::TdHob,
            count: 0
        }
    );
    let mut firmware = Firmware::small();
    firmware.tdx.clear();
    assert!(matches!(
        Tdvf::parse(&firmware.build()).unwrap_err(),
        TdvfError::NotTdx
    ));
    let mut image = Firmware::small().build();
    let at = image
        .windows(16)
        .position(|w| w == METADATA_OFFSET.0)
        .unwrap()
        - 6;
    image[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Tdvf::parse(&image).unwrap_err(),
        TdvfError::Truncated(_)
    ));
}
