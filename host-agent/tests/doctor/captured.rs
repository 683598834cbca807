//! Machines as text files: the answers to every probe, and functions to edit them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cocoon_host_agent::doctor::facts::{Facts, QemuFacts, Tried, Wanted};
use cocoon_host_agent::doctor::finding::{Finding, Severity};
use cocoon_host_agent::doctor::judge::judge;
use cocoon_host_agent::doctor::source::{Files, Peer, Ran, Refusal, SnpStatus, World};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::snp::report::TcbVersion;
use cocoon_qemu::find::Version;

/// A machine, as sections by their headings, such as `file /proc/cpuinfo`.
#[derive(Debug, Clone)]
pub struct Captured {
    sections: BTreeMap<String, String>,
    /// Result of listening on the public address.
    pub taken: Result<(), Refusal>,
    pub qemu: QemuFacts,
    pub tried: Tried,
    pub wanted: Wanted,
    pub policy: Policy,
    /// Paths of the device files that were opened.
    pub opened: Arc<Mutex<BTreeSet<String>>>,
    /// Command lines of the programs that were started.
    pub ran: Arc<Mutex<Vec<String>>>,
}

pub const TDX: &str = include_str!("machines/tdx-emerald-rapids.txt");
pub const SNP: &str = include_str!("machines/snp-genoa.txt");
pub const CLOUD_VM: &str = include_str!("machines/cloud-vm.txt");
pub const LAPTOP: &str = include_str!("machines/laptop.txt");
pub const H100_VFIO: &str = include_str!("machines/h100-vfio.txt");
pub const H100_NVIDIA: &str = include_str!("machines/h100-nvidia.txt");

impl Captured {
    pub fn new(text: &str) -> Self {
        let objects = ["iommufd", "sev-snp-guest", "tdx-guest"];
        let machine = Self {
            sections: BTreeMap::new(),
            taken: Ok(()),
            qemu: QemuFacts::Found {
                version: version(11, 1),
                what: "the system's QEMU 11.1.3".into(),
                objects: Some(objects.map(str::to_owned).to_vec()),
            },
            tried: Tried::NoImage,
            wanted: Wanted {
                memory_mib: 4096,
                listen: Some("127.0.0.1:8443".parse().unwrap()),
                gpu: false,
                examine: true,
                cache: Some("/var/cache/cocoon".into()),
            },
            policy: Policy::default(),
            opened: Arc::default(),
            ran: Arc::default(),
        };
        machine.and(text)
    }

    /// Adds the sections of `text`, which replace existing ones.
    pub fn and(mut self, text: &str) -> Self {
        let mut heading = None;
        for line in text.lines() {
            if let Some(new) = line.strip_prefix("=== ") {
                self.sections.insert(new.to_owned(), String::new());
                heading = Some(new.to_owned());
            } else if let Some(section) = heading.as_ref().and_then(|h| self.sections.get_mut(h)) {
                section.push_str(line);
                section.push('\n');
            }
        }
        self
    }

    /// Replaces or adds this section.
    pub fn with(mut self, heading: &str, text: &str) -> Self {
        self.sections
            .insert(heading.to_owned(), format!("{text}\n"));
        self
    }

    /// Removes this section, which must exist.
    pub fn without(mut self, heading: &str) -> Self {
        assert!(self.sections.remove(heading).is_some(), "no {heading}");
        self
    }

    /// Replaces `from`, which must occur, by `to` in this section.
    pub fn edited(mut self, heading: &str, from: &str, to: &str) -> Self {
        let section = self.sections.get_mut(heading).expect(heading);
        assert!(section.contains(from), "no {from:?} in {heading}");
        *section = section.replace(from, to);
        self
    }

    /// Makes the wanted image one that needs a GPU.
    pub fn wanting_gpu(mut self) -> Self {
        self.wanted.gpu = true;
        self
    }

    pub fn facts(&self) -> Facts {
        Facts::read(self, &self.wanted, self.qemu.clone(), self.tried.clone())
    }

    pub fn findings(&self) -> Vec<Finding> {
        judge(&self.facts(), &self.wanted, &self.policy)
    }

    /// Returns the only finding of this name.
    pub fn finding(&self, id: &str) -> Finding {
        let findings = self.findings();
        let mut found = findings.iter().filter(|finding| finding.id == id);
        match (found.next(), found.next()) {
            (Some(one), None) => one.clone(),
            _ => panic!("not one {id} among {findings:#?}"),
        }
    }

    fn section(&self, kind: &str, name: &str) -> Option<&String> {
        self.sections.get(&format!("{kind} {name}"))
    }
}

pub fn version(major: u32, minor: u32) -> Version {
    Version {
        major,
        minor,
        micro: 3,
    }
}

/// Returns the names of the findings that are at least this severe.
pub fn faults(findings: &[Finding], least: Severity) -> Vec<&'static str> {
    let faults = findings.iter().filter(|finding| finding.severity >= least);
    faults.map(|finding| finding.id).collect()
}

/// An edit of a good machine, the finding that it must cause, the finding's severity, and a part of its text.
pub type Case = (
    fn(Captured) -> Captured,
    &'static str,
    Severity,
    &'static str,
);

/// Checks that every edit causes its finding, and that the finding prevents a mode only if it is a failure.
pub fn check(good: impl Fn() -> Captured, cases: &[Case]) {
    for (edit, id, severity, said) in cases {
        let finding = edit(good()).finding(id);
        assert_eq!(finding.severity, *severity, "{finding:?}");
        assert!(finding.found.contains(said), "{said:?} in {finding:?}");
        let failure = *severity == Severity::Failure;
        for mode in &finding.modes {
            assert_eq!(finding.prevents(*mode), failure, "{finding:?}");
        }
    }
}

/// Checks that each finding is bad in at least one case.
pub fn covered(findings: &[Finding], cases: &[Case]) {
    assert!(!findings.is_empty());
    for finding in findings {
        let bad = |(_, id, severity, _): &Case| *id == finding.id && *severity > Severity::Ok;
        assert!(
            cases.iter().any(bad),
            "{} is never bad in these tests",
            finding.id
        );
    }
}

impl Files for Captured {
    fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
        if let Some(text) = self.section("file", path) {
            return Ok(text.clone().into_bytes());
        }
        let digits = self.section("hex", path).ok_or(Refusal::NotFound)?;
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        Ok(digits.chunks(2).map(byte).collect())
    }

    fn list(&self, path: &str) -> Vec<String> {
        if let Some(names) = self.section("names", path) {
            return names.split_whitespace().map(str::to_owned).collect();
        }
        let paths = self
            .sections
            .keys()
            .filter_map(|heading| heading.split_once(' '));
        let below = paths.filter_map(|(_, file)| file.strip_prefix(path)?.strip_prefix('/'));
        let names: BTreeSet<&str> = below.filter_map(|rest| rest.split('/').next()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        Some(self.section("link", path)?.trim().to_owned())
    }

    fn open(&self, path: &str) -> Result<(), Refusal> {
        self.opened.lock().unwrap().insert(path.to_owned());
        match self.section("device", path).map(|text| text.trim()) {
            Some("ok") => Ok(()),
            Some("denied") => Err(Refusal::PermissionDenied),
            Some("busy") => Err(Refusal::ResourceBusy),
            _ => Err(Refusal::NotFound),
        }
    }
}

impl World for Captured {
    fn run(&self, command: &[&str]) -> Result<Ran, Refusal> {
        let command = command.join(" ");
        self.ran.lock().unwrap().push(command.clone());
        let ran = |output: &String, success| Ran {
            success,
            output: output.clone(),
        };
        let worked = self
            .section("run", &command)
            .map(|output| ran(output, true));
        let failed = || {
            self.section("fails", &command)
                .map(|output| ran(output, false))
        };
        worked.or_else(failed).ok_or(Refusal::NotFound)
    }

    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let Some(text) = self.section("cpuid", &format!("{leaf:08x}")) else {
            return [0; 4];
        };
        let mut numbers = text
            .split_whitespace()
            .map(|digits| u32::from_str_radix(digits, 16).unwrap());
        [(); 4].map(|()| numbers.next().unwrap())
    }

    fn msr(&self, register: u32) -> Option<u64> {
        let text = self.section("msr", &format!("{register:x}"))?;
        Some(u64::from_str_radix(text.trim(), 16).unwrap())
    }

    fn snp_status(&self) -> Result<SnpStatus, String> {
        let text = self.section("snp", "status");
        let text = text.ok_or("there is no such device")?;
        // Returns the number or word that follows a name.
        let word = |name: &str| {
            let (_, rest) = text.split_once(name).unwrap();
            rest.split_whitespace()
                .next()
                .unwrap()
                .trim_end_matches(',')
        };
        let number = |name: &str| word(name).parse().unwrap();
        let yes = |name: &str| word(name) == "yes";
        let (major, minor) = word("firmware").split_once('.').unwrap();
        Ok(SnpStatus {
            firmware: (
                major.parse().unwrap(),
                minor.parse().unwrap(),
                word("build").parse().unwrap(),
            ),
            alias_check: yes("alias check"),
            chip_id_masked: yes("chip id masked"),
            chip_key_masked: yes("chip key masked"),
            provider_key: yes("provider key"),
            reported: TcbVersion {
                fmc: text.contains("FMC").then(|| number("FMC")),
                bootloader: number("boot loader"),
                tee: number("TEE"),
                snp: number("SNP"),
                microcode: number("microcode"),
            },
        })
    }

    fn connect(&self, to: &Peer) -> Result<(), Refusal> {
        let name = match to {
            Peer::Unix(path) => path.display().to_string(),
            Peer::Vsock { cid, port } => format!("vsock {cid}:{port}"),
            Peer::Tcp(address) => address.to_string(),
        };
        match self.section("peer", &name).map(|text| text.trim()) {
            Some("ok") => Ok(()),
            Some("denied") => Err(Refusal::PermissionDenied),
            Some(_) => Err(Refusal::ConnectionRefused),
            None => Err(Refusal::NotFound),
        }
    }

    fn listen(&self, _: SocketAddr) -> Result<(), Refusal> {
        self.taken
    }

    fn free(&self, _: &Path) -> Option<u64> {
        self.sections.get("free")?.trim().parse().ok()
    }

    fn now(&self) -> u64 {
        self.sections["now"].trim().parse().unwrap()
    }
}
