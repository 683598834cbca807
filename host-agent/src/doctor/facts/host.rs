//! What every mode needs: kernel, memory, limits, clock, port, disk.

use std::fmt;

use super::super::source::{Refusal, World};
use super::Wanted;

/// The kernel's release, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Release {
    /// Reads the beginning of `6.16.3-amd64`.
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
    /// As it calls itself.
    pub name: String,
    /// The same as numbers.
    pub release: Option<Release>,
    /// Its command line.
    pub cmdline: Vec<String>,
    /// The lines of its log that this module looks for; `None` when the log may not be read.
    pub log: Option<Vec<String>>,
}

/// What of the kernel's log is kept.
const TOLD: [&str; 5] = ["virt/tdx", "sev", "rmp", "amd-vi", "tdx:"];

impl Kernel {
    fn read(world: &dyn World) -> Self {
        let name = world.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cmdline = world.text("/proc/cmdline").unwrap_or_default();
        // Root only on most machines; the ring forgets what is old.
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

    /// The last line of the log with this text.
    #[must_use]
    pub fn logged(&self, text: &str) -> Option<&str> {
        let lines = self.log.as_ref()?;
        let found = lines.iter().rev().find(|line| line.contains(text))?;
        Some(found.as_str())
    }

    /// Whether this stands on its command line.
    #[must_use]
    pub fn told(&self, argument: &str) -> bool {
        self.cmdline.iter().any(|one| one == argument)
    }
}

/// The machine's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// Whether a time service keeps it; `None` when nobody says.
    pub synchronised: Option<bool>,
}

/// Limits and resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The kernel.
    pub kernel: Kernel,
    /// Memory that can be had without swapping, in KiB.
    pub available_kib: Option<u64>,
    /// Free huge pages, and how large each is in KiB.
    pub huge_pages: (u64, u64),
    /// Most files that a process may open.
    pub open_files: Option<u64>,
    /// Most memory that a process may lock, in bytes.
    pub locked_memory: Option<u64>,
    /// The time.
    pub clock: Clock,
    /// Whether the public address is free, where it is still to be taken.
    pub port: Result<(), Refusal>,
    /// Free bytes where the cache is.
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

/// The number behind `name` in `/proc/meminfo`.
fn amount(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The hard limit of `/proc/self/limits`, up to which programs may raise the other; without a limit the largest number.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// systemd knows of every time service that tells the kernel.
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
