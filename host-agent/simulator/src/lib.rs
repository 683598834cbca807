//! Software stand-in for TEE hardware: evidence in the vendors' own formats, under throw-away development roots.
//!
//! | module | imitates |
//! |---|---|
//! | [`tdx`] | the TDX module, the quoting enclave, and Intel's collateral service |
//! | [`snp`] | the SNP firmware and AMD's certificate chain |
//! | [`nvidia`] | H100s, their certificates, and NVIDIA's reference manifests and answers on revocation |
//! | [`opened`] | the loader: the very bytes that a QEMU process opened |
//! | [`launch`] | the launch of a confidential VM: those bytes, measured |
//! | [`roots`] | the vendors' factories: keys made at the first start |
//! | [`server`] | the machine, as the host agent sees it: a socket |
//!
//! Every root carries a critical extension that marks it as a development root, and verifiers refuse it unless told
//! otherwise by a flag. Nothing that is shipped links this crate. Tests do, to forge: [`tdx::TdxSimulator::quote`]
//! and [`snp::SnpSimulator::report`] sign whatever they are given.
#![forbid(unsafe_code)]

pub mod command;
pub mod launch;
pub mod nvidia;
pub mod opened;
pub mod roots;
pub mod server;
pub mod snp;
pub mod tdx;
pub mod x509;

pub use roots::Roots;
