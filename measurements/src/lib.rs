//! Predicts TEE measurements, verifies attestation evidence, and appraises it into verdicts.
//!
//! All functions are pure. Nothing here opens a file, socket or device, or reads a clock: the caller passes bytes and `now`.
//! Untrusted bytes never cause a panic, and parse errors name the structure and the offset.
//!
//! * Prediction: [`tdx::predict`] (MRTD and the events of RTMR0 to RTMR2), [`snp::launch`], [`pe`], [`ccel`].
//! * Receipts: [`receipt`], statements about an answer that an attested guest signed.
//! * Evidence: [`tdx::quote`], [`snp::report`], [`nvidia`], under the roots of trust in [`roots`].

#![forbid(unsafe_code)]

pub mod appraise;
pub mod attacks;
mod bytes;
pub mod ccel;
pub mod der;
pub mod guid;
pub mod guid_table;
pub mod manifest;
pub mod nvidia;
pub mod pe;
pub mod policy;
#[cfg(test)]
mod properties;
pub mod receipt;
pub mod roots;
pub mod snp;
pub mod tdx;
#[cfg(test)]
mod test_firmware;
pub mod verdict;

pub use bytes::Truncated;
