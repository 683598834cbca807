//! TDX quotes of version 4 and 5 (Intel TDX DCAP Quoting Library API, appendix 3): header, TD report, and the signature
//! data around what the quoting enclave certifies.

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use sha2::{Digest, Sha256, Sha384};

use crate::tdx::identity::PCE_SVN;

/// `TEE_TCB_SVN`: TDX module 1.x of SVN 6, microcode 3.
pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Attributes of a good trust domain: SEPT_VE_DISABLE alone, no debugging, no migration.
pub const TD_ATTRIBUTES: u64 = 1 << 28;
/// Extended features of a good trust domain: x87, SSE, AVX, AVX-512, PKRU, AMX.
pub const XFAM: u64 = 0x0006_02e7;

const ECDSA_P256: u16 = 2;
const TDX: u32 = 0x81;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const QE_REPORT_DATA: u16 = 6;
/// Kinds of the TD report that a quote of version 5 names.
const TDX_10: u16 = 2;
const TDX_15: u16 = 3;
const TDX_15_EXTENDED: u16 = 4;

/// Bytes of a TD report of TDX 1.0, the only one that version 4 has room for.
pub const TD_REPORT_LEN: usize = 584;
/// Bytes of the extended TD report of TDX 1.5.
pub const EXTENDED_LEN: usize = 885;

/// Layout of a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteVersion {
    /// The TD report alone behind the header.
    V4,
    /// Kind and length before the TD report, which may be of TDX 1.5.
    V5,
}

/// What TDX 1.5 reports beyond [`TdReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// Versions of the TDX module and its parts now (`TEE_TCB_SVN2`): the module may have been updated since the launch.
    pub tee_tcb_svn_2: [u8; 16],
    /// Digest of the service TDs that are bound (`MRSERVICETD`); none here.
    pub mr_service_td: [u8; 48],
    /// What newer quoting enclaves add.
    pub extended: Option<Extended>,
}

/// What the extended report of TDX 1.5 has behind the other (`sgx_report2_body_v1_5_ex_t` of Intel's `sgx_quote_5.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// Which VM of a partitioned trust domain (`VMID`); 0 is the domain itself.
    pub vm: u8,
    /// Statistically unique identity of this trust domain (`TDID`).
    pub td_id: [u8; 32],
    /// Digest of the devices that were taken in (`DEV_INFO`).
    pub dev_info: [u8; 48],
    /// Digest and attributes of the service TDs that were bound at the creation.
    pub init_service_td: ([u8; 48], [u8; 8]),
    /// CPUSVN, `TEE_TCB_SVN` and model of the platform of the creation, where a service TD may have moved the domain.
    pub init_platform: ([u8; 16], [u8; 16], [u8; 12]),
    /// Digest and attributes of the service TDs that are bound now.
    pub service_td: ([u8; 48], [u8; 8]),
}

impl Later {
    /// A platform that runs what it was started with, and no service TD.
    #[must_use]
    pub fn good() -> Self {
        Self {
            tee_tcb_svn_2: TEE_TCB_SVN,
            mr_service_td: [0; 48],
            extended: None,
        }
    }

    /// The same in an extended report.
    #[must_use]
    pub fn extended() -> Self {
        Self {
            extended: Some(Extended {
                vm: 0,
                td_id: Sha256::digest(b"cocoon simulated trust domain").into(),
                dev_info: [0; 48],
                init_service_td: ([0; 48], [0; 8]),
                init_platform: ([0; 16], [0; 16], [0; 12]),
                service_td: ([0; 48], [0; 8]),
            }),
            ..Self::good()
        }
    }
}

impl Extended {
    fn to_bytes(&self) -> Vec<u8> {
        let (init_hash, init_attributes) = &self.init_service_td;
        let (cpu_svn, tee_tcb_svn, fmspc) = &self.init_platform;
        let (hash, attributes) = &self.service_td;
        let fields: [&[u8]; 10] = [
            &[self.vm],
            &self.td_id,
            &self.dev_info,
            init_hash,
            init_attributes,
            cpu_svn,
            tee_tcb_svn,
            fmspc,
            hash,
            attributes,
        ];
        fields.concat()
    }
}

/// What a trust domain's quote says: every field of the TDX 1.0 report body, to be set at will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// Versions of the TDX module and its parts.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero is Intel.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module.
    pub seam_attributes: u64,
    /// Attributes of the trust domain.
    pub td_attributes: u64,
    /// Extended features that the trust domain may use.
    pub xfam: u64,
    /// Measurement of the initial memory.
    pub mr_td: [u8; 48],
    /// Digest of the operator's configuration.
    pub mr_config_id: [u8; 48],
    /// Unused: zero.
    pub mr_owner: [u8; 48],
    /// Unused: zero.
    pub mr_owner_config: [u8; 48],
    /// Runtime registers.
    pub rtmr: [[u8; 48]; 4],
    /// What the guest binds.
    pub report_data: [u8; 64],
}

impl TdReport {
    /// A good trust domain with these measurements, as yet over no report data.
    #[must_use]
    pub fn good(mr_td: [u8; 48], rtmr: [[u8; 48]; 4], mr_config_id: [u8; 48]) -> Self {
        Self {
            tee_tcb_svn: TEE_TCB_SVN,
            mr_seam: Sha384::digest(b"cocoon simulated TDX module").into(),
            mr_signer_seam: [0; 48],
            seam_attributes: 0,
            td_attributes: TD_ATTRIBUTES,
            xfam: XFAM,
            mr_td,
            mr_config_id,
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr,
            report_data: [0; 64],
        }
    }

    /// The body's 584 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &self.rtmr;
        let (seam, td, xfam) = (
            self.seam_attributes.to_le_bytes(),
            self.td_attributes.to_le_bytes(),
            self.xfam.to_le_bytes(),
        );
        let fields: [&[u8]; 15] = [
            &self.tee_tcb_svn,
            &self.mr_seam,
            &self.mr_signer_seam,
            &seam,
            &td,
            &xfam,
            &self.mr_td,
            &self.mr_config_id,
            &self.mr_owner,
            &self.mr_owner_config,
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
            &self.report_data,
        ];
        fields.concat()
    }

    /// The body with what TDX 1.5 has behind it.
    #[must_use]
    pub fn to_bytes_15(&self, later: &Later) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes.extend(later.tee_tcb_svn_2);
        bytes.extend(later.mr_service_td);
        bytes.extend(later.extended.iter().flat_map(Extended::to_bytes));
        bytes
    }
}

/// The kind that a quote of version 5 names for a report of this length.
pub(super) fn kind(length: usize) -> u16 {
    match length {
        TD_REPORT_LEN => TDX_10,
        EXTENDED_LEN => TDX_15_EXTENDED,
        _ => TDX_15,
    }
}

/// The quote around this TD report, whatever it says: signed by `attestation_key`, which `certification` names. Only version 5
/// tells `kind`.
pub(super) fn sign(
    version: QuoteVersion,
    kind: u16,
    body: &[u8],
    attestation_key: &SigningKey,
    certification: &[u8],
) -> Vec<u8> {
    let mut quote = header(version);
    match version {
        QuoteVersion::V4 => quote.extend(body),
        QuoteVersion::V5 => append(&mut quote, kind, body),
    }
    let mut data = raw_signature(attestation_key, &quote).to_vec();
    data.extend(coordinates(attestation_key));
    append(&mut data, QE_REPORT_DATA, certification);
    quote.extend(length(&data));
    quote.extend(data);
    quote
}

fn header(version: QuoteVersion) -> Vec<u8> {
    let version: u16 = match version {
        QuoteVersion::V4 => 4,
        QuoteVersion::V5 => 5,
    };
    let mut header = [version.to_le_bytes(), ECDSA_P256.to_le_bytes()].concat();
    header.extend(TDX.to_le_bytes());
    // Both versions leave the places of QE and PCE SVN reserved.
    header.extend([0; 4]);
    header.extend(INTEL);
    header.extend([0; 20]);
    header
}

/// The two coordinates of a key's public half.
pub(super) fn coordinates(key: &SigningKey) -> [u8; 64] {
    let point = key.verifying_key().to_encoded_point(false);
    let mut coordinates = [0; 64];
    // An uncompressed point is the byte 4 and two coordinates of 32 bytes.
    coordinates.copy_from_slice(&point.as_bytes()[1..]);
    coordinates
}

pub(super) fn append(data: &mut Vec<u8>, kind: u16, content: &[u8]) {
    data.extend(kind.to_le_bytes());
    data.extend(length(content));
    data.extend(content);
}

fn length(content: &[u8]) -> [u8; 4] {
    // Contents are a few certificates long.
    u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
}

/// `r` and `s`, 32 bytes each, big-endian.
pub(super) fn raw_signature(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().into()
}

const _: () = assert!(PCE_SVN < 256, "one byte in the certificate's INTEGER");
