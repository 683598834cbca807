//! Finds, unpacks, probes and drives QEMU. This crate knows nothing of what runs inside the virtual machine.
//!
//! | module | provides |
//! |---|---|
//! | [`find`] | a QEMU that is new enough: the named one or the system's |
//! | [`obtain()`] | a QEMU in one step, including a fetched private copy |
//! | [`private`] | the private copy: locked packages, unpacked under a content key and started with their own loader |
//! | [`spec`] | the description of a virtual machine, validated before anything starts |
//! | [`pci`] | the address of a PCI function |
//! | [`args`] | QEMU's command line for that description, each argument with its reason |
//! | [`accel`] | the choice between KVM and emulation, made by a virtual machine that really runs |
//! | [`process`] | a QEMU process that cannot outlive its owner, with bounded diagnostics and an orderly end |
//! | [`qmp`] | typed control of the running machine, and its events |
//! | [`tables`] | the ACPI and SMBIOS tables of a machine, computed without its hardware |
//!
//! QEMU, its messages and the guest behind it are treated as hostile input: every size is bounded and every wait has a
//! deadline. Clients do not trust the host agent either, so nothing in this crate holds a secret.

pub mod accel;
pub mod args;
pub mod find;
pub mod obtain;
pub mod pci;
pub mod private;
mod probe;
pub mod process;
pub mod qmp;
pub mod qtest;
pub mod socket;
pub mod spec;
mod supervisor;
pub mod tables;
mod tail;
mod text;

pub use accel::{Accel, Choice, Wanted};
pub use args::{Argument, arguments};
pub use find::{Qemu, Version};
pub use obtain::obtain;
pub use pci::PciAddress;
pub use process::{Stopped, Vm};
pub use qmp::Qmp;
pub use spec::VmSpec;
