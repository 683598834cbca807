//! AMD SEV-SNP: what hardware will measure, and what a report says that it measured.

mod ark;
mod chain;
pub mod cpu;
mod endorsement;
pub mod firmware;
pub mod id_block;
pub mod launch;
pub mod report;
mod vmsa;
