//! Software stand-in for TEE hardware: evidence in the vendors' own formats, under throw-away development roots.
//!
//! | module | simulates |
//! |---|---|
//! | [`tdx`] | the TDX module, the quoting enclave, and Intel's collateral service |
//! | [`snp`] | the SNP firmware and AMD's certificate chain |
//! | [`nvidia`] | H100 GPUs, their certificates, and NVIDIA's reference manifests and OCSP responses |
//! | [`opened`] | the loader: reads the files that a QEMU process opened |
//! | [`launch`] | the launch of a confidential VM: measures those files |
//! | [`roots`] | the vendors' key provisioning: creates keys on first use |
//! | [`server`] | the machine as the host agent sees it: a socket |
//!
//! Every root has a critical extension that marks it as a development root. Verifiers reject such a root unless a flag
//! accepts it. No shipped program links this crate. Tests link it to forge evidence: [`tdx::TdxSimulator::quote`] and
//! [`snp::SnpSimulator::report`] sign any report.
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
