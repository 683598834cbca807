//! Small PE images with chosen properties, for comparing two implementations of Authenticode.

use std::ops::Range;

/// Bytes before the sections.
const HEADERS: usize = 0x400;
const PE: usize = 0x80;
const OPTIONAL: usize = PE + 24;
const SECTION_HEADER: usize = 40;

/// Kind of optional header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    Pe32,
    Pe32Plus,
}

/// A PE image: headers, consecutive sections, trailing bytes, and optionally a certificate table.
pub struct PeImage<'a> {
    pub magic: Magic,
    /// Lengths of the sections, in file order.
    pub sections: &'a [usize],
    /// Whether the section table lists the sections in reverse order.
    pub backwards: bool,
    /// Number of bytes after the sections that no header describes.
    pub trailing: usize,
    /// A certificate table including its own header; empty for none.
    pub certificates: &'a [u8],
}

impl PeImage<'_> {
    pub fn build(&self) -> Vec<u8> {
        let plus = self.magic == Magic::Pe32Plus;
        let (directories, optional_length) = if plus { (108, 0xf0) } else { (92, 0xe0) };
        let mut image = vec![0; HEADERS];
        let mut table = Vec::new();
        for length in self.sections {
            table.push((image.len(), *length));
            fill(&mut image, *length);
        }
        fill(&mut image, self.trailing);
        let certificates = image.len();
        image.extend(self.certificates);

        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &word(PE));
        put(PE, b"PE\0\0");
        put(PE + 4, &[0x64, 0x86]);
        put(PE + 6, &word(table.len())[..2]);
        put(PE + 20, &word(optional_length)[..2]);
        put(OPTIONAL, if plus { &[0x0b, 2] } else { &[0x0b, 1] });
        put(OPTIONAL + 60, &word(HEADERS));
        put(OPTIONAL + 64, &word(0x0bad_5eed));
        put(OPTIONAL + directories, &word(16));
        if !self.certificates.is_empty() {
            let entry = OPTIONAL + directories + 4 + 8 * 4;
            put(entry, &word(certificates));
            put(entry + 4, &word(self.certificates.len()));
        }
        if self.backwards {
            table.reverse();
        }
        for (number, (start, length)) in table.into_iter().enumerate() {
            let header = OPTIONAL + optional_length + SECTION_HEADER * number;
            put(header + 16, &word(length));
            put(header + 20, &word(start));
        }
        image
    }
}

/// Returns the range of an image's certificate table, if it has one. The image's headers must be valid.
pub fn certificates(image: &[u8]) -> Option<Range<usize>> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let optional = number(0x3c)? + 24;
    let directories = if image.get(optional..optional + 2)? == [0x0b, 2] {
        108
    } else {
        92
    };
    let entry = optional + directories + 4 + 8 * 4;
    let (start, length) = (number(entry)?, number(entry + 4)?);
    (length > 0).then_some(start..start + length)
}

/// Appends bytes of which no two neighbours are equal, so that swapped bytes are detected.
fn fill(image: &mut Vec<u8>, length: usize) {
    let start = image.len();
    image.extend((start..start + length).map(|at| (at % 251).to_le_bytes()[0]));
}

fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}
