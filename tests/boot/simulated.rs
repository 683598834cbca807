//! A guest with a simulated GPU: the guest verifies the GPU before it serves, and the client sees the result of every check.

use std::fs;
use std::path::Path;

use cocoon_client::{ConnectError, Stage};
use cocoon_image::add_model::add_model;
use cocoon_image::build::Life;
use cocoon_image::model::Source;
use cocoon_image::variant::Variant;
use cocoon_inputs::report::Silent;
use cocoon_measurements::verdict::{Class, Outcome};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::manifest::Manifest;
use cocoon_tests::alphabet;
use cocoon_tests::image::SignedImage;
use cocoon_tests::trial::{Model, Trial, image};

use crate::demo;

/// Makes the shared image what `cocoon-image build --variant cuda-simulated` would build. That variant differs from cpu
/// only in its measured command line and what depends on it.
fn with_gpu(image: &SignedImage, folder: &Path) -> SignedImage {
    let mut manifest = Manifest::parse(&image.bytes).unwrap();
    manifest.variant = Variant::CudaSimulated.name().to_owned();
    let before = image.with("manifest.json", Some(&manifest.to_json()));
    let before = before.unwrap();
    let model = before.path().join("alphabet-f32.gguf");
    fs::write(&model, alphabet::gguf()).unwrap();
    let source = Source::open(&model, None).unwrap();
    let life = Life {
        release: manifest.release,
        not_before: manifest.not_before,
        not_after: manifest.not_after,
    };
    add_model(before.path(), &source, &life, folder, 1, &Silent).unwrap();
    SignedImage::open(folder).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_proves_itself_to_guest_and_client() {
    let shared = image(Model::Alphabet).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_owned();
    let image = tokio::task::spawn_blocking(move || with_gpu(shared, &place));
    let image = image.await.unwrap();
    let cmdline = &image.manifest.cmdline;
    assert!(cmdline.contains(" cocoon.gpu=simulated:1 "), "{cmdline}");
    let trial = Trial::new(demo(), "gpu", Tee::Tdx, Model::Alphabet).await;
    let mut trial = trial.unwrap();
    trial.options.image = folder.path().to_owned();
    let vm = trial.up().await.unwrap_or_else(|error| panic!("{error}"));
    // One for the CPU, and NVIDIA's two: for devices and for reference manifests (RIMs).
    let roots = vm.root().unwrap();
    assert_eq!(roots.matches("-----BEGIN CERTIFICATE-----").count(), 3);
    let verifier = image.verifier(roots).unwrap();
    let address = vm.address().unwrap();
    let connection = verifier.connect(&address).await.unwrap();
    let verdict = connection.verdict();
    assert_eq!(verdict.class, Class::Simulated);
    assert_eq!(verdict.failures().count(), 0);
    let row = |id: &str| -> Vec<(Outcome, &str)> {
        let rows = verdict.checks.iter().filter(|check| check.id == id);
        rows.map(|check| (check.outcome, check.found.as_deref().unwrap_or_default()))
            .collect()
    };
    let pass = |found| (Outcome::Pass, found);
    assert_eq!(row("gpu.count"), [pass("1")]);
    assert_eq!(row("gpu.architecture"), [pass("GH100")]);
    assert_eq!(row("gpu.signature"), [pass("holds")]);
    assert_eq!(row("gpu.mode"), [pass("on")]);
    assert_eq!(row("gpu.measurements"), [pass("all 7 as expected")]);
    assert_eq!(row("gpu.revocation").len(), 6);
    for id in [
        "gpu.nonce",
        "gpu.keys",
        "gpu.class",
        "gpu.rim.driver",
        "gpu.rim.vbios",
    ] {
        let [(outcome, _)] = row(id)[..] else {
            panic!("{id}: {:#?}", verdict.checks)
        };
        assert_eq!(outcome, Outcome::Pass, "{id}");
    }
    drop(connection);
    // A client that trusts only the CPU's root refuses the GPU.
    let end = "-----END CERTIFICATE-----\n";
    let cpu = roots.find(end).map(|at| &roots[..at + end.len()]);
    let unbelieving = image.verifier(cpu.unwrap()).unwrap();
    let error = unbelieving.connect(&address).await.unwrap_err();
    let ConnectError::Rejected { stage, verdict, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(stage, Stage::Attest);
    let first = verdict.failures().next();
    let first = first.map(|check| (check.id, check.cause.as_deref().unwrap_or_default()));
    let unnamed = "development root not named: this comes from a simulated GPU, and no development root for it was named";
    assert_eq!(first, Some(("gpu.root", unnamed)));
    vm.vm.shutdown().await.unwrap();
}
