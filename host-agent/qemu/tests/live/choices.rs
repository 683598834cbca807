//! Tests of the choice of QEMU and accelerator, with real ones.

use std::time::Duration;

use cocoon_inputs::report;
use cocoon_qemu::accel::{Probe, choose};
use cocoon_qemu::obtain::GROUP;
use cocoon_qemu::{Accel, Wanted, private};

use crate::guest::{PATIENCE, Running, guest, qemu, start};
use crate::inputs::{fetcher, firmware, kernel};
use crate::skip::skipped;

/// Many a KVM runs small programs but no kernel, so only the end of a kernel's initialisation counts.
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
        fresh: false,
    };
    let first = choose(Wanted::Automatic, probe, |_| {})
        .await
        .expect("a choice");
    assert_eq!(first.accel, Accel::Emulated);
    assert!(first.reason.starts_with("emulation: "), "{}", first.reason);
    // The guest is silent, as on a busy host, so this result is not kept.
    if first.reason.contains("KVM internal error") {
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

/// Prints the choice for this host with Debian's kernel and firmware, as for an image.
#[tokio::test]
async fn the_answer_for_a_real_kernel() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (Some(kernel), Some(firmware)) = (kernel(folder.path()), firmware(folder.path())) else {
        return;
    };
    let probe = Probe {
        qemu: &qemu,
        kernel: &kernel,
        firmware: Some(&firmware),
        cache: folder.path(),
        deadline: PATIENCE,
        fresh: false,
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

/// On a host without QEMU, the locked packages are fetched, unpacked and started.
#[tokio::test]
async fn a_private_copy_is_fetched_and_runs_a_machine() {
    let fetched = tokio::task::spawn_blocking(|| {
        let fetcher = fetcher().map_err(|error| error.to_string())?;
        let packages = fetcher.fetch_group(GROUP);
        let packages = packages.map_err(|error| error.to_string())?;
        Ok::<_, String>((fetcher.cache().root().to_owned(), packages))
    });
    let (cache, packages) = match fetched.await.expect("a thread") {
        Ok(fetched) => fetched,
        Err(error) => return skipped(format_args!("the packages cannot be had: {error}")),
    };
    let qemu = private::open(&cache, packages, report::stderr()).await;
    let qemu = qemu.expect("a private copy");
    let Running { vm, qmp, .. } = start(&qemu).await;
    assert_eq!(qmp.version(), qemu.version);
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}
