//! Tests of the daemon with stand-ins for its supervisors: what it does when they serve, fail, hang and die, what survives
//! its own end, and its API.
//!
//! This executable also plays the supervisor: a script runs it with the exact name of the test `supervise`.

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
