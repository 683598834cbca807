//! Builds and verifies the appliance image from locked inputs.
//!
//! An image is a folder: `vmlinuz initrd.img cmdline OVMF.tdx.fd OVMF.snp.fd model.img manifest.json`. It is put
//! together from fragments, one module each, whose tables say why every part is there:
//!
//! | module | fragment |
//! |---|---|
//! | [`kernel`] | Debian's cloud kernel and the modules that the guest loads |
//! | [`cmdline`] | the kernel's command line |
//! | [`variant`] | the kind of image: with or without a (simulated) GPU |
//! | [`initrd`] | agent, engine and modules, packed |
//! | [`firmware`] | one firmware for TDX, one for SEV-SNP |
//! | [`model`] | the model volume with its hash tree |
//! | [`guest`] | the guest's executables, compiled |
//! | [`runtime`] | the runtime volume of an image with GPUs |
//! | [`driver`] | NVIDIA's kernel modules, compiled in a [`workroom`] |
//! | [`cuda`] | the machine code of the GPU kernels, compiled |
//! | [`reference`] | what hardware must report |
//! | [`platform`] | what one real machine must, added by those who sign |
//!
//! [`build`](mod@build) fetches and compiles, [`assemble`](mod@assemble) makes the image of what is at hand,
//! [`verify`](mod@verify) builds again and compares. No clock, path, locale, user or number of threads gets into it.

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
