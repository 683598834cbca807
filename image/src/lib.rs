//! Builds and verifies the appliance image from locked inputs.
//!
//! An image is a folder: `vmlinuz initrd.img cmdline OVMF.tdx.fd OVMF.snp.fd model.img sbom.spdx.json manifest.json`, and
//! `runtime.img` in an image for real GPUs. Each fragment has a module, and its tables give the reason for every part:
//!
//! | module | fragment |
//! |---|---|
//! | [`kernel`] | Debian's cloud kernel and the modules that the guest loads |
//! | [`cmdline`] | the kernel's command line |
//! | [`variant`] | the image variant: without a GPU, with a simulated one, or with real ones |
//! | [`initrd`] | agent, engine and kernel modules in one archive |
//! | [`firmware`] | one firmware for TDX, one for SEV-SNP |
//! | [`model`] | the model volume with its hash tree |
//! | [`guest`] | compilation of the guest's executables |
//! | [`runtime`] | the runtime volume of an image for real GPUs |
//! | [`driver`] | NVIDIA's kernel modules, compiled in a [`workroom`] |
//! | [`cuda`] | compilation of the GPU kernels and of the engine for GPUs |
//! | [`reference`] | the reference values that hardware must report |
//! | [`platform`] | reference values of one real machine, added by the signers |
//!
//! [`build`](mod@build) fetches and compiles, [`assemble`](mod@assemble) makes the image from these ingredients, and
//! [`verify`](mod@verify) rebuilds and compares. No artefact depends on clock, paths, locale, user or number of threads.

pub mod add_model;
mod addresses;
pub mod assemble;
mod beside;
pub mod build;
pub mod cmdline;
pub mod cuda;
pub mod diff;
pub mod driver;
pub mod family;
pub mod files;
pub mod firmware;
pub mod foreign;
pub mod guest;
pub mod initrd;
pub mod kernel;
pub mod model;
pub mod package;
pub mod platform;
pub mod program;
pub mod provenance;
pub mod reference;
pub mod runtime;
pub mod sbom;
pub mod scratch;
pub mod shown;
pub mod variant;
pub mod verify;
pub mod workroom;
