//! Chooses between KVM and emulation: KVM only if a virtual machine has actually run on it.
//!
//! That `/dev/kvm` can be opened proves little: in some clouds, KVM runs small programs but no stock kernel. The probe
//! therefore boots the very kernel that will be used. Its result is kept for a day, but not across a reboot of the host. A
//! failure is kept only if KVM itself failed: a host that was busy for a minute must not do without KVM for a day.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::find::Qemu;
use crate::probe::{self, Refused};

/// The environment variable that overrides the choice.
pub const VARIABLE: &str = "COCOON_ACCEL";

/// How long a result is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The kernel's identifier of the current boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The KVM device.
const DEVICE: &str = "/dev/kvm";

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the CPU, with KVM.
    Kvm,
    /// By QEMU's binary translator (TCG).
    Emulated,
}

/// The operator's choice of accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// KVM if a probe shows that it works, otherwise emulation.
    #[default]
    Automatic,
    /// KVM, without a probe.
    Kvm,
    /// Emulation, without a probe.
    Emulated,
}

/// The chosen accelerator and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The accelerator to use.
    pub accel: Accel,
    /// The reason, as a phrase for the operator.
    pub reason: String,
}

/// What the probe boots, and where its result is kept.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// The QEMU that will be used.
    pub qemu: &'a Qemu,
    /// The kernel that will be used.
    pub kernel: &'a Path,
    /// The firmware that will be used, if any.
    pub firmware: Option<&'a Path>,
    /// The cache folder; results are kept in its folder `accel`.
    pub cache: &'a Path,
    /// How long the kernel may take to reach the end of its initialisation.
    pub deadline: Duration,
    /// Whether to run the probe even if a result is kept.
    pub fresh: bool,
}

/// Chooses between KVM and emulation. `notice` is called before a step that takes seconds.
///
/// # Errors
/// [`AccelError::Read`] if the kernel or firmware cannot be read. KVM that does not work is a result, not an error.
pub async fn choose(
    wanted: Wanted,
    probe: Probe<'_>,
    notice: impl FnOnce(&str),
) -> Result<Choice, AccelError> {
    let emulated = |reason| Choice {
        accel: Accel::Emulated,
        reason,
    };
    match wanted {
        Wanted::Kvm => {
            return Ok(Choice {
                accel: Accel::Kvm,
                reason: "KVM, as asked".into(),
            });
        }
        Wanted::Emulated => return Ok(emulated("emulation, as asked".into())),
        Wanted::Automatic => {}
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        return Ok(emulated(match error.kind() {
            io::ErrorKind::NotFound => format!("emulation: this machine has no {DEVICE}"),
            io::ErrorKind::PermissionDenied => {
                format!("emulation: {DEVICE} may not be opened; join its group (usually \"kvm\")")
            }
            _ => format!("emulation: {DEVICE} does not open ({error})"),
        }));
    }
    let file = probe
        .cache
        .join("accel")
        .join(format!("{}.json", key(&probe)?));
    let kept = recall(&file, SystemTime::now()).filter(|_| !probe.fresh);
    if let Some(answer) = kept {
        return Ok(answer.choice("found earlier today"));
    }
    notice("trying whether KVM runs this kernel");
    let tried = probe::run(&probe).await;
    let lasting = lasts(&tried);
    let answer = Answer::from(tried);
    // If the cache cannot be written, only the next start has to probe again.
    let _ = match lasting {
        true => remember(&file, &answer),
        false => forget(&file),
    };
    Ok(answer.choice("just tried"))
}

impl Wanted {
    /// Reads [`VARIABLE`] from this process's environment.
    ///
    /// # Errors
    /// [`AccelError::Unknown`] if it is not `auto`, `kvm` or `tcg`.
    pub fn from_environment() -> Result<Self, AccelError> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::Automatic),
            Some(value) => value.to_str().unwrap_or("?").parse(),
        }
    }
}

impl FromStr for Wanted {
    type Err = AccelError;

    fn from_str(text: &str) -> Result<Self, AccelError> {
        match text {
            "auto" => Ok(Self::Automatic),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Emulated),
            other => Err(AccelError::Unknown(other.to_owned())),
        }
    }
}

/// Why no choice could be made.
#[derive(Debug, thiserror::Error)]
pub enum AccelError {
    /// The name of the accelerator is not known.
    #[error("{0:?} is no accelerator; use \"auto\", \"kvm\" or \"tcg\"")]
    Unknown(String),
    /// The kernel or firmware for the probe cannot be read.
    #[error("cannot read {path:?} to try KVM with it")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A probe's result, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    works: bool,
    detail: String,
    /// Time of the probe, in seconds since 1970.
    time: u64,
}

impl Answer {
    fn choice(&self, when: &str) -> Choice {
        if self.works {
            Choice {
                accel: Accel::Kvm,
                reason: format!("KVM: {} ({when})", self.detail),
            }
        } else {
            Choice {
                accel: Accel::Emulated,
                reason: format!(
                    "emulation: KVM does not work here, {} ({when})",
                    self.detail
                ),
            }
        }
    }
}

impl From<Result<String, Refused>> for Answer {
    fn from(result: Result<String, Refused>) -> Self {
        let works = result.is_ok();
        let (Ok(detail) | Err(Refused { detail, .. })) = result;
        Self {
            works,
            detail,
            time: seconds(SystemTime::now()),
        }
    }
}

/// Returns whether another trial would give the same result.
fn lasts(tried: &Result<String, Refused>) -> bool {
    tried
        .as_ref()
        .map_or_else(|refused| refused.by_kvm, |_| true)
}

/// Returns the cache key: a hash of everything that the result depends on.
fn key(probe: &Probe<'_>) -> Result<String, AccelError> {
    let mut hash = Sha256::new_with_prefix("accel 2\0");
    // Firmware settings and KVM's modules may change between boots. Without a boot identifier, the result is still kept for
    // a day only.
    hash.update(fs::read(BOOT).unwrap_or_default());
    let host = nix::sys::utsname::uname();
    let empty = OsStr::new("");
    for part in host
        .as_ref()
        .map_or([empty; 2], |host| [host.release(), host.version()])
    {
        hash.update(part.as_encoded_bytes());
        hash.update([0]);
    }
    hash.update(format!("{:?}{:?}", probe.qemu.version, probe.qemu.program));
    for path in [Some(probe.kernel), probe.firmware].into_iter().flatten() {
        let fail = |source| AccelError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(fail)?;
        let mut inner = Sha256::new();
        io::copy(&mut file, &mut inner).map_err(fail)?;
        hash.update(inner.finalize());
    }
    Ok(hex::encode(&hash.finalize()[..16]))
}

fn recall(file: &Path, now: SystemTime) -> Option<Answer> {
    let text = fs::read(file).ok().filter(|text| text.len() < 4096)?;
    let answer: Answer = serde_json::from_slice(&text).ok()?;
    // A result from the future is as useless as an old one.
    let age = seconds(now).checked_sub(answer.time)?;
    (age < KEPT.as_secs()).then_some(answer)
}

fn remember(file: &Path, answer: &Answer) -> io::Result<()> {
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(&partial, serde_json::to_vec(answer)?)?;
    fs::rename(partial, file)
}

/// Removes the kept result, so that it does not outlive a newer one that is not kept.
fn forget(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_a_day() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("accel/key.json");
        let now = SystemTime::now();
        assert_eq!(recall(&file, now), None);
        let refused = Refused::from("it hung".to_owned());
        let answer = Answer::from(Err::<String, _>(refused));
        remember(&file, &answer).expect("written");
        assert_eq!(recall(&file, now + KEPT / 2), Some(answer.clone()));
        assert_eq!(recall(&file, now + KEPT * 2), None);
        assert_eq!(recall(&file, now - KEPT), None);
        fs::write(&file, "{}").expect("damaged");
        assert_eq!(recall(&file, now), None);
        assert_eq!(
            answer.choice("now").reason,
            "emulation: KVM does not work here, it hung (now)"
        );
    }

    /// A host that is busy or short of memory may not be a minute later.
    #[test]
    fn failures_last_only_where_kvm_gave_up() {
        let refused = |by_kvm| {
            let detail = "it hung".to_owned();
            Err(Refused { detail, by_kvm })
        };
        assert!(lasts(&Ok("it started".to_owned())));
        assert!(lasts(&refused(true)));
        assert!(!lasts(&refused(false)));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("accel/key.json");
        forget(&file).expect("nothing to forget");
        remember(&file, &Answer::from(refused(true))).expect("written");
        forget(&file).expect("forgotten");
        assert_eq!(recall(&file, SystemTime::now()), None);
    }

    #[test]
    fn the_override_has_three_words() {
        let parsed: Vec<_> = ["auto", "kvm", "tcg"]
            .into_iter()
            .flat_map(str::parse::<Wanted>)
            .collect();
        assert_eq!(parsed, [Wanted::Automatic, Wanted::Kvm, Wanted::Emulated]);
        let error = "KVM".parse::<Wanted>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "\"KVM\" is no accelerator; use \"auto\", \"kvm\" or \"tcg\""
        );
    }
}
