//! Find, unpack, probe and drive QEMU; knows nothing of what runs inside the virtual machine.
//!
//! | module | gives |
//! |---|---|
//! | [`find`] | a QEMU that is new enough: the one named, the system's, or a private copy |
//! | [`obtain()`] | all of that in one step, fetching included |
//! | [`private`] | that private copy: locked packages unpacked under a content key, started through their own loader |
//! | [`spec`] | the virtual machine as a value, checked before anything starts |
//! | [`pci`] | the address of a PCI function |
//! | [`args`] | that value as QEMU's command line, each argument with its reason |
//! | [`accel`] | KVM or emulation, decided by a virtual machine that really runs |
//! | [`process`] | a QEMU that cannot outlive its owner, with bounded diagnostics and an orderly end |
//! | [`qmp`] | typed control of the running machine, and its events |
//! | [`tables`] | the ACPI and SMBIOS tables of a machine, computed without its hardware |
//!
//! QEMU, its messages and the guest behind it are hostile input here: every size is bounded, every wait has
//! a deadline. The host agent is not trusted by clients either; nothing in this crate holds a secret.

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
