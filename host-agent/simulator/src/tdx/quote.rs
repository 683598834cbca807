//! TDX quotes of version 4 (Intel TDX DCAP Quoting Library API, appendix 3): header, TD report, and the signature
//! data, which nests the quoting enclave's report and the PCK chain.

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use sha2::{Digest, Sha256, Sha384};

use crate::tdx::identity::{CPU_SVN, IntelIdentity, PCE_SVN};
use crate::x509::{self, PrivateKey, X509Error};

/// `TEE_TCB_SVN`: TDX module 1.x of SVN 6, microcode 3.
pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Attributes of a good trust domain: SEPT_VE_DISABLE alone, no debugging, no migration.
pub const TD_ATTRIBUTES: u64 = 1 << 28;
/// Extended features of a good trust domain: x87, SSE, AVX, AVX-512, PKRU, AMX.
pub const XFAM: u64 = 0x0006_02e7;
/// Product id of the TD quoting enclave.
pub const QE_PROD_ID: u16 = 2;
/// Version of the TD quoting enclave.
pub const QE_SVN: u16 = 6;
/// Attributes of the quoting enclave: initialised, 64 bit, provisioning key; not debuggable.
pub const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];

const VERSION: u16 = 4;
const ECDSA_P256: u16 = 2;
const TDX: u32 = 0x81;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const QE_REPORT_DATA: u16 = 6;
const PCK_CHAIN: u16 = 5;

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
}

/// Signer of the simulated quoting enclave.
#[must_use]
pub fn qe_mr_signer() -> [u8; 32] {
    Sha256::digest(b"cocoon simulated quoting enclave signer").into()
}

/// The quote of `report`: signed by `attestation_key`, which the quoting enclave's report names, which the platform's
/// PCK signs.
pub(super) fn sign(
    report: &TdReport,
    attestation_key: &SigningKey,
    identity: &IntelIdentity,
) -> Result<Vec<u8>, X509Error> {
    let mut quote = header();
    quote.extend(report.to_bytes());
    let signature = raw_signature(attestation_key, &quote);
    let point = attestation_key.verifying_key().to_encoded_point(false);
    // An uncompressed point is the byte 4 and two coordinates of 32 bytes.
    let public = &point.as_bytes()[1..];

    let authentication_data = Sha256::digest(b"cocoon simulated quoting enclave");
    let qe_report = qe_report(public, &authentication_data);
    let PrivateKey::P256(pck) = &identity.pck.key else {
        return Err(X509Error::Key {
            operation: "use",
            reason: "the PCK is not on P-256".into(),
        });
    };
    let mut certification = qe_report.clone();
    certification.extend(raw_signature(pck, &qe_report));
    certification.extend(32_u16.to_le_bytes());
    certification.extend(authentication_data);
    let chain = x509::pem(&[
        &identity.pck.certificate,
        &identity.pck_ca.certificate,
        &identity.root.certificate,
    ])?;
    append(&mut certification, PCK_CHAIN, chain.as_bytes());

    let mut data = signature.to_vec();
    data.extend(public);
    append(&mut data, QE_REPORT_DATA, &certification);
    quote.extend(length(&data));
    quote.extend(data);
    Ok(quote)
}

fn header() -> Vec<u8> {
    let mut header = [VERSION.to_le_bytes(), ECDSA_P256.to_le_bytes()].concat();
    header.extend(TDX.to_le_bytes());
    // Version 4 leaves the places of QE and PCE SVN reserved.
    header.extend([0; 4]);
    header.extend(INTEL);
    header.extend([0; 20]);
    header
}

/// SGX report body of the quoting enclave, 384 bytes: its report data are the hash of the attestation key.
fn qe_report(public: &[u8], authentication_data: &[u8]) -> Vec<u8> {
    let mut report = CPU_SVN.to_vec();
    report.extend([0; 4 + 28]);
    report.extend(QE_ATTRIBUTES);
    report.extend(Sha256::digest(b"cocoon simulated quoting enclave code"));
    report.extend([0; 32]);
    report.extend(qe_mr_signer());
    report.extend([0; 96]);
    report.extend(QE_PROD_ID.to_le_bytes());
    report.extend(QE_SVN.to_le_bytes());
    report.extend([0; 60]);
    report.extend(
        Sha256::new()
            .chain_update(public)
            .chain_update(authentication_data)
            .finalize(),
    );
    report.extend([0; 32]);
    report
}

fn append(data: &mut Vec<u8>, kind: u16, content: &[u8]) {
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
fn raw_signature(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().into()
}

const _: () = assert!(PCE_SVN < 256, "one byte in the certificate's INTEGER");
