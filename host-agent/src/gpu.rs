//! Prepares a GPU for a VM, and returns it to the host. A prepared GPU is bound to vfio-pci, in confidential-computing mode
//! and freshly reset.
//!
//! ```text
//! facts (doctor) ──plan──▶ steps, each with its reason ──▶ printed (--dry-run), or carried out one by one ──▶ facts again
//! ```
//!
//! In confidential-computing mode a GPU allows one attach per reset. Driver and mode stay as prepared until the machine
//! restarts; only the reset is repeated before each boot ([`fresh()`]). **No real GPU has been prepared by this code.** The
//! steps follow the kernel's documentation (`sysfs-bus-pci`, vfio) and NVIDIA's gpu-admin-tools.

mod fresh;
mod given;
mod hands;
mod plan;

pub use fresh::{Fresh, fresh};
pub use given::{NotGiven, given};
pub use hands::{Failed, Hands, RealHands, carry_out};
pub use plan::{Action, Aim, Planned, Unfit, plan};
