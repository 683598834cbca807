//! AMD SEV-SNP: prediction of launch digests, and verification of attestation reports.

mod ark;
mod chain;
pub mod cpu;
mod endorsement;
pub mod firmware;
pub mod id_block;
pub mod launch;
pub mod report;
mod vmsa;
