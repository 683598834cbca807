//! Life cycle of appliance VMs on an operator's server. Clients trust nothing in this crate, and it holds no key that
//! decrypts prompts.
//!
//! ```text
//! client ──TCP──▶ relay ──▶ QEMU's loopback port ──▶ guest
//!                            │ control channel: machine.rs decides, channel.rs acts
//!                            ▼
//!                        simulator (only where there is no TEE)
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`up`] | boots an image folder into a serving VM |
//! | [`running`] | a running VM, owned by one task until it ends |
//! | [`machine`] | the control channel's state machine, a pure function |
//! | [`channel`] | the driver of that state machine: frames, deadlines and the simulator |
//! | [`relay`] | the public listener, which forwards bytes within limits |
//! | `places` | limits on connections per client, for the public listener and [`web`] |
//! | [`config`] | the daemon's configuration file, checked completely before anything starts |
//! | [`doctor`] | what this machine has and lacks, and whether clients would accept it |
//! | [`daemon`] | keeps the configured appliances running, and serves the local API |
//! | [`attest`] | predicts the clients' verdict on a guest's evidence |
//! | [`update`] | an appliance's update to another image, a pure function with effects |
//! | [`collateral`] | the vendors' endorsements of this machine's evidence, which guests staple |
//! | [`gpu`] | prepares a GPU for a VM, and returns it to the host |
//! | [`image`] | an image folder, with every file opened |
//! | [`shapes`] | the machine shapes that a manifest lists, and what happens with others |
//! | [`expiry`] | warnings before a manifest expires |
//! | [`simulator`] | the simulator's process and its socket |
//! | [`state`] | the state folder of each VM, and the list of VMs |
//! | [`supervisor`] | the process that owns a VM of the daemon, and the daemon's connection to it |
//! | [`timings`] | durations of the boot phases |
//! | [`lifecycle`] | an appliance's life cycle, a pure function with effects |
//! | [`local`] | the socket behind `ps` and `down` |
//! | [`client`] | the commands' client of the daemon's API |
//! | [`follow`] | reads a file that another process writes, as it grows |
//! | [`log`] | a VM's log for programs: console lines and the host agent's messages, with times |
//! | [`numa`] | NUMA nodes and their processors, and pools of huge pages |
//! | [`progress`], [`waiting`] | progress of a start, and how it is shown to people |
//! | [`qemu`] | selects QEMU, and builds the machine that it runs |
//! | [`tee`] | the settings of a VM in a real TEE, or what this machine lacks for one |
//! | [`status`] | the status page and the metrics |
//! | [`watch`] | current state and load of the machine and its appliances, for `top`, metrics and the status page |
//! | [`tables`] | the ACPI and SMBIOS tables that signers of TDX manifests need |
//! | [`publish`] | the published documents: manifests, platform values, evidence and collateral |
//! | [`web`] | the HTTPS server for those documents |
#![forbid(unsafe_code)]

pub mod attest;
pub mod channel;
pub mod client;
pub mod collateral;
pub mod config;
mod console;
pub mod daemon;
mod devices;
pub mod doctor;
pub mod error;
pub mod expiry;
pub mod follow;
pub mod gpu;
pub mod image;
pub mod lifecycle;
pub mod local;
pub mod log;
pub mod machine;
pub mod numa;
mod places;
pub mod progress;
pub mod publish;
pub mod qemu;
pub mod relay;
pub mod running;
pub mod shapes;
pub mod simulator;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod tables;
pub mod tee;
pub mod text;
pub mod timings;
pub mod up;
pub mod update;
pub mod waiting;
pub mod watch;
pub mod web;

pub use error::UpError;
pub use progress::Progress;
pub use running::RunningVm;
pub use up::{Host, UpOptions};
