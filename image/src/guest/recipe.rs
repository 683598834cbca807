//! Specifies how each guest executable is built: cargo's arguments and the whole environment, as values.
//!
//! After a change of the engine's flags, cargo compiles all its dependencies again, which takes a quarter of an hour.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::settings;
use crate::runtime::LOADER;

/// Variables that are passed on to cargo: they say where tools and downloads are. Any other could change the result.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Prefixes of more variables that are passed on: cargo's network settings. `Cargo.lock` has checksums for all downloads.
const PASSED_GROUPS: &[&str] = &["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_"];
/// Suffixes of secrets among these. They are not passed on, because build scripts would see them; cargo also reads them from
/// its home folder.
const SECRET: &[&str] = &["_TOKEN", "_SECRET_KEY"];

/// Target of executables with the machine's C library. Cargo names a folder in its target folder after it.
pub const GNU: &str = "x86_64-unknown-linux-gnu";
/// Target of executables with the C library that Rust's toolchain includes.
pub const MUSL: &str = "x86_64-unknown-linux-musl";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\u{1f}";

/// Why a recipe cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecipeError {
    /// Neither `CARGO_HOME` nor `HOME` is set.
    #[error("neither CARGO_HOME nor HOME is set, so cargo's folder is unknown: set one of them")]
    NoCargoHome,
    /// A path cannot be part of a compiler flag.
    #[error("{0} cannot stand in a compiler's flag: it has a space or is not UTF-8")]
    Path(PathBuf),
}

/// The part of this process's environment that a build may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    cargo_home: String,
    registries: Vec<String>,
}

/// What the engine for NVIDIA's GPUs is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuda {
    /// Folder of the CUDA compiler.
    pub home: PathBuf,
    /// Folder with the libraries to link to.
    pub libraries: PathBuf,
    /// Folder with the kernels' machine code.
    pub cubins: PathBuf,
    /// Name of the C++ compiler that nvcc runs.
    pub compiler: String,
}

/// One run of `cargo build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Name of the package and of its executable.
    pub package: &'static str,
    /// Arguments after `cargo build`.
    pub arguments: Vec<&'static str>,
    /// Arguments with which `cargo tree` lists the same packages.
    pub selection: Vec<&'static str>,
    /// Complete environment.
    pub environment: Vec<(String, OsString)>,
}

impl Environment {
    /// Takes the variables of this process.
    ///
    /// # Errors
    /// [`RecipeError`] when cargo's folder is unknown, or its path cannot be part of a flag.
    pub fn of_process() -> Result<Self, RecipeError> {
        Self::new(std::env::vars_os())
    }

    /// Takes the given variables of a process.
    ///
    /// # Errors
    /// As [`Self::of_process`].
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, RecipeError> {
        let named = variables.into_iter();
        let named = named.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let variables: BTreeMap<_, _> = named.filter(|(name, _)| passes(name)).collect();
        let home = variables.get("HOME");
        let home = home.map(|home| Path::new(home).join(".cargo"));
        let cargo_home = variables.get("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or(home).ok_or(RecipeError::NoCargoHome)?;
        Ok(Self {
            variables,
            cargo_home: flag_path(&cargo_home)?,
            registries: Vec::new(),
        })
    }

    /// Adds the folders of unpacked registry packages, to remove their paths from the executables: their names depend on the
    /// mirror that the machine uses.
    ///
    /// # Errors
    /// [`RecipeError::Path`] when a path cannot be part of a flag.
    pub fn with_registries(self, folders: &[PathBuf]) -> Result<Self, RecipeError> {
        let registries = folders.iter().map(|folder| flag_path(folder));
        Ok(Self {
            registries: registries.collect::<Result<_, _>>()?,
            ..self
        })
    }

    /// Cargo's home folder.
    pub fn cargo_home(&self) -> &Path {
        Path::new(&self.cargo_home)
    }

    /// Returns the variables of every run of cargo: those that are passed on, and those that override the machine's settings.
    pub fn variables(&self) -> Vec<(String, OsString)> {
        let passed = self.variables.clone().into_iter();
        passed.chain(settings::overridden()).collect()
    }
}

fn passes(name: &str) -> bool {
    let is_network = PASSED_GROUPS.iter().any(|group| name.starts_with(group));
    let is_secret = SECRET.iter().any(|end| name.ends_with(end));
    PASSED.contains(&name) || is_network && !is_secret
}

/// Returns the recipe of the agent, PID 1. It is static, has no C code, and is linked by the linker that Rust includes.
///
/// # Errors
/// [`RecipeError::Path`] when `guest`, the folder of sources and target folder, cannot be part of a flag.
pub fn agent(environment: &Environment, guest: &Path) -> Result<Recipe, RecipeError> {
    let flags = [
        "-Ctarget-cpu=x86-64-v3",
        // Position-independent code lets the kernel randomise the agent's addresses.
        "-Crelocation-model=pic",
        "-Clinker=rust-lld",
        "-Clinker-flavor=ld.lld",
        "-Clink-self-contained=yes",
        "-Clink-arg=--build-id=none",
    ];
    let selection = vec!["--package", "cocoon-guest-agent", "--target", MUSL];
    recipe(
        "cocoon-guest-agent",
        "agent",
        selection,
        &flags,
        environment,
        guest,
    )
}

/// Returns the recipe of the inference worker. It is linked statically to the machine's C library, because mistral.rs needs C
/// and C++.
///
/// # Errors
/// As [`agent`].
pub fn engine(environment: &Environment, guest: &Path) -> Result<Recipe, RecipeError> {
    let flags = [
        "-Ctarget-cpu=x86-64-v3",
        "-Ctarget-feature=+crt-static",
        "-Clink-arg=-Wl,--build-id=none",
    ];
    let selection = vec![
        "--package",
        "cocoon-engine",
        "--features",
        "mistralrs",
        "--target",
        GNU,
    ];
    recipe(
        "cocoon-engine",
        "engine",
        selection,
        &flags,
        environment,
        guest,
    )
}

/// Returns the recipe of the collector, the process that holds the GPUs. It is dynamically linked, because NVIDIA's library is
/// a shared one, and starts with the runtime volume's loader.
///
/// # Errors
/// As [`agent`].
pub fn collector(environment: &Environment, guest: &Path) -> Result<Recipe, RecipeError> {
    let loader = format!("-Clink-arg=-Wl,--dynamic-linker={LOADER}");
    let flags = [
        "-Ctarget-cpu=x86-64-v3",
        "-Clink-arg=-Wl,--build-id=none",
        loader.as_str(),
    ];
    let selection = vec!["--package", "cocoon-gpu", "--target", GNU];
    recipe("cocoon-gpu", "agent", selection, &flags, environment, guest)
}

/// Returns the recipe of the inference worker for NVIDIA's GPUs. It is dynamically linked and starts with the runtime volume's
/// loader.
///
/// # Errors
/// As [`agent`].
pub fn cuda_engine(
    environment: &Environment,
    guest: &Path,
    cuda: &Cuda,
) -> Result<Recipe, RecipeError> {
    let libraries = format!("-Lnative={}", flag_path(&cuda.libraries)?);
    let loader = format!("-Clink-arg=-Wl,--dynamic-linker={LOADER}");
    let flags = [
        "-Ctarget-cpu=x86-64-v3",
        "-Clink-arg=-Wl,--build-id=none",
        loader.as_str(),
        // NVIDIA's libraries need others that are in the runtime volume only.
        "-Clink-arg=-Wl,--allow-shlib-undefined",
        &libraries,
    ];
    let selection = vec![
        "--package",
        "cocoon-engine",
        "--features",
        "cuda",
        "--target",
        GNU,
    ];
    let mut recipe = recipe(
        "cocoon-engine",
        "engine",
        selection,
        &flags,
        environment,
        guest,
    )?;
    let home = flag_path(&cuda.home)?;
    // nvcc passes these flags to its C++ compiler. They must be one argument, separated by commas.
    let mut variables = recipe.environment.iter();
    let maps = variables.find(|(name, _)| name == "CXXFLAGS");
    let maps = maps.map(|(_, flags)| flags.to_string_lossy().replace(' ', ","));
    let maps = format!("-Xcompiler={}", maps.unwrap_or_default());
    // Build scripts run nvcc to learn its version.
    let paths = recipe.environment.iter_mut();
    for (_, value) in paths.filter(|(name, _)| name == "PATH") {
        *value = prefixed(&format!("{home}/bin:"), value);
    }
    recipe.environment.extend(named([
        ("CUDA_HOME", home.into()),
        // Compute capability of an H100. Otherwise the build would ask `nvidia-smi`, which is not there.
        ("CUDA_COMPUTE_CAP", "90".into()),
        ("CUDAFORGE_THREADS", "2".into()),
        ("NVCC_CCBIN", cuda.compiler.clone().into()),
        ("NVCC_APPEND_FLAGS", maps.into()),
        ("COCOON_KERNELS", flag_path(&cuda.cubins)?.into()),
    ]));
    Ok(recipe)
}

fn named<const N: usize>(
    variables: [(&str, OsString); N],
) -> impl Iterator<Item = (String, OsString)> {
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
}

fn prefixed(prefix: &str, value: &OsString) -> OsString {
    let mut whole = OsString::from(prefix);
    whole.push(value);
    whole
}

fn recipe(
    package: &'static str,
    profile: &'static str,
    selection: Vec<&'static str>,
    flags: &[&str],
    environment: &Environment,
    guest: &Path,
) -> Result<Recipe, RecipeError> {
    let cargo_home = &environment.cargo_home;
    let (source, target) = (guest.join("src"), guest.join("target"));
    let (source, target) = (flag_path(&source)?, flag_path(&target)?);
    // Panic messages hold paths, which would get into the measured bytes. If several prefixes match, rustc and gcc take the
    // last. The target folder counts, too, because build scripts write sources there.
    let registries = environment.registries.iter().map(String::as_str);
    let mapped: Vec<(&str, &str)> = [(cargo_home.as_str(), "/cargo")]
        .into_iter()
        .chain(registries.map(|folder| (folder, "/registry")))
        .chain([(source.as_str(), "/src"), (target.as_str(), "/target")])
        .collect();
    let remaps: Vec<String> = mapped
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={from}={to}"))
        .collect();
    let flags: Vec<&str> = flags
        .iter()
        .copied()
        .chain(remaps.iter().map(String::as_str))
        .collect();
    let c_flags = mapped
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={from}={to}"))
        .collect::<Vec<_>>()
        .join(" ");
    let mut variables = environment.variables();
    variables.extend(named([
        ("CARGO_TARGET_DIR", target.to_string().into()),
        // A setting of the machine could otherwise move the objects to a folder that is neither remapped nor cleared.
        ("CARGO_BUILD_BUILD_DIR", target.to_string().into()),
        ("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR).into()),
        ("CFLAGS", c_flags.clone().into()),
        ("CXXFLAGS", c_flags.into()),
    ]));
    let mut arguments = vec![
        "--locked",
        "--profile",
        profile,
        "--message-format",
        "json-render-diagnostics",
    ];
    arguments.extend(&selection);
    Ok(Recipe {
        package,
        arguments,
        selection,
        environment: variables,
    })
}

fn flag_path(path: &Path) -> Result<String, RecipeError> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err(RecipeError::Path(path.to_owned())),
    }
}

#[cfg(test)]
mod tests;
