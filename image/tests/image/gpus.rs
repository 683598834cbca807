//! Tests that a build for GPUs checks the machine before it fetches anything.

use crate::world::{World, fail, program};

#[test]
fn a_machine_that_cannot_compile_the_engine_is_told_first() {
    let world = World::new();
    // The folder has no lock file, so any attempt to fetch an input would give a different error.
    let nothing = world.path("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let out = world.path("image");
    let mut build = program();
    build
        .args(["build", "--variant", "cuda", "--out"])
        .arg(&out);
    build.arg("--model").arg(world.path("tiny.gguf"));
    build.arg("--source").arg(&nothing);
    build.arg("--cache").arg(world.path("cache"));
    // The folder has no compiler either.
    build.env("PATH", &nothing);
    assert_eq!(
        fail(&mut build, 2),
        "error: cannot have the engine for GPUs\n  because: cannot compile for the GPU\n  because: nvcc 12.4 takes g++ 9 \
         to 13, and this machine has none: apt install g++-13\n"
    );
    assert!(!out.exists());
}
