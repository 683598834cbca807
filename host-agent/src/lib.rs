//! Life cycle of appliance VMs on an operator's server. Nothing here is trusted by clients, and nothing holds a key
//! that reads prompts.
//!
//! ```text
//! client ──TCP──▶ relay ──▶ QEMU's loopback port ──▶ guest
//!                            │ control channel: machine.rs decides, channel.rs acts
//!                            ▼
//!                        simulator (only where there is no TEE)
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`up`] | the way from an image folder to a serving VM |
//! | [`running`] | that VM, owned by one task until its end |
//! | [`machine`] | the control channel's state machine, pure |
//! | [`channel`] | the driver: frames, deadlines and the simulator around it |
//! | [`relay`] | the public listener: bytes to and fro, within limits |
//! | `places` | connections by client, for the public listener and [`web`] |
//! | [`config`] | the operator's file, judged whole before anything starts |
//! | [`doctor`] | what this machine has and lacks, and what clients would say |
//! | [`daemon`] | keeps the appliances of that file as they are wanted, with its local API |
//! | [`attest`] | what clients will say of a guest's evidence, asked beforehand |
//! | [`update`] | an appliance's change to another image as a pure function with effects |
//! | [`collateral`] | the vendors' word on this machine's evidence, for guests to staple |
//! | [`gpu`] | makes a GPU ready for a VM, and takes it back |
//! | [`image`] | an image folder, opened file by file |
//! | [`shapes`] | the machines that a manifest lists, and what to do about others |
//! | [`expiry`] | the end of a manifest, and how the operator hears of it |
//! | [`simulator`] | the simulator's process and its socket |
//! | [`state`] | the folder that each VM keeps on disk, and the list of running VMs |
//! | [`supervisor`] | the process that owns a VM of the daemon, and the daemon's end of its socket |
//! | [`timings`] | how long everything took |
//! | [`lifecycle`] | an appliance's life as a pure function with effects |
//! | [`local`] | the socket behind `ps` and `down` |
//! | [`client`] | what commands ask the daemon with |
//! | [`follow`] | a file that somebody else writes, as it grows |
//! | [`log`] | the console and our own news, with times, for programs |
//! | [`numa`] | where on the machine memory and processors are |
//! | [`progress`], [`waiting`] | what happens, and how people are shown it without silence |
//! | [`qemu`] | the QEMU to use, and the machine to start with it |
//! | [`tee`] | what a VM in a real TEE is started with, or what this machine lacks for it |
//! | [`status`] | the status page, and where the metrics are |
//! | [`watch`] | what everything is doing, for `top`, metrics and the status page |
//! | [`tables`] | what a signer of manifests must know of that machine as a trust domain |
//! | [`publish`] | manifests, platform values, evidence and collateral for everybody |
//! | [`web`] | what this host shows to anybody: routes over HTTPS |
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
