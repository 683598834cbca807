//! The host of a real VM learns nothing about what clients say: not from its files, its counters, the bytes on the wire
//! or their lengths, not from an engine that crashes on a prompt, and not from a kernel that panics.

use std::path::Path;

use cocoon_protocol::binding::Tee;
use cocoon_tests::trial::{Appliance, Model, Trial};

mod canaries;
mod crash;
mod lengths;
mod panicked;
mod questions;
#[path = "../attestation/stranger.rs"]
#[expect(dead_code, reason = "the tests of connections use more of it")]
mod stranger;
mod wire;

async fn boot(name: &str) -> Appliance {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let trial = Trial::new(demo, name, Tee::Tdx, Model::Alphabet).await;
    trial.unwrap().up().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_learns_nothing() {
    let vm = boot("privacy").await;
    lengths::do_not_tell_tokens(&vm).await;
    canaries::are_nowhere(vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_tells_nothing_and_is_started_again() {
    crash::tells_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_panics_tells_nothing() {
    panicked::tells_nothing().await;
}
