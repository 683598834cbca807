//! What an examination finds, and what follows for each way to run an appliance.

use std::fmt;

use serde::Serialize;

/// A way to run an appliance on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A trust domain of Intel TDX.
    Tdx,
    /// A guest of AMD SEV-SNP.
    SevSnp,
    /// A plain machine under KVM with simulated evidence: nothing is protected.
    SimulatedKvm,
    /// The same under emulation, without any hardware support.
    SimulatedEmulated,
}

impl Mode {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [
        Self::Tdx,
        Self::SevSnp,
        Self::SimulatedKvm,
        Self::SimulatedEmulated,
    ];
    /// Those with real hardware behind them.
    pub const REAL: &[Self] = &[Self::Tdx, Self::SevSnp];
    /// Those whose guest code the processor itself runs.
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

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It will start, and something will be worse than it could be or could not be judged.
    Warning,
    /// The modes that it matters for cannot work.
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

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; stable, for programs. Of several GPUs each has its own finding of the same name.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What there is.
    pub found: String,
    /// What is needed; empty when there is nothing to say.
    pub needed: String,
    /// What to do: a command, or a menu item of the BIOS in words; empty when nothing is to be done.
    pub fix: String,
    /// For which modes it matters.
    pub modes: Vec<Mode>,
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, modes, found)
    }

    /// Good to know.
    pub(super) fn note(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, modes, found)
    }

    /// Worse than it could be.
    pub(super) fn warning(id: &'static str, modes: &[Mode], found: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, modes, found)
    }

    /// It cannot work like this.
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

    /// Whether it keeps an appliance from running in `mode`.
    #[must_use]
    pub fn prevents(&self, mode: Mode) -> bool {
        self.severity == Severity::Failure && self.modes.contains(&mode)
    }
}

/// What follows for one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Which.
    pub mode: Mode,
    /// Whether an appliance can run in it.
    pub ready: bool,
    /// The findings that stand in the way, by id.
    pub because: Vec<&'static str>,
    /// The findings that warn, by id.
    pub warnings: Vec<&'static str>,
}

impl Readiness {
    /// What `findings` mean for `mode`.
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
