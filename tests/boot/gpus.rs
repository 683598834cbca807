//! The image for real GPUs on a machine without one: it boots, locks itself down, and reports what is missing.

use std::fs;
use std::path::{Path, PathBuf};

use cocoon_host_agent::UpError;
use cocoon_host_agent::machine::Failure;
use cocoon_image::build::{self, Build, Life};
use cocoon_image::initrd::cpio::Cpio;
use cocoon_image::variant::Variant;
use cocoon_inputs::{Keyring, Policy, report};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::control::Phase;
use cocoon_protocol::manifest::Manifest;
use cocoon_tests::image::{cache, workspace};
use cocoon_tests::trial::{Model, Trial, image};

use crate::demo;

/// Environment variable that names a folder with an image of the variant cuda, to save the test below half an hour.
const VARIABLE: &str = "COCOON_TEST_CUDA_IMAGE";
const NONE: &str = "no GPU found: there is none of NVIDIA's on this machine's PCI bus, and this image is for them; give it \
                    one, or start the image of variant cpu";

/// Boots the image in `folder` until it fails. Returns the reason that it reported to the host,
/// and the agent's console lines.
async fn told(name: &str, folder: &Path) -> (String, Vec<String>) {
    let trial = Trial::new(demo(), name, Tee::Tdx, Model::Alphabet).await;
    let mut trial = trial.unwrap();
    trial.options.image = folder.to_owned();
    let error = trial.refused().await.unwrap();
    let UpError::Failed {
        failure, console, ..
    } = error
    else {
        panic!("{name}: {error}")
    };
    let Failure::Guest { phase, reason } = failure else {
        panic!("{name}: {failure}, {console:#?}")
    };
    assert_eq!(phase, Phase::Platform, "{name}: {reason}");
    let said = console
        .iter()
        .filter_map(|line| Some(line[line.find("cocoon: ")?..].to_owned()));
    (reason, said.collect())
}

/// All images have the same agent; the measured command line alone determines what it does. The list of
/// driver modules is empty here.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_gpu_it_says_so_and_ends() {
    let image = image(Model::Alphabet).await.unwrap();
    let words = [" module.sig_enforce=1", " lockdown=confidentiality"];
    let mut edited = image.manifest.cmdline.clone();
    for word in words {
        assert!(edited.contains(word), "{word}");
        edited = edited.replace(word, "");
    }
    edited.push_str(" cocoon.gpu=nvidia");
    let folder = image.with("cmdline", Some(edited.as_bytes())).unwrap();
    // The kernel unpacks concatenated archives one after the other.
    let mut initrd = fs::read(image.folder.join("initrd.img")).unwrap();
    initrd.resize(initrd.len().next_multiple_of(512), 0);
    let mut archive = Cpio::default();
    archive.file("driver.list", 0o644, b"").unwrap();
    initrd.extend(archive.finish());
    let path = folder.path().join("initrd.img");
    fs::remove_file(&path).unwrap();
    fs::write(&path, initrd).unwrap();
    let (reason, said) = told("no-gpu", folder.path()).await;
    assert_eq!(reason, NONE);
    let last = format!("cocoon: FAILED in phase platform: {NONE}");
    assert_eq!(said.last(), Some(&last), "{said:#?}");
}

/// The image with NVIDIA's own modules, which find no GPU, and with the runtime volume on a second disk.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds NVIDIA's modules and the engine for GPUs, which takes an hour the first time"]
async fn and_so_does_the_image_that_is_built_for_gpus() {
    let folder = tokio::task::spawn_blocking(built).await.unwrap();
    let manifest = Manifest::parse(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let gpu = manifest.gpu.expect("an image for GPUs");
    assert!(manifest.snp.launch.is_empty());
    assert_eq!(gpu.without.len(), 2);
    for name in ["engine", "cocoon-gpu", "libcuda.so.1", "gsp_ga10x.bin"] {
        assert!(gpu.runtime.files.contains_key(name), "{name}");
    }
    let (reason, said) = told("cuda", &folder).await;
    assert_eq!(reason, NONE);
    let modules = said
        .iter()
        .any(|line| line.starts_with("cocoon: phase modules"));
    assert!(modules, "{said:#?}");
}

fn built() -> PathBuf {
    if let Some(folder) = std::env::var_os(VARIABLE) {
        return folder.into();
    }
    let folder = cache().unwrap().join("tests/cuda");
    let what = Build {
        variant: Variant::Cuda,
        source: workspace(),
        cache: cache().unwrap(),
        mirrors: vec![],
        keyring: Keyring::debian(),
        policy: Policy::AllowNewest,
        model: None,
        model_id: None,
        binaries: None,
        jobs: 2,
    };
    let not_before = cocoon_tests::now();
    let life = Life {
        release: 1,
        not_before,
        not_after: not_before + 86_400,
    };
    build::build(&what, &life, &folder, &report::stderr()).unwrap();
    folder
}
