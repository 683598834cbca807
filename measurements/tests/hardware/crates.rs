//! Finds evidence in the sources of `dcap-qvl` and `sev`, in the versions with which this crate is built.

use std::path::PathBuf;

use crate::{open, variable};

/// Name of the vector, package, and path in the package.
const SHIPPED: [(&str, &str, &str); 23] = [
    (
        "tdx/dcapqvl_quote-from-tappd.hex",
        "dcap-qvl",
        "sample/quote-from-tappd.hex",
    ),
    ("tdx/dcapqvl_sgx_quote", "dcap-qvl", "sample/sgx_quote"),
    (
        "tdx/dcapqvl_sgx_quote_collateral.json",
        "dcap-qvl",
        "sample/sgx_quote_collateral.json",
    ),
    (
        "tdx/dcapqvl_tdx-quote.hex",
        "dcap-qvl",
        "sample/tdx-quote.hex",
    ),
    ("tdx/dcapqvl_tdx_quote", "dcap-qvl", "sample/tdx_quote"),
    (
        "tdx/dcapqvl_tdx_quote_collateral.json",
        "dcap-qvl",
        "sample/tdx_quote_collateral.json",
    ),
    (
        "tdx/dcapqvl_tdx_quote_outdated",
        "dcap-qvl",
        "sample/tdx_quote_outdated",
    ),
    (
        "tdx/dcapqvl_tdx_quote_outdated_collateral.json",
        "dcap-qvl",
        "sample/tdx_quote_outdated_collateral.json",
    ),
    (
        "tdx/dcapqvl_tdx_quote_td15ex",
        "dcap-qvl",
        "sample/tdx_quote_td15ex",
    ),
    (
        "tdx/dcapqvl_tdx_quote_td15ex_collateral.json",
        "dcap-qvl",
        "sample/tdx_quote_td15ex_collateral.json",
    ),
    (
        "snp/builtin_milan_ark.pem",
        "sev",
        "src/certs/snp/builtin/milan/ark.pem",
    ),
    (
        "snp/builtin_milan_ask.pem",
        "sev",
        "src/certs/snp/builtin/milan/ask.pem",
    ),
    (
        "snp/builtin_genoa_ark.pem",
        "sev",
        "src/certs/snp/builtin/genoa/ark.pem",
    ),
    (
        "snp/builtin_genoa_ask.pem",
        "sev",
        "src/certs/snp/builtin/genoa/ask.pem",
    ),
    (
        "snp/builtin_turin_ark.pem",
        "sev",
        "src/certs/snp/builtin/turin/ark.pem",
    ),
    (
        "snp/builtin_turin_ask.pem",
        "sev",
        "src/certs/snp/builtin/turin/ask.pem",
    ),
    (
        "snp/sev_cert_chain_milan",
        "sev",
        "tests/certs_data/cert_chain_milan",
    ),
    (
        "snp/sev_cert_chain_turin",
        "sev",
        "tests/certs_data/cert_chain_turin",
    ),
    (
        "snp/sev_vcek_turin.der",
        "sev",
        "tests/certs_data/vcek_turin.der",
    ),
    (
        "snp/sev_report_milan.hex",
        "sev",
        "tests/certs_data/report_milan.hex",
    ),
    (
        "snp/sev_vcek_milan.der",
        "sev",
        "tests/certs_data/vcek_milan.der",
    ),
    (
        "snp/sev_ovmf_AmdSev_suffix.bin",
        "sev",
        "tests/measurement/ovmf_AmdSev_suffix.bin",
    ),
    (
        "snp/sev_ovmf_OvmfX64_suffix.bin",
        "sev",
        "tests/measurement/ovmf_OvmfX64_suffix.bin",
    ),
];

/// Returns where Cargo has the vector `path`, if a package contains it.
pub fn shipped(path: &str) -> Option<PathBuf> {
    let (_, package, file) = SHIPPED.iter().find(|(name, ..)| *name == path)?;
    in_package(package, file)
}

/// Returns the path of a file in the locked version of `package`, in any registry's sources.
pub fn in_package(package: &str, file: &str) -> Option<PathBuf> {
    let lock = open(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock").as_ref()).ok()?;
    let lock = String::from_utf8(lock).ok()?;
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    let (version, _) = rest.split_once('"')?;
    let home = variable("CARGO_HOME").or_else(|| Some(variable("HOME")?.join(".cargo")))?;
    registries(home.join("registry/src"))
        .map(|registry| registry.join(format!("{package}-{version}")).join(file))
        .find(|path| open(path).is_ok())
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests look for what Cargo unpacked; the crate itself does not"
)]
fn registries(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// In a plain checkout, without a folder of vectors, these files are what the tests use.
#[test]
fn the_packages_hold_the_same_bytes_as_the_vectors() {
    let Some(_) = in_package("sev", "Cargo.toml") else {
        crate::skip("Cargo's registry sources are not below CARGO_HOME or HOME");
        return;
    };
    for (name, package, file) in SHIPPED {
        let path = in_package(package, file);
        let path = path.unwrap_or_else(|| panic!("{package} has no {file}: correct the table"));
        let shipped = open(&path).unwrap();
        assert!(!shipped.is_empty(), "{name}");
        assert_eq!(crate::vector(name), Some(shipped), "{name}");
    }
}
