//! Recipes, whole.

use super::*;

fn environment() -> Environment {
    let variables = [
        ("HOME", "/home/u"),
        ("PATH", "/bin"),
        ("RUSTFLAGS", "-g"),
        ("CFLAGS", "-O0"),
        ("LC_ALL", "C"),
    ];
    let lookup = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.into());
    Environment::new(lookup).unwrap()
}

fn variable<'a>(recipe: &'a Recipe, name: &str) -> Option<&'a str> {
    recipe
        .environment
        .iter()
        .find(|(known, _)| *known == name)?
        .1
        .to_str()
}

#[test]
fn the_engines_recipe_is_this_one() {
    let environment = environment()
        .with_registries(&["/home/u/.cargo/registry/src/near-1".into()])
        .unwrap();
    let recipe = engine(&environment, Path::new("/c/guest")).unwrap();
    assert_eq!(
        recipe.arguments.join(" "),
        "--locked --profile engine --message-format json-render-diagnostics --package cocoon-engine \
         --features mistralrs --target x86_64-unknown-linux-gnu"
    );
    assert_eq!(
        variable(&recipe, "CARGO_ENCODED_RUSTFLAGS")
            .unwrap()
            .replace('\u{1f}', " "),
        "-Ctarget-cpu=x86-64-v3 -Ctarget-feature=+crt-static -Clink-arg=-Wl,--build-id=none \
         --remap-path-prefix=/home/u/.cargo=/cargo \
         --remap-path-prefix=/home/u/.cargo/registry/src/near-1=/registry \
         --remap-path-prefix=/c/guest/src=/src"
    );
    let c_flags = "-ffile-prefix-map=/home/u/.cargo=/cargo \
         -ffile-prefix-map=/home/u/.cargo/registry/src/near-1=/registry -ffile-prefix-map=/c/guest/target=/target";
    assert_eq!(variable(&recipe, "CFLAGS"), Some(c_flags));
    assert_eq!(variable(&recipe, "CXXFLAGS"), Some(c_flags));
    for folder in ["CARGO_TARGET_DIR", "CARGO_BUILD_BUILD_DIR"] {
        assert_eq!(variable(&recipe, folder), Some("/c/guest/target"));
    }
}

#[test]
fn the_engine_for_gpus_is_this_one() {
    let cuda = Cuda {
        home: "/c/cuda-12".into(),
        libraries: "/c/libraries".into(),
        cubins: "/c/cubins".into(),
        compiler: "g++-13".into(),
    };
    let recipe = cuda_engine(&environment(), Path::new("/c/guest"), &cuda).unwrap();
    assert_eq!(
        recipe.arguments.join(" "),
        "--locked --profile engine --message-format json-render-diagnostics --package cocoon-engine \
         --features cuda --target x86_64-unknown-linux-gnu"
    );
    assert_eq!(
        variable(&recipe, "CARGO_ENCODED_RUSTFLAGS")
            .unwrap()
            .replace('\u{1f}', " "),
        "-Ctarget-cpu=x86-64-v3 -Clink-arg=-Wl,--build-id=none \
         -Clink-arg=-Wl,--dynamic-linker=/runtime/ld-linux-x86-64.so.2 \
         -Clink-arg=-Wl,--allow-shlib-undefined -Lnative=/c/libraries \
         --remap-path-prefix=/home/u/.cargo=/cargo --remap-path-prefix=/c/guest/src=/src"
    );
    for (name, value) in [
        ("PATH", "/c/cuda-12/bin:/bin"),
        ("CARGO_TARGET_DIR", "/c/guest/target"),
        ("CUDA_HOME", "/c/cuda-12"),
        ("CUDA_COMPUTE_CAP", "90"),
        ("NVCC_CCBIN", "g++-13"),
        ("COCOON_KERNELS", "/c/cubins"),
        (
            "NVCC_APPEND_FLAGS",
            "-Xcompiler=-ffile-prefix-map=/home/u/.cargo=/cargo,-ffile-prefix-map=/c/guest/target=/target",
        ),
    ] {
        assert_eq!(variable(&recipe, name), Some(value), "{name}");
    }
}

#[test]
fn nothing_else_of_the_environment_passes() {
    let recipe = agent(&environment(), Path::new("/c/guest")).unwrap();
    let names: Vec<&str> = recipe.environment.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "PATH",
            "HOME",
            "CARGO_INCREMENTAL",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_BUILD_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CFLAGS",
            "CXXFLAGS"
        ]
    );
}

#[test]
fn cargo_must_have_a_folder() {
    assert_eq!(Environment::new(|_| None), Err(RecipeError::NoCargoHome));
    let spaced = Environment::new(|name| (name == "CARGO_HOME").then(|| "/a b".into()));
    assert_eq!(spaced, Err(RecipeError::Path("/a b".into())));
    let spaced = agent(&environment(), Path::new("/my cache/guest"));
    assert_eq!(spaced, Err(RecipeError::Path("/my cache/guest/src".into())));
}
