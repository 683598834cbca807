//! Parses the beginning of a GGUF file: metadata and table of tensors (`docs/gguf.md` of ggml, versions 2 and 3).
//!
//! It reads only what is needed to move tensors, and returns `None` for any unexpected file. Only the engine decides whether a
//! file is a model.

/// Largest number of bytes before the tensors' data. Vocabularies take a few million.
pub const MAX_HEADER: usize = 64 << 20;
/// Largest number of tensors; the largest models have thousands.
const MAX_TENSORS: u64 = 1 << 16;
/// Largest number of dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Largest depth of arrays in arrays.
const MAX_DEPTH: u32 = 4;
/// Default alignment of tensors, in bytes; metadata may override it.
const ALIGNMENT: u64 = 32;
/// Largest alignment that is accepted, in bytes, because padding to it is held in memory.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Numbers of the types of metadata values.
mod value {
    pub const UINT32: u32 = 4;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
}

/// Everything before the tensors' data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Magic, version, counts and metadata, unchanged.
    pub values: Vec<u8>,
    /// Offset in `values` of the number of the file's main type, if the metadata has it.
    pub file_type: Option<usize>,
    /// Tensors in the order of the table.
    pub tensors: Vec<Tensor>,
    /// Alignment of tensors, in bytes.
    pub alignment: u64,
    /// Offset of the tensors' data in the file.
    pub data: u64,
}

/// An entry of the table of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name and dimensions, in their encoded form.
    pub description: Vec<u8>,
    /// Number of elements.
    pub elements: u64,
    /// Number of the element type.
    pub kind: u32,
    /// Offset from [`Header::data`], in bytes.
    pub offset: u64,
}

impl Header {
    /// Parses `bytes`, the beginning of a file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4)? != b"GGUF" || !(2..=3).contains(&cursor.u32()?) {
            return None;
        }
        let (tensors, values) = (cursor.u64()?, cursor.u64()?);
        if tensors > MAX_TENSORS {
            return None;
        }
        let (mut alignment, mut file_type) = (ALIGNMENT, None);
        for _ in 0..values {
            let key = cursor.string()?;
            let kind = cursor.u32()?;
            let at = cursor.at;
            cursor.skip_value(kind, 0)?;
            match (key, kind) {
                (b"general.alignment", value::UINT32) => {
                    alignment = Cursor { bytes, at }.u32()?.into();
                }
                (b"general.file_type", value::UINT32) => file_type = Some(at),
                _ => {}
            }
        }
        let values = bytes.get(..cursor.at)?.to_vec();
        let tensors = (0..tensors).map(|_| cursor.tensor());
        let tensors = tensors.collect::<Option<Vec<_>>>()?;
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return None;
        }
        Some(Self {
            values,
            file_type,
            tensors,
            alignment,
            data: (cursor.at as u64).next_multiple_of(alignment),
        })
    }

    /// Returns the header as it is in a file, including the padding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.values.clone();
        for tensor in &self.tensors {
            bytes.extend(&tensor.description);
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        let alignment = usize::try_from(self.alignment).unwrap_or(1);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        bytes
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u64()?;
        self.take(length)
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Option<()> {
        match (kind, scalar(kind)) {
            (_, Some(size)) => self.take(size).map(drop),
            (value::STRING, _) => self.string().map(drop),
            (value::ARRAY, _) if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match scalar(kind) {
                    Some(size) => self.take(size.checked_mul(count)?).map(drop),
                    // Each element takes at least one byte, so the end of the file ends this loop, too.
                    None => (0..count).try_for_each(|_| self.skip_value(kind, depth + 1)),
                }
            }
            _ => None,
        }
    }

    fn tensor(&mut self) -> Option<Tensor> {
        let start = self.at;
        self.string()?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return None;
        }
        let elements = (0..dimensions).try_fold(1_u64, |all, _| all.checked_mul(self.u64()?))?;
        Some(Tensor {
            description: self.bytes.get(start..self.at)?.to_vec(),
            elements,
            kind: self.u32()?,
            offset: self.u64()?,
        })
    }
}

/// Returns the size of a metadata value of a fixed-size type, in bytes.
fn scalar(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a file whose tensors have one dimension each: name, number of elements, type, data.
    pub fn file(tensors: &[(&str, u64, u32, &[u8])]) -> Vec<u8> {
        let string =
            |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(string("general.file_type"));
        bytes.extend([&4_u32.to_le_bytes()[..], &3_u32.to_le_bytes()].concat());
        bytes.extend(string("words"));
        bytes.extend([&9_u32.to_le_bytes()[..], &8_u32.to_le_bytes()].concat());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([string("one"), string("two")].concat());
        bytes.extend(string("numbers"));
        bytes.extend([&9_u32.to_le_bytes()[..], &12_u32.to_le_bytes()].concat());
        bytes.extend([&1_u64.to_le_bytes()[..], &[0; 8]].concat());
        let mut data: Vec<u8> = Vec::new();
        for (name, elements, kind, content) in tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            bytes.extend(string(name));
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend(elements.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(*content);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        let bytes = file(&[("a", 2, 0, &[1; 8]), ("b", 32, 3, &[2; 20])]);
        let header = Header::parse(&bytes).unwrap();
        let start = usize::try_from(header.data).unwrap();
        assert_eq!(header.encode(), bytes[..start]);
        assert_eq!(bytes[start..start + 8], [1; 8]);
        let shown: Vec<_> = header
            .tensors
            .iter()
            .map(|tensor| (tensor.elements, tensor.kind, tensor.offset))
            .collect();
        assert_eq!(shown, [(2, 0, 0), (32, 3, 32)]);
        let place = header.file_type.unwrap();
        assert_eq!(header.values[place..place + 4], [3, 0, 0, 0]);
    }

    #[test]
    fn data_begins_where_the_files_own_alignment_says() {
        let with = |alignment: u32| {
            let mut bytes = file(&[("a", 2, 0, &[1; 8])]);
            let key = b"general.alignment";
            let length = key.len() as u64;
            let (kind, value) = (4_u32.to_le_bytes(), alignment.to_le_bytes());
            let entry = [&length.to_le_bytes()[..], key, &kind, &value].concat();
            bytes[16..24].copy_from_slice(&4_u64.to_le_bytes());
            bytes.splice(24..24, entry);
            Header::parse(&bytes)
        };
        let unpadded = with(1).unwrap().data;
        for alignment in [1, 8, 64, 4096, 1 << 16] {
            let header = with(alignment).unwrap();
            assert_eq!(header.alignment, u64::from(alignment));
            assert_eq!(header.data, unpadded.next_multiple_of(u64::from(alignment)));
            assert_eq!(header.encode().len() as u64, header.data);
        }
        for impossible in [0, 3, 33, 1 << 17, u32::MAX] {
            assert_eq!(with(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn every_shorter_file_is_nothing() {
        let bytes = file(&[("a", 2, 0, &[]), ("b", 32, 3, &[])]);
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for length in 0..end - 7 {
            assert_eq!(Header::parse(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn impossible_counts_end_at_once() {
        let mut bytes = file(&[]);
        bytes[8..16].fill(0xff);
        assert_eq!(Header::parse(&bytes), None);
        let mut bytes = file(&[]);
        bytes[16..24].fill(0xff);
        assert_eq!(Header::parse(&bytes), None);
    }
}
