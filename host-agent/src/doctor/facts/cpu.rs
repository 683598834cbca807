//! The processor, from `/proc/cpuinfo` and CPUID.

use super::super::source::World;

/// The first processor; a server's processors are all of the same model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// Vendor: `GenuineIntel`, `AuthenticAMD` or another.
    pub vendor: String,
    /// Model name for people.
    pub name: String,
    /// Family, including the extended family, as in `/proc/cpuinfo`.
    pub family: u32,
    /// Model, including the extended model, as in `/proc/cpuinfo`.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Microcode revision.
    pub microcode: u32,
    /// EAX (family, model and stepping) and EDX (features) of `CPUID.1`.
    pub leaf_1: (u32, u32),
    /// Feature flags, by the kernel's names.
    pub flags: Vec<String>,
}

impl Cpu {
    pub(super) fn read(world: &dyn World) -> Self {
        let [signature, _, _, features] = world.cpuid(1);
        Self {
            leaf_1: (signature, features),
            ..Self::parse(&world.text("/proc/cpuinfo").unwrap_or_default())
        }
    }

    /// Parses the first paragraph. Missing values stay empty.
    #[must_use]
    pub fn parse(cpuinfo: &str) -> Self {
        let mut cpu = Self::default();
        let first = cpuinfo.lines().take_while(|line| !line.trim().is_empty());
        for (key, value) in first.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let number = || value.parse().unwrap_or_default();
            match key.trim() {
                "vendor_id" => value.clone_into(&mut cpu.vendor),
                "model name" => value.clone_into(&mut cpu.name),
                "cpu family" => cpu.family = number(),
                "model" => cpu.model = number(),
                "stepping" => cpu.stepping = number(),
                "microcode" => {
                    let digits = value.trim_start_matches("0x");
                    cpu.microcode = u32::from_str_radix(digits, 16).unwrap_or_default();
                }
                "flags" => cpu.flags = value.split_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
        }
        cpu
    }

    /// Whether the kernel lists this feature flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|one| one == flag)
    }

    /// Description of the processor for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let name = if self.name.is_empty() {
            "a processor without a name"
        } else {
            &self.name
        };
        format!(
            "{name} (family {}, model {}, stepping {})",
            self.family, self.model, self.stepping
        )
    }
}
