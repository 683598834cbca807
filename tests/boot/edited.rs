//! Images that the host has edited.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use cocoon_client::trust::development_roots;
use cocoon_client::{ConnectError, Stage};
use cocoon_host_agent::UpError;
use cocoon_host_agent::machine::Failure;
use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::policy::Policy;
use cocoon_protocol::binding::{Freshness, Tee};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, Document, MAX_DOCUMENT_LEN};
use cocoon_protocol::pieces::{COLLATERAL_PATH, Pieces, PiecesRequest};
use cocoon_tests::image::SignedImage;
use cocoon_tests::now;
use cocoon_tests::trial::{Model, Trial, image};
use tempfile::TempDir;

use crate::demo;
use crate::stranger::Stranger;

/// Bytes per block; a block of the hash tree holds [`DIGESTS`] digests.
const BLOCK: u64 = 4096;
const DIGESTS: u64 = 128;

/// The guest serves as usual, but the verdict names the register and the cause.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_command_line_is_told_by_the_verdict() {
    let image = image(Model::Alphabet).await.unwrap();
    let edited = image.manifest.cmdline.replace(" quiet ", " ");
    assert_ne!(edited, image.manifest.cmdline);
    let folder = image.with("cmdline", Some(edited.as_bytes())).unwrap();
    let trial = Trial::new(demo(), "cmdline", Tee::Tdx, Model::Alphabet).await;
    let mut trial = trial.unwrap();
    trial.options.image = folder.path().to_owned();
    let vm = trial.up().await.unwrap();
    let verifier = vm.verifier().unwrap();
    let error = verifier
        .connect(&vm.address().unwrap())
        .await
        .expect_err("rejected");
    let ConnectError::Rejected { stage, verdict, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(stage, Stage::Handshake);
    let failed: Vec<_> = verdict
        .failures()
        .map(|check| (check.id, check.cause.as_deref().unwrap_or_default()))
        .collect();
    let early = "another kernel command line or another initrd than the manifest's; without an event log it cannot be told which";
    assert_eq!(failed, [("tdx.rtmr2", early)]);
    // With a session document, which has the event log, a client learns which of the two was changed.
    let mut connection = Stranger::new().connect(vm.vm.endpoint).await;
    let fresh = Freshness {
        nonce: Hex([7; 32]),
        exporter: connection.exporter(),
    };
    let request = serde_json::to_string(&AttestRequest { nonce: fresh.nonce }).unwrap();
    let (status, body) = connection.ask("POST", ATTEST_PATH, &request).await;
    assert_eq!(status, 200);
    let mut document = Document::parse(&body, MAX_DOCUMENT_LEN).unwrap();
    let pieces = document.names();
    let question = PiecesRequest {
        pieces: pieces.clone(),
    };
    let question = serde_json::to_string(&question).unwrap();
    let (status, answer) = connection.ask("POST", COLLATERAL_PATH, &question).await;
    assert_eq!(status, 200);
    let pieces = Pieces::decode(&answer, &pieces).unwrap();
    document.fill(&pieces).unwrap();
    let presented = Presented {
        document: &document,
        leaf_spki_sha256: document.claims.leaf_spki_sha256,
        fresh: Some(fresh),
        handshake_gpus: None,
    };
    let policy = Policy {
        development_roots: development_roots(vm.root().unwrap().as_bytes()).unwrap(),
        ..Policy::default()
    };
    let verdict = appraise(&presented, &image.trusted().unwrap(), &policy, now());
    let failed: Vec<_> = verdict
        .failures()
        .map(|check| (check.id, check.cause.as_deref().unwrap_or_default()))
        .collect();
    drop(connection);
    let cause = "edited command line: the kernel was started with another one than the manifest's; words missing (-) and \
        added (+): -quiet";
    assert_eq!(failed, [("tdx.rtmr2", cause)]);
    vm.vm.shutdown().await.unwrap();
}

/// The kernel ignores a misspelt parameter without a message, so the guest checks the lockdown state itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_is_not_locked_down_is_not_used() {
    let image = image(Model::Alphabet).await.unwrap();
    let edited = image.manifest.cmdline.replace("lockdown=", "lokdown=");
    assert_ne!(edited, image.manifest.cmdline);
    let folder = image.with("cmdline", Some(edited.as_bytes())).unwrap();
    let trial = Trial::new(demo(), "unlocked", Tee::Tdx, Model::Alphabet).await;
    let mut trial = trial.unwrap();
    trial.options.image = folder.path().to_owned();
    let UpError::Failed { console, .. } = trial.refused().await.unwrap() else {
        panic!("it ended otherwise")
    };
    let said = console
        .iter()
        .filter_map(|line| Some(&line[line.find("cocoon: ")?..]))
        .next_back();
    assert_eq!(
        said,
        Some(
            "cocoon: FAILED in phase mounts: the kernel does not keep lockdown=confidentiality: \
             /sys/kernel/security/lockdown is \"[none] integrity confidentiality\""
        )
    );
}

/// Boots the image in `folder`, and asserts that dm-verity stops the guest at a block that differs from the measured one.
async fn corrupted(name: &str, folder: &Path) {
    let mut trial = Trial::new(demo(), name, Tee::Tdx, Model::Real)
        .await
        .unwrap();
    trial.options.image = folder.to_owned();
    trial.options.vcpus = 1;
    trial.options.memory_mib = 512;
    let error = trial.refused().await.unwrap();
    let UpError::Failed {
        failure, console, ..
    } = &error
    else {
        panic!("{name}: {error}")
    };
    assert_eq!(*failure, Failure::Gone("in phase model"), "{name}");
    let panics: Vec<_> = console
        .iter()
        .filter_map(|line| Some(&line[line.find("Kernel panic")?..]))
        .collect();
    assert_eq!(
        panics,
        ["Kernel panic - not syncing: dm-verity device corrupted"],
        "{name}: {console:#?}"
    );
    assert!(!console.iter().any(|line| line.contains("phase model")));
}

/// Returns a folder with the image in which the lowest bit of the volume's byte at `offset` is flipped.
fn flipped(image: &SignedImage, offset: u64) -> TempDir {
    let folder = image.with("model.img", None).unwrap();
    let path = folder.path().join("model.img");
    fs::copy(image.folder.join("model.img"), &path).unwrap();
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    folder
}

/// Changes the first block (which holds the file system's superblock), the last block of file data, and one block of
/// each level of the hash tree.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_volume_ends_the_boot() {
    let image = image(Model::Real).await.unwrap();
    let data = image.manifest.model.verity_data_blocks;
    let mut levels = vec![data.div_ceil(DIGESTS)];
    while let Some(above) = levels.last().filter(|blocks| **blocks > 1) {
        levels.push(above.div_ceil(DIGESTS));
    }
    assert_eq!(
        levels.len(),
        3,
        "the default model's volume has three levels"
    );
    let mut places = vec![
        ("superblock".to_owned(), 1024),
        ("last-block".to_owned(), (data - 1) * BLOCK),
    ];
    let mut start = data;
    for (height, blocks) in levels.iter().enumerate().rev() {
        places.push((format!("level-{height}"), start * BLOCK));
        start += blocks;
    }
    let volume = fs::metadata(image.folder.join("model.img")).unwrap().len();
    assert_eq!(start * BLOCK, volume);
    // Two at a time, as the harness allows, so at most two copies of the volume exist at once.
    for pair in places.chunks(2) {
        let one = async |(name, offset): &(String, u64)| {
            let folder = flipped(image, *offset);
            corrupted(name, folder.path()).await;
        };
        match pair {
            [first, second] => drop(tokio::join!(one(first), one(second))),
            [only] => one(only).await,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_on_the_command_line_ends_the_boot() {
    let image = image(Model::Real).await.unwrap();
    let root = image.manifest.model.verity_root.to_string();
    let other = cocoon_protocol::bytes::Hex32::ZERO.to_string();
    let edited = image.manifest.cmdline.replace(&root, &other);
    assert_ne!(edited, image.manifest.cmdline);
    let folder = image.with("cmdline", Some(edited.as_bytes())).unwrap();
    corrupted("root", folder.path()).await;
}
