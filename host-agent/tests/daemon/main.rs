//! The daemon's promises, with stand-ins for the processes that own VMs: what it does when they serve, fail, hang and
//! die, what survives itself, and its API from outside.
//!
//! This executable plays the supervisor, too, in the one test that the daemon's program runs by its exact name.

mod api;
mod commands;
mod contract;
mod gpus;
#[path = "../common/hardware.rs"]
mod hardware;
#[path = "../common/hosted.rs"]
mod hosted;
#[path = "../common/image.rs"]
mod image;
mod lives;
mod lost;
mod processes;
mod stand_in;
mod watching;
mod world;

#[test]
fn supervise() {
    stand_in::play();
}
