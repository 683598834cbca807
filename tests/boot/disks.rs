//! Disks that a hostile host attaches to the VM, or leaves out. The test plays the host.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cocoon_protocol::control::GuestMessage;
use cocoon_qemu::find::Qemu;
use cocoon_qemu::spec::{Blob, Disk};
use cocoon_tests::bare::BareVm;
use cocoon_tests::trial::{Model, image, turn};
use serde_json::{Value, json};

async fn until_it_ends(mut vm: BareVm) -> String {
    vm.hello().await.unwrap();
    vm.configure().await.unwrap();
    vm.end().await.unwrap().reason().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_disk() {
    let image = image(Model::Alphabet).await.unwrap();
    let take = |machine: &mut cocoon_host_agent::qemu::Machine| {
        machine.spec.disks.clear();
        let named = machine.spec.descriptors();
        machine
            .descriptors
            .retain(|fd| named.contains(&std::os::fd::AsRawFd::as_raw_fd(fd)));
    };
    let vm = BareVm::start(&image.folder, Some(turn(1).await), take, |_| ()).await;
    assert_eq!(
        until_it_ends(vm.unwrap()).await,
        "model: no disk has the serial cocoon-model: attach the model volume"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_cut_short() {
    let image = image(Model::Alphabet).await.unwrap();
    let blocks = image.manifest.model.verity_data_blocks;
    let volume = std::fs::read(image.folder.join("model.img")).unwrap();
    let data = usize::try_from(blocks * 4096).unwrap();
    let cut = image.with("model.img", Some(&volume[..data])).unwrap();
    let vm = BareVm::start(cut.path(), Some(turn(1).await), |_| (), |_| ()).await;
    let sectors = blocks * 8;
    assert_eq!(
        until_it_ends(vm.unwrap()).await,
        format!(
            "model: model volume has {sectors} sectors, fewer than the {sectors} of its data: it is cut short or another one"
        )
    );
}

/// The QEMU arguments of this project cannot express this, so a wrapper script changes QEMU's arguments.
#[tokio::test(flavor = "multi_thread")]
async fn two_disks_with_the_serial() {
    let image = image(Model::Alphabet).await.unwrap();
    let second = image.folder.join("model.img");
    let scripts = tempfile::tempdir().unwrap();
    let vm = BareVm::start(
        &image.folder,
        Some(turn(1).await),
        |machine| {
            machine.spec.disks.push(Disk {
                source: Blob::Path(second),
                serial: "stranger".into(),
            });
        },
        |qemu| liar(qemu, scripts.path()),
    );
    assert_eq!(
        until_it_ends(vm.await.unwrap()).await,
        "model: 2 disks have the serial cocoon-model: there must be one"
    );
}

/// Runs QEMU through a script that gives the disk `stranger` the serial number of the model's disk.
fn liar(qemu: &mut Qemu, folder: &Path) {
    let script = folder.join("liar");
    let text = "#!/bin/sh\nfor argument do\n  shift\n  \
        set -- \"$@\" \"$(printf %s \"$argument\" | sed s/serial=stranger/serial=cocoon-model/)\"\ndone\nexec \"$@\"\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    qemu.program.insert(0, script.into());
}

/// The disk is swapped while the guest copies it, so the next block that is read fails verification.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_swapped_while_it_is_read() {
    let image = image(Model::Real).await.unwrap();
    let vm = BareVm::start(&image.folder, Some(turn(1).await), |_| (), |_| ()).await;
    let mut vm = vm.unwrap();
    vm.hello().await.unwrap();
    vm.configure().await.unwrap();
    vm.until(|message| matches!(message, GuestMessage::Progress { .. }))
        .await
        .unwrap();
    let _: Value = vm.qmp.execute("stop", json!({})).await.unwrap();
    // As large as the volume, and all zeros.
    let other = tempfile::NamedTempFile::new().unwrap();
    let size = std::fs::metadata(image.folder.join("model.img")).unwrap();
    other.as_file().set_len(size.len()).unwrap();
    vm.qmp
        .swap_disk("cocoon-model", other.path())
        .await
        .unwrap();
    let _: Value = vm.qmp.execute("cont", json!({})).await.unwrap();
    let end = vm.end().await.unwrap();
    assert_eq!(end.failed, None);
    let panic = "Kernel panic - not syncing: dm-verity device corrupted";
    assert!(end.console.contains(panic), "{}", end.console);
    assert!(!end.console.contains("cocoon: phase model"));
}
