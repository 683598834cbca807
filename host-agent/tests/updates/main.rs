//! The daemon and its real supervisors, with stand-ins for QEMU and the guest in it: updates under load, updates that fail,
//! daemons that die in the middle of one, guests that hang, and disks that are full.
//!
//! This executable plays QEMU, too, in the one test that the stand-in's script runs by its exact name.

mod disks;
mod hanging;
#[path = "../common/hardware.rs"]
mod hardware;
#[path = "../common/hosted.rs"]
mod hosted;
#[path = "../common/image.rs"]
mod image;
mod load;
mod machine;
mod refused;
mod survived;
mod switched;
mod world;

#[test]
fn machine() {
    machine::play();
}
