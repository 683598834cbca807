//! CUDA kernels that erase and measure device memory, and their safe launchers.
//!
//! | module | purpose |
//! |---|---|
//! | [`sm90_scrub`] | fills ranges of device memory, and counts the bytes in them that are not zero |
//! | [`sm90_blake3`] | computes the BLAKE3 roots of ranges of device memory, as `b3sum` prints them |
//! | [`ledger`] | a table of a process's GPU memory in use and given back, and of copies between host and device |
//! | `interposed` | defines the driver's calls for memory, which feed that table; with feature `linked` |
//!
#![cfg_attr(feature = "linked", doc = "```ignore")]
#![cfg_attr(not(feature = "linked"), doc = "```no_run")]
//! use cocoon_kernels::cubins::Cubins;
//! use cocoon_kernels::device::{Device, Memory};
//! use cocoon_kernels::gpu::Gpu;
//! use cocoon_kernels::{sm90_blake3, sm90_scrub};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gpu = Gpu::open(0, &Cubins::read("cubins".as_ref())?)?;
//! let mut memory = gpu.upload(b"weights")?;
//! println!("{}", sm90_blake3::roots(&gpu, &[memory.span(0..7)?])?[0]);
//! let scrubbed = sm90_scrub::scrub(&gpu, &mut [memory.span_mut(0..7)?])?;
//! assert_eq!((scrubbed.bytes, scrubbed.residue), (7, 0));
//! # Ok(())
//! # }
//! ```
//!
//! Neither a GPU nor CUDA is needed to build this crate or to start a program that uses it. [`gpu::Gpu::open`] loads
//! the driver and reports if there is none. The kernels are machine code that the image's build makes of `cuda/*.cu`
//! with a locked compiler; its digest is verified before use ([`cubins`]).

pub mod cubins;
pub mod device;
pub mod gpu;
#[cfg(any(feature = "linked", test))]
pub mod interposed;
pub mod ledger;
pub mod ranges;
pub mod reference;
pub mod sm90_blake3;
pub mod sm90_scrub;
