//! How each guest executable is built: cargo's arguments and the whole environment, as values.
//!
//! Changing a flag of the engine's recipe compiles everything below it again, which takes a quarter of an hour.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::settings;
use crate::runtime::LOADER;

/// Variables that may reach cargo: where tools and downloads are found. Anything else could change the result.
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
/// Beginnings of more: cargo's settings of the network. Whatever a registry answers is held against `Cargo.lock`.
const PASSED_GROUPS: &[&str] = &["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_"];
/// Ends of those among them that build scripts must not see: secrets, which cargo also reads in its home.
const SECRET: &[&str] = &["_TOKEN", "_SECRET_KEY"];

/// What the machine's C library is for, which cargo also names a folder of its target folder after.
pub const GNU: &str = "x86_64-unknown-linux-gnu";
/// What brings a C library along.
pub const MUSL: &str = "x86_64-unknown-linux-musl";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\u{1f}";

/// Why no recipe can be written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecipeError {
    /// Neither names cargo's folder.
    #[error("neither CARGO_HOME nor HOME is set, so cargo's folder is unknown: set one of them")]
    NoCargoHome,
    /// A path cannot stand in a flag.
    #[error("{0} cannot stand in a compiler's flag: it has a space or is not UTF-8")]
    Path(PathBuf),
}

/// What of this process's environment a build may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    cargo_home: String,
    registries: Vec<String>,
}

/// What an engine for NVIDIA's GPUs is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuda {
    /// The compiler's folder.
    pub home: PathBuf,
    /// A folder with the libraries to link to.
    pub libraries: PathBuf,
    /// A folder with the kernels' machine code.
    pub cubins: PathBuf,
    /// The C++ compiler that nvcc runs.
    pub compiler: String,
}

/// One run of `cargo build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Package and name of its executable.
    pub package: &'static str,
    /// Arguments behind `cargo build`.
    pub arguments: Vec<&'static str>,
    /// What `cargo tree` is told in order to list the same packages.
    pub selection: Vec<&'static str>,
    /// The complete environment.
    pub environment: Vec<(String, OsString)>,
}

impl Environment {
    /// From the variables of this process.
    ///
    /// # Errors
    /// [`RecipeError`] when cargo's folder is unknown or has an unusable name.
    pub fn of_process() -> Result<Self, RecipeError> {
        Self::new(std::env::vars_os())
    }

    /// From the variables of a process.
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

    /// With the folders that packages of a registry lie in: their names say which mirror the machine uses.
    ///
    /// # Errors
    /// [`RecipeError::Path`] when one cannot stand in a flag.
    pub fn with_registries(self, folders: &[PathBuf]) -> Result<Self, RecipeError> {
        let registries = folders.iter().map(|folder| flag_path(folder));
        Ok(Self {
            registries: registries.collect::<Result<_, _>>()?,
            ..self
        })
    }

    /// Cargo's own folder.
    pub fn cargo_home(&self) -> &Path {
        Path::new(&self.cargo_home)
    }

    /// What every run of cargo gets: the variables that pass, and those that undo a machine's settings.
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

/// PID 1: static, without any C, linked by the linker that comes with the compiler.
///
/// # Errors
/// [`RecipeError::Path`] when `guest`, the folder of sources and target, cannot stand in a flag.
pub fn agent(environment: &Environment, guest: &Path) -> Result<Recipe, RecipeError> {
    let flags = [
        "-Ctarget-cpu=x86-64-v3",
        // Position-independent, so that the kernel places it at random.
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

/// The inference worker: static with the C library of the machine that builds it, for mistral.rs needs C and C++.
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

/// The process that holds the GPUs: dynamic, because NVIDIA's library is; started by the runtime volume's loader.
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

/// The inference worker for NVIDIA's GPUs: dynamic, a program of the image's runtime volume, of which it names the loader.
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
        // NVIDIA's libraries are linked to others that only the image has.
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
    // nvcc takes them for its C++ compiler, in one word.
    let mut variables = recipe.environment.iter();
    let maps = variables.find(|(name, _)| name == "CXXFLAGS");
    let maps = maps.map(|(_, flags)| flags.to_string_lossy().replace(' ', ","));
    let maps = format!("-Xcompiler={}", maps.unwrap_or_default());
    // Build scripts ask nvcc for its version.
    let paths = recipe.environment.iter_mut();
    for (_, value) in paths.filter(|(name, _)| name == "PATH") {
        *value = prefixed(&format!("{home}/bin:"), value);
    }
    recipe.environment.extend(named([
        ("CUDA_HOME", home.into()),
        // An H100; there is no nvidia-smi to ask.
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
    // The folders' names would otherwise stand in messages of panics, and so in the measured bytes. Of several that
    // match, both compilers take the last. Sources lie in the target folder, too: those that build scripts write.
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
        // Or a machine's setting would keep the objects elsewhere, where neither the flags below nor a clearing reach them.
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
