//! Findings of an examination, and what they mean for each mode of running an appliance.

use std::fmt;

use serde::Serialize;

/// A mode of running an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In a TDX trust domain.
    Tdx,
    /// As an SEV-SNP guest.
    SevSnp,
    /// As a plain VM under KVM with simulated evidence. Nothing is protected.
    SimulatedKvm,
    /// As a plain VM under emulation with simulated evidence, without hardware support.
    SimulatedEmulated,
}

impl Mode {
    /// All modes, best first.
    pub const ALL: [Self; 4] = [
        Self::Tdx,
        Self::SevSnp,
        Self::SimulatedKvm,
        Self::SimulatedEmulated,
    ];
    /// The modes with a real TEE.
    pub const REAL: &[Self] = &[Self::Tdx, Self::SevSnp];
    /// The modes in which the processor itself runs guest code.
    pub const HARDWARE: &[Self] = &[Self::Tdx, Self::SevSnp, Self::SimulatedKvm];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tdx => "real TDX",
            Self::SevSnp => "real SEV-SNP",
            Self::SimulatedKvm => "simulated under KVM",
            Self::SimulatedEmulated => "simulated under emulation",
        })
    }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// All is well.
    Ok,
    /// Information.
    Note,
    /// The appliance starts, but something is worse than it could be, or could not be checked.
    Warning,
    /// The finding's modes cannot work.
    Failure,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "WARNING",
            Self::Failure => "FAILURE",
        })
    }
}

/// One finding of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of what was examined, for programs. Each of several GPUs has a finding with the same name.
    pub id: &'static str,
    /// How serious the finding is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What is needed; may be empty.
    pub needed: String,
    /// Remedy: a command, or the menu items of the BIOS; may be empty.
    pub fix: String,
    /// Modes that the finding concerns.
    pub modes: Vec<Mode>,
}

impl Finding {
    /// Creates a finding of severity [`Severity::Ok`].
    pub(super) fn ok(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, modes, found)
    }

    /// Creates a finding of severity [`Severity::Note`].
    pub(super) fn note(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, modes, found)
    }

    /// Creates a finding of severity [`Severity::Warning`].
    pub(super) fn warning(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, modes, found)
    }

    /// Creates a finding of severity [`Severity::Failure`].
    pub(super) fn failure(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Failure, modes, found)
    }

    fn new(id: &'static str, severity: Severity, modes: &[Mode], found: impl Into<String>) -> Self {
        Self {
            id,
            severity,
            found: found.into(),
            needed: String::new(),
            fix: String::new(),
            modes: modes.to_vec(),
        }
    }

    pub(super) fn needed(mut self, needed: impl Into<String>) -> Self {
        self.needed = needed.into();
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Whether the finding prevents an appliance from running in `mode`.
    #[must_use]
    pub fn prevents(&self, mode: Mode) -> bool {
        self.severity == Severity::Failure && self.modes.contains(&mode)
    }
}

/// Readiness of a machine for one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The mode.
    pub mode: Mode,
    /// Whether an appliance can run in the mode.
    pub ready: bool,
    /// Names of the findings that prevent it.
    pub because: Vec<&'static str>,
    /// Names of the findings that warn.
    pub warnings: Vec<&'static str>,
}

impl Readiness {
    /// Derives the readiness for `mode` from `findings`.
    #[must_use]
    pub fn of(mode: Mode, findings: &[Finding]) -> Self {
        let of = |severity| {
            let matters = findings
                .iter()
                .filter(|one| one.severity == severity && one.modes.contains(&mode));
            let mut ids: Vec<_> = matters.map(|finding| finding.id).collect();
            ids.dedup();
            ids
        };
        let because = of(Severity::Failure);
        Self {
            mode,
            ready: because.is_empty(),
            because,
            warnings: of(Severity::Warning),
        }
    }
}
