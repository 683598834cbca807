//! The opaque data of a GPU's report: a list of numbered fields with versions, board and mode.
//!
//! SPDM leaves the content to the vendor. Numbers and meanings follow NVIDIA's own verifier (`local_gpu_verifier`). Fields
//! without influence on a verdict are skipped, whatever they hold.

use thiserror::Error;

use crate::{Truncated, bytes::Reader};

const OPAQUE: &str = "opaque data of the GPU report";
/// Longest text in a field, in bytes.
const MAX_TEXT: usize = 64;
/// Value of a one-byte switch that is on.
const ON: u8 = 0xaa;
const OFF: u8 = 0x55;

/// The decoded fields; `None` for a field that is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opaque {
    /// Field 3: version of the driver, such as `550.144.03`.
    pub driver_version: Option<String>,
    /// Field 6: version of the VBIOS, written as in manifests, such as `96.00.5E.00.01`.
    pub vbios_version: Option<String>,
    /// Field 11: whether the video decoder NVDEC0 is in use.
    pub nvdec0: Option<bool>,
    /// Field 15: product of the chip, such as `882`.
    pub chip_sku: Option<String>,
    /// Field 17: project of the board, such as `1010`.
    pub project: Option<String>,
    /// Field 18: variant of the board, such as `0200`.
    pub project_sku: Option<String>,
    /// Field 20: SHA-384 digest of the firmware that holds the attestation key.
    pub fwid: Option<[u8; 48]>,
    /// Field 21: whether protected PCIe, a mode for several GPUs in place of full confidential computing, is on.
    pub protected_pcie: Option<bool>,
    /// Field 34: version of the opaque data format.
    pub version: Option<u16>,
    /// Field 35: name of the chip, reported from Blackwell on.
    pub chip: Option<String>,
    /// Field 36: confidential computing mode of the GPU.
    pub feature: Option<Feature>,
}

/// A mode of confidential computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// One GPU for one VM ("single GPU pass-through").
    SinglePassThrough,
    /// Several GPUs for one VM.
    MultiPassThrough,
    /// Protected PCIe.
    ProtectedPcie,
}

/// Why the opaque data is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpaqueError {
    /// The data ends early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field occurs twice, so that its value is ambiguous.
    #[error("{OPAQUE}: field {id} stands twice, again at offset {offset:#x}")]
    Repeated {
        /// Number of the field.
        id: u16,
        /// Offset of the second occurrence.
        offset: usize,
    },
    /// A field has the wrong length.
    #[error("{OPAQUE}: field {id} at offset {offset:#x} has {length} bytes, {expected} expected")]
    Length {
        /// Number of the field.
        id: u16,
        /// Offset of the field.
        offset: usize,
        /// Length found, in bytes.
        length: usize,
        /// Length required, in bytes.
        expected: &'static str,
    },
    /// A field has an undefined value.
    #[error("{OPAQUE}: field {id} at offset {offset:#x} holds {found}, {expected} expected")]
    Value {
        /// Number of the field.
        id: u16,
        /// Offset of the field.
        offset: usize,
        /// The field's bytes in hexadecimal, shortened.
        found: String,
        /// The values that are defined.
        expected: &'static str,
    },
}

impl Opaque {
    /// Decodes the list of fields.
    ///
    /// # Errors
    /// [`OpaqueError`] names the field that is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpaqueError> {
        let mut reader = Reader::new(OPAQUE, bytes);
        let mut seen: Vec<u16> = Vec::new();
        let mut opaque = Self::default();
        while reader.remaining() > 0 {
            let offset = reader.offset();
            let (id, length) = (reader.u16()?, reader.u16()?);
            let data = reader.take(length.into())?;
            if seen.contains(&id) {
                return Err(OpaqueError::Repeated { id, offset });
            }
            seen.push(id);
            opaque.set(&Field { id, offset, data })?;
        }
        Ok(opaque)
    }

    fn set(&mut self, field: &Field<'_>) -> Result<(), OpaqueError> {
        match field.id {
            3 => self.driver_version = Some(field.text()?),
            6 => self.vbios_version = Some(vbios_version(field.array("8")?)),
            11 => self.nvdec0 = Some(field.switch()?),
            15 => self.chip_sku = Some(field.text()?),
            17 => self.project = Some(field.text()?),
            18 => self.project_sku = Some(field.text()?),
            20 => self.fwid = Some(field.array("48")?),
            21 => self.protected_pcie = Some(field.switch()?),
            34 => self.version = Some(u16::from_le_bytes(field.array("2")?)),
            35 => self.chip = Some(field.text()?),
            36 => self.feature = Some(field.feature()?),
            _ => {}
        }
        Ok(())
    }
}

struct Field<'a> {
    id: u16,
    offset: usize,
    data: &'a [u8],
}

impl Field<'_> {
    fn array<const N: usize>(&self, expected: &'static str) -> Result<[u8; N], OpaqueError> {
        self.data.try_into().map_err(|_| OpaqueError::Length {
            id: self.id,
            offset: self.offset,
            length: self.data.len(),
            expected,
        })
    }

    fn switch(&self) -> Result<bool, OpaqueError> {
        match self.array("1")? {
            [ON] => Ok(true),
            [OFF] => Ok(false),
            _ => Err(self.value("0xaa (on) or 0x55 (off)")),
        }
    }

    fn feature(&self) -> Result<Feature, OpaqueError> {
        match u16::from_le_bytes(self.array("2")?) {
            0 => Ok(Feature::SinglePassThrough),
            1 => Ok(Feature::MultiPassThrough),
            2 => Ok(Feature::ProtectedPcie),
            _ => Err(self.value("0, 1 or 2")),
        }
    }

    /// Returns the printable ASCII text up to the first zero byte. Only zero bytes may follow it.
    fn text(&self) -> Result<String, OpaqueError> {
        let end = self.data.iter().position(|byte| *byte == 0);
        let (text, padding) = self.data.split_at(end.unwrap_or(self.data.len()));
        let plain = text.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(text) {
            Ok(text)
                if plain && text.len() <= MAX_TEXT && padding.iter().all(|byte| *byte == 0) =>
            {
                Ok(text.to_owned())
            }
            _ => Err(self.value("at most 64 characters of ASCII, then zeroes")),
        }
    }

    fn value(&self, expected: &'static str) -> OpaqueError {
        let shown = self.data.get(..MAX_TEXT).unwrap_or(self.data);
        OpaqueError::Value {
            id: self.id,
            offset: self.offset,
            found: hex::encode(shown),
            expected,
        }
    }
}

/// Formats a VBIOS version: the first four bytes as a little-endian number, highest byte first, then the fifth byte.
fn vbios_version([a, b, c, d, last, ..]: [u8; 8]) -> String {
    format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{last:02X}")
}
