//! Which QEMU and which accelerator a machine gets, tried with real ones.

use std::path::PathBuf;
use std::time::Duration;

use crate::guest::{PATIENCE, Running, guest, qemu, start};
use cocoon_inputs::{Cache, Fetcher, Lock, Mirrors, Options, Policy};
use cocoon_qemu::accel::{Probe, choose};
use cocoon_qemu::find::MINIMUM;
use cocoon_qemu::{Accel, Wanted, obtain};

/// Small programs run on many a KVM that cannot run a kernel: only the end of a kernel's start counts.
#[tokio::test]
async fn a_guest_that_only_says_ready_does_not_prove_kvm() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, guest()).expect("a kernel");
    let deadline = Duration::from_secs(3);
    let probe = Probe {
        qemu: &qemu,
        kernel: &kernel,
        firmware: None,
        cache: folder.path(),
        deadline,
    };
    let first = choose(Wanted::Automatic, probe, |_| {})
        .await
        .expect("a choice");
    assert_eq!(first.accel, Accel::Emulated);
    assert!(first.reason.starts_with("emulation: "), "{}", first.reason);
    if !first.reason.contains("/dev/kvm") {
        let again = choose(Wanted::Automatic, probe, |_| panic!("tried again"))
            .await
            .expect("a choice");
        assert_eq!(
            again.reason,
            first.reason.replace("just tried", "found earlier today")
        );
    }
    let asked = choose(Wanted::Kvm, probe, |_| panic!("tried"))
        .await
        .expect("a choice");
    assert_eq!(asked.accel, Accel::Kvm);
}

/// With a kernel named by `COCOON_PROBE_KERNEL`: the answer for this machine, printed.
#[tokio::test]
async fn the_answer_for_a_real_kernel() {
    let Some(qemu) = qemu().await else { return };
    let Some(kernel) = std::env::var_os("COCOON_PROBE_KERNEL").map(PathBuf::from) else {
        println!("SKIPPED: COCOON_PROBE_KERNEL names no kernel");
        return;
    };
    let firmware = std::env::var_os("COCOON_PROBE_FIRMWARE").map(PathBuf::from);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (kernel, firmware) = (kernel.as_path(), firmware.as_deref());
    let probe = Probe {
        qemu: &qemu,
        kernel,
        firmware,
        cache: folder.path(),
        deadline: PATIENCE,
    };
    let choice = choose(Wanted::Automatic, probe, |what| println!("{what}"))
        .await
        .expect("a choice");
    println!("{}", choice.reason);
    assert!(
        !choice.reason.contains("QEMU did not start"),
        "{}",
        choice.reason
    );
}

/// The whole way of a machine without QEMU: fetch what is locked, unpack it, start it. Needs a mirror.
#[tokio::test]
async fn a_private_copy_is_fetched_and_runs_a_machine() {
    if std::env::var_os("COCOON_TEST_FETCH").is_none() {
        println!("SKIPPED: COCOON_TEST_FETCH is not set");
        return;
    }
    let text = include_str!("../../../../image/inputs.lock");
    let cache = Cache::open(Cache::default_root().expect("a cache")).expect("a cache");
    let reporter = cocoon_inputs::report::stderr();
    let options = Options {
        policy: Policy::AllowNewest,
        ..Options::default()
    };
    let lock = Lock::parse(text).expect("a lock");
    let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, reporter.clone());
    let obtained = obtain(None, MINIMUM, fetcher.into(), reporter)
        .await
        .expect("a QEMU");
    println!("{}", obtained.reason);
    let Running { vm, qmp, .. } = start(&obtained.qemu).await;
    assert_eq!(qmp.version(), obtained.qemu.version);
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}
