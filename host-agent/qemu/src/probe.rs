//! The probe of KVM: a virtual machine that boots the real kernel until it looks for a root file system.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::accel::{Accel, Probe};
use crate::process::Vm;
use crate::socket;
use crate::spec::{Blob, Confidential, Console, Placement, VmSpec};
use crate::tail::Tail;

/// The kernel prints this after CPUs, memory, timers and drivers have started.
const REACHED: &str = "Kernel panic - not syncing: VFS: Unable to mount root fs";

/// QEMU prints this when KVM fails on an instruction. It then stays paused for ever.
const GAVE_UP: &str = "KVM internal error";

/// Why KVM is not used.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What happened.
    pub(crate) detail: String,
    /// Whether KVM itself failed, which would happen again. Any other failure, such as too little memory or time for the
    /// trial, says little about KVM.
    pub(crate) by_kvm: bool,
}

impl From<String> for Refused {
    fn from(detail: String) -> Self {
        let by_kvm = false;
        Self { detail, by_kvm }
    }
}

/// Boots the kernel on KVM. Returns what happened, either as a success or as a reason against KVM.
pub(crate) async fn run(probe: &Probe<'_>) -> Result<String, Refused> {
    let begin = Instant::now();
    let (console, stream) =
        socket::pair().map_err(|error| format!("no console for the trial ({error})"))?;
    stream
        .set_nonblocking(false)
        .map_err(|error| format!("no console for the trial ({error})"))?;
    let spec = VmSpec {
        name: "kvm-probe".into(),
        accel: Accel::Kvm,
        confidential: Confidential::None,
        // Two, because starting the second processor is a step of its own.
        vcpus: 2,
        memory_mib: 384,
        placement: Placement::default(),
        firmware: probe.firmware.map(|path| Blob::Path(path.to_owned())),
        kernel: Blob::Path(probe.kernel.to_owned()),
        initrd: None,
        cmdline: "console=ttyS0 panic=-1".into(),
        disks: Vec::new(),
        control: None,
        console: Console::Stream(console.endpoint),
        network: None,
        gpu: None,
        qmp: None,
        pid_file: None,
    };
    let descriptors: Vec<OwnedFd> = vec![console.fd];
    let vm = Vm::spawn(probe.qemu, &spec, descriptors)
        .map_err(|error| format!("QEMU did not start ({error})"))?;
    let text = Tail::new(256 << 10);
    text.follow(stream)
        .map_err(|error| format!("no thread for the trial ({error})"))?;
    let watched = async {
        tokio::select! {
            biased;
            found = text.find(&[REACHED]) => found.map(|_| ()).ok_or_else(|| "the machine ended before the kernel was up".into()),
            Some(_) = vm.diagnosed(&[GAVE_UP]) => Err(format!("QEMU reported \"{GAVE_UP}\"")),
        }
    };
    let outcome = timeout(probe.deadline, watched).await;
    let console = last_line(&text.text());
    let diagnostics = vm.diagnostics();
    // The result stands whatever happens now, but the machine must not be left running.
    let _ = vm.stop(None, Duration::from_secs(5)).await;
    match outcome {
        Ok(Ok(())) => Ok(format!(
            "this kernel started in {:.1} s",
            begin.elapsed().as_secs_f32()
        )),
        Ok(Err(what)) if diagnostics.contains(GAVE_UP) => Err(Refused {
            detail: format!("{what}; last words: {console:?}"),
            by_kvm: true,
        }),
        Ok(Err(what)) => {
            let qemu = last_line(&diagnostics);
            Err(format!("{what}; last words: {console:?}, QEMU's: {qemu:?}").into())
        }
        Err(_) => {
            let seconds = probe.deadline.as_secs();
            let detail = format!("no end of its start within {seconds} s; last words: {console:?}");
            Err(detail.into())
        }
    }
}

/// Returns the last line with text, without lines of terminal control, as at most 80 printable characters.
fn last_line(text: &str) -> String {
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.contains('\u{1b}'))
        .unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(80).collect()
}
