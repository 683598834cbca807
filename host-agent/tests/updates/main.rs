//! Tests of the daemon and its real supervisors, with stand-ins for QEMU and the guest: updates under load, updates that
//! fail, daemons that die during one, guests that hang, and full disks.
//!
//! This executable also plays QEMU: the stand-in's script runs it with the exact name of the test `machine`.

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
