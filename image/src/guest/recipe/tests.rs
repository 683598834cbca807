//! Compares whole recipes with what they must be.

use super::*;

fn environment() -> Environment {
    let variables = [
        ("HOME", "/home/u"),
        ("PATH", "/bin"),
        ("RUSTFLAGS", "-g"),
        ("CFLAGS", "-O0"),
        ("LC_ALL", "C"),
    ];
    Environment::new(variables.map(|(name, value)| (name.into(), value.into()))).unwrap()
}

fn variable<'a>(recipe: &'a Recipe, name: &str) -> Option<&'a str> {
    recipe
        .environment
        .iter()
        .find(|(known, _)| known == name)?
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
         --remap-path-prefix=/c/guest/src=/src --remap-path-prefix=/c/guest/target=/target"
    );
    let c_flags = "-ffile-prefix-map=/home/u/.cargo=/cargo \
         -ffile-prefix-map=/home/u/.cargo/registry/src/near-1=/registry -ffile-prefix-map=/c/guest/src=/src \
         -ffile-prefix-map=/c/guest/target=/target";
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
         --remap-path-prefix=/home/u/.cargo=/cargo --remap-path-prefix=/c/guest/src=/src \
         --remap-path-prefix=/c/guest/target=/target"
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
            "-Xcompiler=-ffile-prefix-map=/home/u/.cargo=/cargo,-ffile-prefix-map=/c/guest/src=/src,\
             -ffile-prefix-map=/c/guest/target=/target",
        ),
    ] {
        assert_eq!(variable(&recipe, name), Some(value), "{name}");
    }
}

#[test]
fn nothing_else_of_the_environment_passes() {
    let recipe = agent(&environment(), Path::new("/c/guest")).unwrap();
    let names: Vec<&str> = recipe.environment.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        names,
        [
            "HOME",
            "PATH",
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
    assert_eq!(Environment::new([]), Err(RecipeError::NoCargoHome));
    let spaced = Environment::new([("CARGO_HOME".into(), "/a b".into())]);
    assert_eq!(spaced, Err(RecipeError::Path("/a b".into())));
    let spaced = agent(&environment(), Path::new("/my cache/guest"));
    assert_eq!(spaced, Err(RecipeError::Path("/my cache/guest/src".into())));
}

#[test]
fn where_downloads_come_from_passes_and_secrets_do_not() {
    let variables = [
        ("CARGO_HOME", true),
        ("CARGO_HTTP_CAINFO", true),
        ("CARGO_NET_OFFLINE", true),
        ("CARGO_REGISTRIES_CRATES_IO_PROTOCOL", true),
        ("CARGO_REGISTRIES_NEAR_INDEX", true),
        ("SSL_CERT_DIR", true),
        ("SSL_CERT_FILE", true),
        ("CARGO_REGISTRIES_NEAR_TOKEN", false),
        ("CARGO_REGISTRIES_NEAR_SECRET_KEY", false),
        ("CARGO_REGISTRY_TOKEN", false),
        ("CARGO_BUILD_RUSTC", false),
        ("CARGO_PROFILE_RELEASE_LTO", false),
        ("CARGO_SOURCE_NEAR_DIRECTORY", false),
    ];
    let environment = Environment::new(variables.map(|(name, _)| (name.into(), "x".into())));
    let seen = environment.unwrap().variables();
    for (name, passes) in variables {
        assert_eq!(seen.iter().any(|(seen, _)| seen == name), passes, "{name}");
    }
}
