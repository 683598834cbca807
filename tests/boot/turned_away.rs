//! What the host agent refuses before it starts any process.

use std::path::Path;

use cocoon_host_agent::text::chain;
use cocoon_protocol::binding::Tee;
use cocoon_tests::processes;
use cocoon_tests::trial::{Model, Trial, image};

use crate::demo;

async fn trial() -> Trial {
    Trial::new(demo(), "vm", Tee::Tdx, Model::Alphabet)
        .await
        .unwrap()
}

/// Starts a VM as changed by `change`, and returns the error. Asserts that no process was started.
async fn refusal(change: impl FnOnce(&mut Trial)) -> String {
    let mut trial = trial().await;
    trial.options.vcpus = 1;
    change(&mut trial);
    let folder = trial.folder();
    let error = trial.refused().await.unwrap();
    assert!(processes::naming(&folder).is_empty());
    chain(&error)
}

/// Returns the path of the image's file `name`, and the error for an image in which `other` replaces it.
async fn with(name: &str, other: Option<&[u8]>) -> (String, String) {
    let folder = image(Model::Alphabet).await.unwrap();
    let folder = folder.with(name, other).unwrap();
    let error = refusal(|trial| trial.options.image = folder.path().to_owned()).await;
    (format!("{:?}", folder.path().join(name)), error)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_a_file_missing() {
    for name in [
        "vmlinuz",
        "initrd.img",
        "cmdline",
        "OVMF.tdx.fd",
        "OVMF.snp.fd",
        "model.img",
        "manifest.json",
    ] {
        let (path, error) = with(name, None).await;
        assert_eq!(
            error,
            format!(
                "the image is incomplete: cannot read {path}; build it with `cocoon-image build --variant cpu --out DIR`: \
                 No such file or directory (os error 2)"
            )
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_a_file_that_is_none() {
    let image = image(Model::Alphabet).await.unwrap();
    let folder = image.with("model.img", None).unwrap();
    let path = folder.path().join("model.img");
    std::fs::create_dir(&path).unwrap();
    let error = refusal(|trial| trial.options.image = folder.path().to_owned()).await;
    assert_eq!(
        error,
        format!(
            "the image is incomplete: cannot read {path:?}; build it with `cocoon-image build --variant cpu --out DIR`: \
             not a regular file"
        )
    );
    let (path, error) = with("cmdline", Some(b"two\nlines")).await;
    assert_eq!(
        error,
        format!(
            "{path} is not a kernel command line: one line of at most 2047 printable characters"
        )
    );
    let (path, error) = with("manifest.json", Some(b"{}")).await;
    assert_eq!(
        error,
        format!(
            "{path} is not a manifest: manifest is not JSON of the expected schema: missing field `version` at line 1 column 2"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    assert_eq!(
        refusal(|trial| trial.options.listen = address).await,
        format!(
            "{address} is in use by another program: choose another (--listen, or `listen` in the file), or stop that program"
        )
    );
}

/// `/dev/full` stands in for a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn no_space_left() {
    let mut at = String::new();
    let error = refusal(|trial| {
        let folder = trial.folder();
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("manifest.json.partial");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        at = format!("{path:?}");
    })
    .await;
    assert_eq!(
        error,
        format!(
            "no space left for {at}: free some, or set COCOON_STATE to a folder on another disk"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_not_there() {
    let nowhere = Path::new("/nowhere/program");
    let error = refusal(|trial| trial.options.simulator = Some(nowhere.to_owned())).await;
    assert_eq!(
        error,
        "cannot start the simulator \"/nowhere/program\": No such file or directory (os error 2)"
    );
    let error = refusal(|trial| trial.options.qemu = Some(nowhere.to_owned())).await;
    assert_eq!(
        error,
        "there is no QEMU to use: the QEMU that was named cannot be used: cannot ask \"/nowhere/program\" for its version; \
         check that it exists and may be executed: No such file or directory (os error 2)"
    );
}
