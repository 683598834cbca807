//! Checks that files with weights are complete. An interrupted download would otherwise be measured, signed and booted, and
//! the engine would die without an explanation.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;

use super::gguf::{Header, MAX_HEADER};
use super::recode::SIZES;

/// Returns what is wrong with the GGUF file at `path`, or `None`.
///
/// # Errors
/// An [`io::Error`] when the file cannot be read.
pub fn gguf(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut beginning = Vec::new();
    file.take(MAX_HEADER as u64).read_to_end(&mut beginning)?;
    let Some(header) = Header::parse(&beginning) else {
        return Ok(Some(
            "its header is cut short or contradicts itself".to_owned(),
        ));
    };
    let mut ends = header.tensors.iter().map(|tensor| {
        // The size of a tensor of an unknown type is not known, so only its first byte must be there.
        let known = SIZES.iter().find(|(kind, ..)| *kind == tensor.kind);
        let length = known.map_or(Some(1), |(_, weights, bytes)| {
            tensor.elements.div_ceil(*weights).checked_mul(*bytes)
        });
        header.data.checked_add(tensor.offset)?.checked_add(length?)
    });
    let end = ends.try_fold(header.data.min(size), |most, end| Some(most.max(end?)));
    Ok(match end {
        Some(end) if end <= size => None,
        Some(end) => Some(cut_short(end, size)),
        None => Some("its header places tensors beyond any file".to_owned()),
    })
}

/// Returns what is wrong with a safetensors file of `size` bytes, whose header is `json`, or `None`.
pub fn safetensors(json: &[u8], size: u64) -> Option<String> {
    #[derive(Deserialize)]
    struct Tensor {
        data_offsets: (u64, u64),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Tensor(Tensor),
        /// The entry `__metadata__`.
        Other(serde::de::IgnoredAny),
    }
    let entries: Result<std::collections::BTreeMap<String, Entry>, _> =
        serde_json::from_slice(json);
    let Ok(entries) = entries else {
        return Some("its header is not a JSON object".to_owned());
    };
    let ends = entries.values().filter_map(|entry| match entry {
        Entry::Tensor(tensor) => Some(tensor.data_offsets.1),
        Entry::Other(_) => None,
    });
    let header = (json.len() as u64).saturating_add(8);
    let end = ends.max().unwrap_or(0).saturating_add(header);
    (end > size).then(|| cut_short(end, size))
}

fn cut_short(end: u64, size: u64) -> String {
    format!("it is cut short: its tensors end at byte {end}, the file at byte {size}")
}

#[cfg(test)]
mod tests {
    use super::super::gguf::tests::file;
    use super::*;

    fn judged(bytes: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        std::fs::write(&path, bytes).unwrap();
        gguf(&path).unwrap()
    }

    #[test]
    fn a_gguf_file_ends_with_its_last_tensor_or_later() {
        let whole = file(&[("norm", 3, 0, &[9; 12]), ("new", 32, 99, &[1])]);
        assert_eq!(judged(&whole), None);
        let tensors = file(&[("a", 8, 0, &[1; 32]), ("b", 8, 0, &[2; 32])]);
        assert_eq!(judged(&tensors), None);
        let cut = &tensors[..tensors.len() - 1];
        assert_eq!(
            judged(cut),
            Some(format!(
                "it is cut short: its tensors end at byte {}, the file at byte {}",
                tensors.len(),
                cut.len()
            ))
        );
        assert_eq!(
            judged(&tensors[..40]).as_deref(),
            Some("its header is cut short or contradicts itself")
        );
        let far = file(&[("far", u64::MAX / 4, 0, &[])]);
        assert_eq!(
            judged(&far).as_deref(),
            Some("its header places tensors beyond any file")
        );
    }

    #[test]
    fn a_safetensors_file_ends_with_its_last_tensor_or_later() {
        let header = br#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let end = header.len() as u64 + 16;
        assert_eq!(safetensors(header, end), None);
        assert_eq!(
            safetensors(header, end - 1),
            Some(format!(
                "it is cut short: its tensors end at byte {end}, the file at byte {}",
                end - 1
            ))
        );
        assert_eq!(
            safetensors(b"{\"a\"", 100).as_deref(),
            Some("its header is not a JSON object")
        );
    }
}
