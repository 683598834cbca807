//! The trust file, `~/.config/cocoon/trust.toml`: trusted signers, the policy, and appliances seen before. A policy file
//! (`--policy`) has the first two in the same format, and nothing else. The memory of releases is a file next to the trust
//! file, so another trust file has another memory.
//!
//! ```toml
//! # signers = ["1111111111111111111111111111111111111111111111111111111111111111"]
//! threshold = 1
//! release_floor = 3        # newer releases that were seen are remembered beside this file, in trust.releases.toml
//!
//! [policy]                 # optional; the defaults are the safe ones
//! accepted_advisories = []
//!
//! [known_hosts."appliance.example:8443"]
//! release = 3              # seen confidential, with this release
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::ManifestTrust;
use cocoon_measurements::policy::Policy;
use cocoon_protocol::bytes::Hex32;
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, value};

use super::store::{Store, TrustFileError, integer};

pub(super) const TRUST_FILE: &str = "trust file";
pub(super) const POLICY_FILE: &str = "policy file";

/// Content of the trust file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustFile {
    /// Ed25519 public keys of trusted signers of manifests.
    pub signers: Vec<Hex32>,
    /// How many of the signers must have signed; 1 if absent.
    pub threshold: Option<usize>,
    /// Releases below this one are refused.
    pub release_floor: u64,
    /// Appraisal policy: requirements beyond the manifest.
    pub policy: Policy,
    /// Appliances that were confidential when seen, by `HOST:PORT`.
    pub known_hosts: BTreeMap<String, KnownHost>,
}

/// Content of a policy file: a trust file without its memory, to be shared and kept under version control. It cannot name a
/// root of trust.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyFile {
    signers: Vec<Hex32>,
    threshold: Option<usize>,
    release_floor: u64,
    policy: Option<Policy>,
}

/// What is remembered of an appliance that was confidential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownHost {
    /// Newest release that the appliance ran.
    pub release: u64,
}

/// Returns `$XDG_CONFIG_HOME/cocoon/trust.toml` or `~/.config/cocoon/trust.toml`, or `None` without a home directory.
pub fn default_path() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("cocoon/trust.toml"))
}

impl TrustFile {
    /// Reads a trust file; a missing one counts as empty.
    pub fn load(path: &Path) -> Result<Self, TrustFileError> {
        Ok(Self::load_if_any(path)?.unwrap_or_default())
    }

    /// Reads a trust file; returns `None` if it does not exist.
    pub(super) fn load_if_any(path: &Path) -> Result<Option<Self>, TrustFileError> {
        let store = at(path);
        let text = store.text_if_any()?;
        text.map(|text| store.parse(&text)).transpose()
    }

    /// Applies the policy file at `path`: replaces the signers, and the threshold and the policy if the file has them. Keeps
    /// the greater of the two release floors, and the known hosts. Without `[policy]` in the file, the policy of this trust
    /// file stays. With it, the file's policy is complete: settings that it lacks have their defaults.
    pub fn under_policy(self, path: &Path) -> Result<Self, TrustFileError> {
        let store = Store {
            what: POLICY_FILE,
            path,
        };
        let PolicyFile {
            signers,
            threshold,
            release_floor,
            policy,
        } = store.parse(&store.text()?)?;
        Ok(Self {
            signers,
            threshold: threshold.or(self.threshold),
            release_floor: release_floor.max(self.release_floor),
            policy: policy.unwrap_or(self.policy),
            ..self
        })
    }

    /// Returns what this file says about manifests, without any flags.
    pub fn believed(&self) -> ManifestTrust {
        let mut believed = ManifestTrust {
            signers: self.signers.iter().map(|key| key.0).collect(),
            threshold: self.threshold.unwrap_or(1),
            ..ManifestTrust::default()
        };
        believed.release_floor = believed.release_floor.max(self.release_floor);
        believed
    }

    /// Remembers an appliance. Comments and order of the file are kept.
    pub fn remember(path: &Path, host: &str, known: KnownHost) -> Result<(), TrustFileError> {
        let store = at(path);
        store.update(|text| {
            let file: Self = store.parse(text)?;
            if file
                .known_hosts
                .get(host)
                .is_some_and(|before| before.release >= known.release)
            {
                return Ok(None);
            }
            let mut document: DocumentMut = text
                .parse()
                .map_err(|error| store.unwritten(std::io::Error::other(error)))?;
            let hosts = document.entry("known_hosts").or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            hosts[host]["release"] = value(integer(known.release));
            if let Some(table) = hosts[host].as_inline_table_mut() {
                table.fmt();
            }
            Ok(Some(document.to_string()))
        })
    }
}

pub(super) fn at(path: &Path) -> Store<'_> {
    Store {
        what: TRUST_FILE,
        path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_measurements::policy::GpuRequirement;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    /// In both kinds of file, each error names the file, the line, the field and the accepted values.
    #[test]
    fn errors_name_line_field_and_accepted_values() {
        for (text, parts) in [
            (
                "threshold = 1\nsigner = []\n",
                &["line 2", "unknown field `signer`", "`signers`, `threshold`"][..],
            ),
            (
                "\n\nsigners = [\"12\"]\n",
                &[
                    "line 3",
                    "signers =",
                    "expected 32 bytes as 64 hexadecimal digits",
                ],
            ),
            (
                "[policy]\nno_such = 1\n",
                &["line 2", "unknown field `no_such`", "`machines`"],
            ),
            (
                "[policy]\naccepted_tcb_statuses = [\"OK\"]\n",
                &[
                    "line 2",
                    "accepted_tcb_statuses =",
                    "one of UpToDate, SWHardeningNeeded,",
                ],
            ),
            (
                "[policy]\n\nmax_amd_crl_age = 30\n",
                &["line 3", "max_amd_crl_age =", "expected a string"],
            ),
            (
                "[policy]\nmax_collateral_age = \"a month\"\n",
                &[
                    "line 2",
                    "max_collateral_age =",
                    "such as \"30d\" or \"36h\"",
                ],
            ),
            (
                "[policy]\nmachines = [\"10.0.0.1\"]\n",
                &[
                    "line 2",
                    "machines =",
                    "write intel-ppid: and 32 hexadecimal digits",
                ],
            ),
            (
                "[policy]\ngpu = \"yes\"\n",
                &["line 2", "gpu =", "expected `if_claimed` or `required`"],
            ),
            (
                "[policy.snp_tcb_floor.milan]\nmicrocode = 256\n",
                &["line 2", "microcode =", "expected u8"],
            ),
            (
                "[policy.snp_tcb_floor.naples]\n",
                &["line 1", "unknown field `naples`", "`milan`, `milan_x`"],
            ),
            (
                "[policy]\ndevelopment_roots = []\n",
                &["line 2", "unknown field `development_roots`"],
            ),
        ] {
            let (_folder, path) = file(text);
            for (what, result) in [
                ("trust file", TrustFile::load(&path)),
                ("policy file", TrustFile::default().under_policy(&path)),
            ] {
                let Err(error) = result else {
                    panic!("{text} is accepted")
                };
                let shown = crate::error::chain(&error);
                assert!(
                    shown.starts_with(&format!("{what} {} is not", path.display())),
                    "{shown}"
                );
                for part in parts {
                    assert!(shown.contains(part), "{part} in {shown}");
                }
            }
        }
        let (_folder, path) = file("[known_hosts.\"a:1\"]\nrelease = -1\n");
        let shown = TrustFile::load(&path).unwrap_err();
        assert!(crate::error::chain(&shown).contains("line 2"));
    }

    #[test]
    fn a_policy_file_replaces_demands_lowers_no_number_and_is_no_memory() {
        let (_folder, path) = file("release_floor = 4\n[policy]\nmin_tcb_evaluation = 19\n");
        let known: BTreeMap<_, _> = [("a:1".to_owned(), KnownHost { release: 2 })].into();
        let before = TrustFile {
            signers: vec![Hex32::ZERO],
            threshold: Some(2),
            release_floor: 9,
            known_hosts: known.clone(),
            ..TrustFile::default()
        };
        let policy = Policy {
            min_tcb_evaluation: 19,
            ..Policy::default()
        };
        assert_eq!(
            before.under_policy(&path).unwrap(),
            TrustFile {
                threshold: Some(2),
                release_floor: 9,
                policy,
                known_hosts: known,
                ..TrustFile::default()
            }
        );
        let (_folder, path) = file("threshold = 1\nrelease_floor = 4\n");
        let demanding = Policy {
            gpu: GpuRequirement::Required,
            ..Policy::default()
        };
        let before = TrustFile {
            threshold: Some(2),
            release_floor: 3,
            policy: demanding.clone(),
            ..TrustFile::default()
        };
        let after = before.under_policy(&path).unwrap();
        assert_eq!((after.threshold, after.release_floor), (Some(1), 4));
        assert_eq!(
            after.policy, demanding,
            "what it does not speak of stays demanded"
        );
        let (_folder, path) = file("[known_hosts.\"a:1\"]\nrelease = 1\n");
        let error = TrustFile::default().under_policy(&path).unwrap_err();
        assert!(
            crate::error::chain(&error).contains("unknown field `known_hosts`"),
            "{error}"
        );
        let missing = path.with_file_name("none.toml");
        let error = TrustFile::default().under_policy(&missing).unwrap_err();
        assert!(
            matches!(
                error,
                TrustFileError::Read {
                    what: POLICY_FILE,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn appliances_are_remembered_in_a_file_that_was_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cocoon/trust.toml");
        assert_eq!(TrustFile::load(&path).unwrap(), TrustFile::default());
        TrustFile::remember(&path, "[::1]:8443", KnownHost { release: 4 }).unwrap();
        TrustFile::remember(&path, "a.example:1", KnownHost { release: 5 }).unwrap();
        TrustFile::remember(&path, "a.example:1", KnownHost { release: 2 }).unwrap();
        let file = TrustFile::load(&path).unwrap();
        assert_eq!(file.known_hosts["[::1]:8443"], KnownHost { release: 4 });
        assert_eq!(file.known_hosts["a.example:1"], KnownHost { release: 5 });
    }

    /// If the trust file is a link, its target is updated in place and keeps its permissions.
    #[test]
    fn a_link_stays_a_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["config", "dotfiles"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let (link, file) = (at("config/trust.toml"), at("dotfiles/cocoon.toml"));
        // Through two relative links, to a file that does not exist yet.
        symlink("../dotfiles/current.toml", &link).unwrap();
        symlink("cocoon.toml", at("dotfiles/current.toml")).unwrap();
        let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        TrustFile::remember(&link, "a:1", KnownHost { release: 4 }).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        TrustFile::remember(&link, "a:1", KnownHost { release: 5 }).unwrap();
        assert_eq!(mode(), 0o640);
        assert!(link.is_symlink() && at("dotfiles/current.toml").is_symlink());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("release = 5"), "{text}");
        assert!(at("dotfiles/cocoon.toml.lock").exists());
        assert!(!at("config/trust.toml.lock").exists());

        symlink("itself.toml", at("itself.toml")).unwrap();
        let error = TrustFile::remember(&at("itself.toml"), "a:1", KnownHost { release: 4 });
        let error = crate::error::chain(&error.unwrap_err());
        assert!(
            error.contains("Too many levels of symbolic links"),
            "{error}"
        );
    }

    /// The values of the example are the defaults, as it says.
    #[test]
    fn the_example_is_the_default() {
        let (_folder, path) = file(include_str!("../../docs/policy.toml"));
        let example = TrustFile::default().under_policy(&path).unwrap();
        assert_eq!(example.policy, Policy::default());
        // A copy of the example trusts no signer.
        assert_eq!((example.signers.len(), example.threshold), (0, Some(1)));
        assert_eq!(example.release_floor, 0);
        // The example contains every setting of the policy.
        let written = toml::to_string(&Policy::default()).unwrap();
        for line in written.lines().filter(|line| line.contains(" = ")) {
            let (name, _) = line.split_once(" = ").unwrap();
            assert!(
                include_str!("../../docs/policy.toml").contains(name),
                "{name}"
            );
        }
    }

    #[test]
    fn comments_stay() {
        let (_folder, path) = file("# mine\nrelease_floor = 3 # why\n");
        TrustFile::remember(&path, "a:1", KnownHost { release: 4 }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# mine\nrelease_floor = 3 # why\n"),
            "{text}"
        );
    }
}
