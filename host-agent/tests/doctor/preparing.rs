//! `cocoon-host gpu`: the plan for captured machines, and its execution on a tree of files like sysfs.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::PathBuf;

use cocoon_host_agent::doctor::source::Ran;
use cocoon_host_agent::gpu::{Aim, Fresh, Hands, NotGiven, Planned, Unfit, carry_out, fresh, plan};
use cocoon_qemu::PciAddress;

use crate::captured::{Captured, H100_NVIDIA, H100_VFIO, LAPTOP, SNP};

const GPU: &str = "0000:17:00.0";
const FOLDER: &str = "/sys/bus/pci/devices/0000:17:00.0";
const MODE: &str = "run nvidia_gpu_tools.py --devices 0000:17:00.0 --query-cc-mode";
const TOOL: &str = "run nvidia_gpu_tools.py --help";

fn gpu() -> PciAddress {
    GPU.parse().unwrap()
}

fn server() -> Captured {
    Captured::new(SNP).and(H100_VFIO).wanting_gpu()
}

fn planned(machine: &Captured, aim: Aim) -> Result<Vec<Planned>, Unfit> {
    plan(&machine.facts().gpus, gpu(), aim)
}

/// Returns the steps as a user would type them. Paths in the GPU's own folder are relative to it.
fn steps(machine: &Captured, aim: Aim) -> Vec<String> {
    let steps = planned(machine, aim).unwrap();
    for step in &steps {
        assert!(step.reason.len() > 8, "{step:?}");
    }
    let typed = steps.iter().map(|step| step.action.to_string());
    typed
        .map(|step| step.replace(&format!("{FOLDER}/"), ""))
        .collect()
}

#[test]
fn a_gpu_of_the_hosts_driver_is_taken_switched_reset_and_bound() {
    let expected = [
        "echo 'vfio-pci' > driver_override",
        "echo '0000:17:00.0' > driver/unbind",
        "nvidia_gpu_tools.py --devices 0000:17:00.0 --set-cc-mode=on --reset-after-cc-mode-switch",
        "echo 'flr' > reset_method",
        "echo '1' > reset",
        "echo '0000:17:00.0' > /sys/bus/pci/drivers_probe",
        "echo 'on' > power/control",
    ];
    assert_eq!(steps(&server().and(H100_NVIDIA), Aim::Prepared), expected);
}

#[test]
fn a_prepared_gpu_is_reset_for_each_boot() {
    let expected = [
        "echo 'flr' > reset_method",
        "echo '1' > reset",
        "echo 'on' > power/control",
    ];
    assert_eq!(steps(&server(), Aim::Prepared), expected);
}

#[test]
fn a_mode_that_is_wrong_or_not_known_is_set() {
    let set =
        "nvidia_gpu_tools.py --devices 0000:17:00.0 --set-cc-mode=on --reset-after-cc-mode-switch";
    for machine in [
        server().edited(MODE, "CC mode is on", "CC mode is off"),
        server().edited(MODE, "CC mode is on", "CC mode is devtools"),
        server().without(MODE),
    ] {
        let steps = steps(&machine, Aim::Prepared);
        assert_eq!(steps[0], set);
        assert_eq!(steps.last().unwrap(), "echo 'on' > power/control");
    }
}

#[test]
fn restoring_undoes_it() {
    let expected = [
        "echo '0000:17:00.0' > driver/unbind",
        "nvidia_gpu_tools.py --devices 0000:17:00.0 --set-cc-mode=off --reset-after-cc-mode-switch",
        "echo '' > driver_override",
        "echo '0000:17:00.0' > /sys/bus/pci/drivers_probe",
        "echo 'auto' > power/control",
    ];
    assert_eq!(steps(&server(), Aim::Restored), expected);
    // A GPU that the host's driver already has is left alone.
    let own = server().and(H100_NVIDIA);
    assert!(steps(&own, Aim::Restored).is_empty());
}

#[test]
fn what_stands_in_the_way_is_told_before_anything_is_done() {
    let edited =
        |heading: &str, text: &str| server().with(&format!("file {FOLDER}/{heading}"), text);
    let neighbour = "\
        === names /sys/kernel/iommu_groups/42/devices\n0000:17:00.0 0000:17:00.1\n\
        === link /sys/bus/pci/devices/0000:17:00.1/driver\nnvme\n";
    let address = gpu();
    for (machine, expected) in [
        (Captured::new(LAPTOP), Unfit::Unknown(address)),
        (
            server().with("device /dev/vfio/42", "busy"),
            Unfit::InUse(address),
        ),
        (
            server().with(&format!("hex {FOLDER}/config"), "ffffffff"),
            Unfit::Silent(address),
        ),
        (edited("device", "0x20b5"), Unfit::NotConfidential(address)),
        (
            server().without(&format!("link {FOLDER}/iommu_group")),
            Unfit::NoGroup(address),
        ),
        (
            server().and(neighbour),
            Unfit::Shared {
                address,
                other: "0000:17:00.1".parse().unwrap(),
                driver: "nvme".into(),
            },
        ),
        (edited("reset_method", "bus"), Unfit::NoReset(address)),
        (
            server().without("names /sys/bus/pci/drivers/vfio-pci"),
            Unfit::NoVfio,
        ),
        (server().without(TOOL), Unfit::NoTool(address)),
    ] {
        assert_eq!(planned(&machine, Aim::Prepared), Err(expected));
    }
    // Restoring a GPU has fewer requirements.
    assert_eq!(
        planned(&server().with("device /dev/vfio/42", "busy"), Aim::Restored),
        Err(Unfit::InUse(address))
    );
    assert!(planned(&edited("reset_method", "bus"), Aim::Restored).is_ok());
}

/// A tree of files like sysfs in a temporary folder. Programs are recorded, not run.
struct Tree {
    root: tempfile::TempDir,
    ran: RefCell<Vec<String>>,
    succeeds: bool,
}

impl Tree {
    fn new(files: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let tree = Self {
            root,
            ran: RefCell::default(),
            succeeds: true,
        };
        for file in files {
            let path = tree.place(&format!("{FOLDER}/{file}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(tree.place("/sys/bus/pci/drivers_probe"), "").unwrap();
        tree
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn holds(&self, file: &str) -> String {
        fs::read_to_string(self.place(&format!("{FOLDER}/{file}"))).unwrap()
    }
}

impl Hands for Tree {
    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // Like sysfs, creates no files.
        let mut file = fs::OpenOptions::new().write(true).open(self.place(path))?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    fn run(&self, command: &[&str]) -> io::Result<Ran> {
        self.ran.borrow_mut().push(command.join(" "));
        Ok(Ran {
            success: self.succeeds,
            output: "ERROR GPU is broken\u{1b}[2J\n".into(),
        })
    }
}

const FILES: &[&str] = &[
    "driver_override",
    "driver/unbind",
    "reset_method",
    "reset",
    "power/control",
];

#[test]
fn a_plan_is_carried_out_in_its_order() {
    let tree = Tree::new(FILES);
    let steps = planned(&server().and(H100_NVIDIA), Aim::Prepared).unwrap();
    let mut told = Vec::new();
    carry_out(&steps, &tree, |step| told.push(step.clone())).unwrap();
    assert_eq!(told, steps);
    let held: Vec<String> = FILES.iter().map(|file| tree.holds(file)).collect();
    assert_eq!(held, ["vfio-pci", GPU, "flr", "1", "on"]);
    assert_eq!(
        *tree.ran.borrow(),
        [
            "nvidia_gpu_tools.py --devices 0000:17:00.0 --set-cc-mode=on --reset-after-cc-mode-switch"
        ]
    );
    assert_eq!(
        fs::read_to_string(tree.place("/sys/bus/pci/drivers_probe")).unwrap(),
        GPU
    );
}

#[test]
fn it_stops_at_the_step_that_fails() {
    let steps = planned(&server().and(H100_NVIDIA), Aim::Prepared).unwrap();
    let missing = Tree::new(&["driver_override", "driver/unbind", "reset_method"]);
    let failed = carry_out(&steps, &missing, |_| ()).unwrap_err();
    assert_eq!((failed.at, failed.of), (5, 7));
    assert_eq!(failed.source.kind(), io::ErrorKind::NotFound);
    assert_eq!(
        failed.to_string(),
        "step 5 of 7 failed: echo '1' > /sys/bus/pci/devices/0000:17:00.0/reset; the 4 before it are done, and \
         `cocoon-host gpu prepare` or `restore` goes on from there"
    );
    let mut broken = Tree::new(FILES);
    broken.succeeds = false;
    let failed = carry_out(&steps, &broken, |_| ()).unwrap_err();
    assert_eq!(failed.at, 3);
    assert_eq!(failed.source.to_string(), "ERROR GPU is broken [2J");
    assert_eq!(broken.holds("reset"), "", "nothing after it is done");
}

/// Hands that may not write: those of an unprivileged user, or of a service to which sysfs is read-only.
struct Bound(io::ErrorKind);

impl Hands for Bound {
    fn write(&self, _: &str, _: &str) -> io::Result<()> {
        Err(self.0.into())
    }

    fn run(&self, command: &[&str]) -> io::Result<Ran> {
        panic!("{command:?} is run")
    }
}

#[test]
fn before_each_boot_a_gpu_is_reset_by_us_or_by_the_kernel() {
    let gpus = server().facts().gpus;
    let tree = Tree::new(FILES);
    assert_eq!(fresh(&gpus, gpu(), &tree), Ok(Fresh::Reset));
    let held: Vec<String> = FILES.iter().map(|file| tree.holds(file)).collect();
    assert_eq!(held, ["", "", "flr", "1", ""], "nothing else is done");
    assert!(tree.ran.borrow().is_empty());

    for kind in [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
    ] {
        let by = |methods: &str| {
            let machine = server().with(&format!("file {FOLDER}/reset_method"), methods);
            fresh(&machine.facts().gpus, gpu(), &Bound(kind))
        };
        assert_eq!(by("flr"), Ok(Fresh::ByKernel));
        assert_eq!(by("flr bus"), Ok(Fresh::ByKernel));
        assert_eq!(
            by("bus flr").unwrap_err().to_string(),
            "0000:17:00.0 would not be reset before this boot, which in confidential mode it must be: this user may not do \
             it, and the kernel would by bus and not by flr: `cocoon-host gpu prepare 0000:17:00.0`, as root, names that"
        );
        let method = "no method".to_owned();
        let address = gpu();
        assert_eq!(by(""), Err(NotGiven::NoReset { address, method }));
    }
    let broken = fresh(&gpus, gpu(), &Bound(io::ErrorKind::TimedOut)).unwrap_err();
    let expected =
        "0000:17:00.0 cannot be reset before this boot: step 1 of 2 failed: echo 'flr' > ";
    assert!(broken.to_string().starts_with(expected), "{broken}");
}
