//! SPDM reports of simulated GPUs, written field by field so that each can be wrong.

use super::pki::Key;

/// A report before it is signed.
#[derive(Clone, Debug)]
pub struct ReportParts {
    /// The request, with the nonce of whoever asked.
    pub request: [u8; 37],
    /// Version, code, parameters of the response.
    pub response: [u8; 4],
    /// Number of measurements; that of `measurements` where nothing is said.
    pub blocks: Option<u8>,
    /// Index, specification, type and value of each measurement.
    pub measurements: Vec<(u8, u8, u8, Vec<u8>)>,
    /// The GPU's own random bytes.
    pub response_nonce: [u8; 32],
    /// Number and bytes of each opaque field.
    pub opaque: Vec<(u16, Vec<u8>)>,
}

impl ReportParts {
    /// What an H100 with this driver and VBIOS answers to `nonce`: 64 measurements, each of its index.
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

    /// The opaque field `id`; added, empty, where there is none.
    pub fn field(&mut self, id: u16) -> &mut Vec<u8> {
        let place = self.opaque.iter().position(|(own, _)| *own == id);
        let place = place.unwrap_or_else(|| {
            self.opaque.push((id, Vec::new()));
            self.opaque.len() - 1
        });
        &mut self.opaque[place].1
    }

    /// The bytes that a signature covers.
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

    /// The report as the GPU with this attestation key hands it out.
    #[must_use]
    pub fn signed(&self, key: &Key) -> Vec<u8> {
        let mut bytes = self.transcript();
        bytes.extend(key.sign_raw(&bytes));
        bytes
    }
}

/// A length, little-endian; what does not fit is as long as can be said, and then wrong.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}
