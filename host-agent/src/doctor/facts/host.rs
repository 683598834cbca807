//! What every mode needs: kernel, memory, limits, clock, port and disk.

use std::fmt;

use super::super::source::{Refusal, World};
use super::Wanted;

/// Major and minor number of a kernel release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Release {
    /// Parses the beginning of a release such as `6.16.3-amd64`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Release as the kernel reports it.
    pub name: String,
    /// Parsed release.
    pub release: Option<Release>,
    /// Arguments on the kernel's command line.
    pub cmdline: Vec<String>,
    /// Lines of the kernel's log about TEEs; `None` if the log cannot be read.
    pub log: Option<Vec<String>>,
}

/// Lines of the kernel's log that contain one of these are kept.
const TOLD: [&str; 5] = ["virt/tdx", "sev", "rmp", "amd-vi", "tdx:"];

impl Kernel {
    fn read(world: &dyn World) -> Self {
        let name = world.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cmdline = world.text("/proc/cmdline").unwrap_or_default();
        // Most machines allow this only to root. The log is a ring buffer, so old lines may be missing.
        let log = world.run(&["dmesg"]).ok().filter(|ran| ran.success);
        let told = |line: &&str| {
            let line = line.to_lowercase();
            TOLD.iter().any(|word| line.contains(word))
        };
        Self {
            release: Release::parse(&name),
            name,
            cmdline: cmdline.split_whitespace().map(str::to_owned).collect(),
            log: log.map(|ran| ran.output.lines().filter(told).map(str::to_owned).collect()),
        }
    }

    /// Returns the last line of the log that contains `text`.
    #[must_use]
    pub fn logged(&self, text: &str) -> Option<&str> {
        let lines = self.log.as_ref()?;
        let found = lines.iter().rev().find(|line| line.contains(text))?;
        Some(found.as_str())
    }

    /// Whether the kernel's command line has this argument.
    #[must_use]
    pub fn told(&self, argument: &str) -> bool {
        self.cmdline.iter().any(|one| one == argument)
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Time in seconds since 1970.
    pub now: u64,
    /// Whether a time service synchronises the clock; `None` if unknown.
    pub synchronised: Option<bool>,
}

/// The machine's resources and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The running kernel.
    pub kernel: Kernel,
    /// Memory available without swapping, in KiB.
    pub available_kib: Option<u64>,
    /// Number of free huge pages, and size of each in KiB.
    pub huge_pages: (u64, u64),
    /// Maximum number of open files of a process.
    pub open_files: Option<u64>,
    /// Maximum locked memory of a process, in bytes.
    pub locked_memory: Option<u64>,
    /// The machine's clock.
    pub clock: Clock,
    /// Whether the public address is free; `Ok` if it was not examined.
    pub port: Result<(), Refusal>,
    /// Free bytes on the disk of the cache.
    pub cache_bytes: Option<u64>,
}

impl Host {
    pub(super) fn read(world: &dyn World, wanted: &Wanted) -> Self {
        let memory = world.text("/proc/meminfo").unwrap_or_default();
        let limits = world.text("/proc/self/limits").unwrap_or_default();
        let amount = |name: &str| amount(&memory, name);
        Self {
            kernel: Kernel::read(world),
            available_kib: amount("MemAvailable:"),
            huge_pages: (
                amount("HugePages_Free:").unwrap_or_default(),
                amount("Hugepagesize:").unwrap_or_default(),
            ),
            open_files: hard_limit(&limits, "Max open files"),
            locked_memory: hard_limit(&limits, "Max locked memory"),
            clock: Clock {
                now: world.now(),
                synchronised: synchronised(world),
            },
            port: wanted
                .listen
                .map_or(Ok(()), |address| world.listen(address)),
            cache_bytes: wanted.cache.as_deref().and_then(|path| world.free(path)),
        }
    }
}

/// Returns the number after `name` in `/proc/meminfo`.
fn amount(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns a hard limit from `/proc/self/limits`, to which programs may raise the soft one; `u64::MAX` if unlimited.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Asks systemd, which knows the kernel's synchronisation state whatever the time service.
fn synchronised(world: &dyn World) -> Option<bool> {
    let asked = [
        "timedatectl",
        "show",
        "--property=NTPSynchronized",
        "--value",
    ];
    let ran = world.run(&asked).ok().filter(|ran| ran.success)?;
    match ran.output.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}
