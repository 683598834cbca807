//! CUDA kernels that prove what is in device memory, with their safe launchers.
//!
//! | module | promise |
//! |---|---|
//! | [`sm90_scrub`] | fills ranges of device memory, and counts the bytes in them that are not zero |
//! | [`sm90_blake3`] | the BLAKE3 root of ranges of device memory, the same that `b3sum` prints |
//! | [`ledger`] | what a process has on a GPU, what it has given back, and what has crossed |
//! | `interposed` | the driver's own calls, which feed that table; with feature `linked` |
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
//! No GPU and no CUDA is needed to build this crate or to start a program that has it: the driver is opened by
//! [`gpu::Gpu::open`], which says in so many words when there is none. Kernels are machine code that the image build
//! makes of `cuda/*.cu` with a locked compiler, checked by digest before it is used ([`cubins`]).

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
