//! TDX quotes of versions 4 and 5 (Intel TDX DCAP Quoting Library API, appendix 3): header, TD report, and signature data
//! with the quoting enclave's certification data.

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use sha2::{Digest, Sha256, Sha384};

use crate::tdx::identity::PCE_SVN;

/// `TEE_TCB_SVN`: TDX module 1.x of SVN 6, microcode 3.
pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Attributes of a valid trust domain: only SEPT_VE_DISABLE, so neither debugging nor migration.
pub const TD_ATTRIBUTES: u64 = 1 << 28;
/// Extended features of a valid trust domain: x87, SSE, AVX, AVX-512, PKRU, AMX.
pub const XFAM: u64 = 0x0006_02e7;

const ECDSA_P256: u16 = 2;
const TDX: u32 = 0x81;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const QE_REPORT_DATA: u16 = 6;
/// Body types of a version 5 quote.
const TDX_10: u16 = 2;
const TDX_15: u16 = 3;
const TDX_15_EXTENDED: u16 = 4;

/// Length of a TDX 1.0 TD report in bytes, the only kind in version 4.
pub const TD_REPORT_LEN: usize = 584;
/// Length of the extended TDX 1.5 TD report in bytes.
pub const EXTENDED_LEN: usize = 885;

/// Version of a quote, which determines its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteVersion {
    /// The TD report directly follows the header.
    V4,
    /// A body type and a length precede the TD report, which may be that of TDX 1.5.
    V5,
}

/// Fields that TDX 1.5 adds to [`TdReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// Current security versions of the TDX module (`TEE_TCB_SVN2`), which may have been updated since the launch.
    pub tee_tcb_svn_2: [u8; 16],
    /// Digest of the bound service TDs (`MRSERVICETD`); zero, because there are none.
    pub mr_service_td: [u8; 48],
    /// Fields that newer quoting enclaves add.
    pub extended: Option<Extended>,
}

/// Fields that only the extended report of TDX 1.5 has (`sgx_report2_body_v1_5_ex_t` of Intel's `sgx_quote_5.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// VM of a partitioned trust domain (`VMID`). 0 is the trust domain itself.
    pub vm: u8,
    /// Statistically unique id of this trust domain (`TDID`).
    pub td_id: [u8; 32],
    /// Digest of the assigned devices (`DEV_INFO`).
    pub dev_info: [u8; 48],
    /// Digest and attributes of the service TDs that were bound at creation.
    pub init_service_td: ([u8; 48], [u8; 8]),
    /// CPUSVN, `TEE_TCB_SVN` and FMSPC of the platform at creation, from which a service TD may have migrated the trust
    /// domain.
    pub init_platform: ([u8; 16], [u8; 16], [u8; 12]),
    /// Digest and attributes of the currently bound service TDs.
    pub service_td: ([u8; 48], [u8; 8]),
}

impl Later {
    /// Returns the fields of a platform without service TDs whose module was not updated since the launch.
    #[must_use]
    pub fn good() -> Self {
        Self {
            tee_tcb_svn_2: TEE_TCB_SVN,
            mr_service_td: [0; 48],
            extended: None,
        }
    }

    /// Returns the same fields in an extended report.
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

/// All fields of a TDX 1.0 TD report. Tests can set each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// Security versions of the TDX module and the platform.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module. Zero stands for Intel.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module.
    pub seam_attributes: u64,
    /// Attributes of the trust domain.
    pub td_attributes: u64,
    /// Extended features that the trust domain may use.
    pub xfam: u64,
    /// Measurement of the initial memory.
    pub mr_td: [u8; 48],
    /// Digest of the operator's configuration (MRCONFIGID).
    pub mr_config_id: [u8; 48],
    /// MROWNER: unused, zero.
    pub mr_owner: [u8; 48],
    /// MROWNERCONFIG: unused, zero.
    pub mr_owner_config: [u8; 48],
    /// Runtime measurement registers (RTMR0 to RTMR3).
    pub rtmr: [[u8; 48]; 4],
    /// Data that the guest binds (REPORTDATA).
    pub report_data: [u8; 64],
}

impl TdReport {
    /// Returns a valid report with these measurements and without report data.
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

    /// Returns the 584 bytes of the report.
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

    /// Returns the report followed by the fields of TDX 1.5.
    #[must_use]
    pub fn to_bytes_15(&self, later: &Later) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes.extend(later.tee_tcb_svn_2);
        bytes.extend(later.mr_service_td);
        bytes.extend(later.extended.iter().flat_map(Extended::to_bytes));
        bytes
    }
}

/// Returns the body type of a version 5 quote for a report of this length.
pub(super) fn kind(length: usize) -> u16 {
    match length {
        TD_REPORT_LEN => TDX_10,
        EXTENDED_LEN => TDX_15_EXTENDED,
        _ => TDX_15,
    }
}

/// Returns the quote of any TD report, signed by `attestation_key`, which `certification` certifies. Only version 5 contains
/// `kind`.
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
    // Both versions reserve the fields that held the security versions of QE and PCE.
    header.extend([0; 4]);
    header.extend(INTEL);
    header.extend([0; 20]);
    header
}

/// Returns the two coordinates of the key's public point.
pub(super) fn coordinates(key: &SigningKey) -> [u8; 64] {
    let point = key.verifying_key().to_encoded_point(false);
    let mut coordinates = [0; 64];
    // An uncompressed point is the byte 4 followed by two coordinates of 32 bytes.
    coordinates.copy_from_slice(&point.as_bytes()[1..]);
    coordinates
}

pub(super) fn append(data: &mut Vec<u8>, kind: u16, content: &[u8]) {
    data.extend(kind.to_le_bytes());
    data.extend(length(content));
    data.extend(content);
}

fn length(content: &[u8]) -> [u8; 4] {
    // Cannot saturate: contents are only a few certificates long.
    u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
}

/// Returns `r` and `s` as 32 bytes each, big-endian.
pub(super) fn raw_signature(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().into()
}

const _: () = assert!(PCE_SVN < 256, "one byte in the certificate's INTEGER");
