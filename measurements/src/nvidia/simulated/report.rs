//! SPDM reports of simulated GPUs, assembled field by field so that a test can falsify each.

use super::pki::Key;

/// The parts of a report before it is signed.
#[derive(Clone, Debug)]
pub struct ReportParts {
    /// The request, with the requester's nonce.
    pub request: [u8; 37],
    /// Version, code and parameters of the response.
    pub response: [u8; 4],
    /// Stated number of measurements; `None` stands for the length of `measurements`.
    pub blocks: Option<u8>,
    /// Index, specification, type and value of each measurement.
    pub measurements: Vec<(u8, u8, u8, Vec<u8>)>,
    /// The GPU's nonce.
    pub response_nonce: [u8; 32],
    /// Number and data of each opaque field.
    pub opaque: Vec<(u16, Vec<u8>)>,
}

impl ReportParts {
    /// Returns the answer of an H100 with this driver and VBIOS to `nonce`: 64 measurements, each filled with its index.
    #[must_use]
    pub fn new(nonce: [u8; 32], driver: &str, vbios: [u8; 8], firmware_id: [u8; 48]) -> Self {
        let mut request = [0; 37];
        request[..4].copy_from_slice(&[0x11, 0xe0, 1, 0xff]);
        request[4..36].copy_from_slice(&nonce);
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        Self {
            request,
            response: [0x11, 0x60, 0, 0],
            blocks: None,
            measurements: (1..=64)
                .map(|index| (index, 1, 1, vec![index; 48]))
                .collect(),
            response_nonce: [0x5a; 32],
            opaque: vec![
                (6, vbios.to_vec()),
                (15, text("882")),
                (17, text("1010")),
                (18, text("0200")),
                (3, text(driver)),
                (11, vec![0xaa]),
                (20, firmware_id.to_vec()),
                (21, vec![0x55]),
            ],
        }
    }

    /// Returns the data of the opaque field `id`, and adds an empty field if there is none.
    pub fn field(&mut self, id: u16) -> &mut Vec<u8> {
        let place = self.opaque.iter().position(|(own, _)| *own == id);
        let place = place.unwrap_or_else(|| {
            self.opaque.push((id, Vec::new()));
            self.opaque.len() - 1
        });
        &mut self.opaque[place].1
    }

    /// Returns the bytes that the signature covers.
    #[must_use]
    pub fn transcript(&self) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, specification, kind, value) in &self.measurements {
            record.extend([*index, *specification]);
            record.extend(short(value.len() + 3));
            record.push(*kind);
            record.extend(short(value.len()));
            record.extend(value);
        }
        let mut opaque = Vec::new();
        for (id, data) in &self.opaque {
            opaque.extend(id.to_le_bytes());
            opaque.extend(short(data.len()));
            opaque.extend(data);
        }
        let count = u8::try_from(self.measurements.len()).unwrap_or(u8::MAX);
        let mut bytes = [&self.request[..], &self.response].concat();
        bytes.push(self.blocks.unwrap_or(count));
        let length = u32::try_from(record.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        bytes.extend(&length[..3]);
        bytes.extend(record);
        bytes.extend(self.response_nonce);
        bytes.extend(short(opaque.len()));
        bytes.extend(opaque);
        bytes
    }

    /// Returns the report with a signature by the attestation key.
    #[must_use]
    pub fn signed(&self, key: &Key) -> Vec<u8> {
        let mut bytes = self.transcript();
        bytes.extend(key.sign_raw(&bytes));
        bytes
    }
}

/// Encodes a length in little-endian. One that does not fit becomes 65535, which makes the report invalid.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}
