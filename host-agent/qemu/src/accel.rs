//! KVM or emulation: KVM only where a virtual machine has really run on it.
//!
//! That `/dev/kvm` opens says little: inside some clouds it runs small programs but not a stock kernel. So the
//! probe boots the very kernel that will be used, and its answer is kept for a day, until the machine starts again. A failure
//! is kept only where KVM itself gave up: a machine that was busy for a minute is not without KVM for a day.

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

/// The variable that overrides the choice.
pub const VARIABLE: &str = "COCOON_ACCEL";

/// How long an answer is believed.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A number of this start of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Where KVM is.
const DEVICE: &str = "/dev/kvm";

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the CPU.
    Kvm,
    /// By QEMU's translator.
    Emulated,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// KVM where it works.
    #[default]
    Automatic,
    /// KVM, without asking.
    Kvm,
    /// Emulation, without asking.
    Emulated,
}

/// The choice and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to use.
    pub accel: Accel,
    /// A sentence for people.
    pub reason: String,
}

/// What the probe boots, and where its answer is kept.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// The QEMU that will be used.
    pub qemu: &'a Qemu,
    /// The kernel that will be used.
    pub kernel: &'a Path,
    /// The firmware that will be used, if any.
    pub firmware: Option<&'a Path>,
    /// The cache folder; the answer goes into `accel/` below it.
    pub cache: &'a Path,
    /// How long the kernel may take to reach the end of its own start.
    pub deadline: Duration,
    /// Whether to try although an answer is kept.
    pub fresh: bool,
}

/// Decides between KVM and emulation. `notice` is told before anything that takes seconds.
///
/// # Errors
/// Only when the kernel or firmware cannot be read; a KVM that does not work is an answer, not an error.
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
    // A cache that cannot be written costs the next start a probe, nothing else.
    let _ = match lasting {
        true => remember(&file, &answer),
        false => forget(&file),
    };
    Ok(answer.choice("just tried"))
}

impl Wanted {
    /// The value of [`VARIABLE`] in this process's environment.
    ///
    /// # Errors
    /// When it is neither `auto`, `kvm` nor `tcg`.
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
    /// A word we do not know.
    #[error("{0:?} is no accelerator; use \"auto\", \"kvm\" or \"tcg\"")]
    Unknown(String),
    /// The probe needs the kernel and firmware.
    #[error("cannot read {path:?} to try KVM with it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A probe's answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    works: bool,
    detail: String,
    /// Seconds since 1970.
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

/// Whether the same would come of another trial.
fn lasts(tried: &Result<String, Refused>) -> bool {
    tried
        .as_ref()
        .map_or_else(|refused| refused.by_kvm, |_| true)
}

/// Everything the answer depends on.
fn key(probe: &Probe<'_>) -> Result<String, AccelError> {
    let mut hash = Sha256::new_with_prefix("accel 2\0");
    // Firmware settings and KVM's modules change between two starts. Where it is not told, a day is the bound.
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
    // An answer from the future is as stale as one from the past.
    let age = seconds(now).checked_sub(answer.time)?;
    (age < KEPT.as_secs()).then_some(answer)
}

fn remember(file: &Path, answer: &Answer) -> io::Result<()> {
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(&partial, serde_json::to_vec(answer)?)?;
    fs::rename(partial, file)
}

/// An older answer must not outlive a newer one that is not kept.
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

    /// A busy machine, or one short of memory, is another one in a minute.
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
