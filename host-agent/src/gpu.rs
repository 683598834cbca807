//! Makes a GPU ready to be given to a VM, and takes it back: bound to vfio-pci, in confidential mode, freshly reset.
//!
//! ```text
//! facts (doctor) ──plan──▶ steps, each with its reason ──▶ shown (--dry-run), or carried out one by one ──▶ facts again
//! ```
//!
//! In confidential mode a GPU takes one attach for each reset. What a preparation binds and switches stays until the machine
//! starts again; the reset alone comes before every boot ([`fresh()`]). **No real GPU has been prepared by this**: the steps
//! are those of the kernel's documentation (`sysfs-bus-pci`, vfio) and of NVIDIA's gpu-admin-tools.

mod fresh;
mod given;
mod hands;
mod plan;

pub use fresh::{Fresh, fresh};
pub use given::{NotGiven, given};
pub use hands::{Failed, Hands, RealHands, carry_out};
pub use plan::{Action, Aim, Planned, Unfit, plan};
