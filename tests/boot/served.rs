//! VMs from start to shutdown.

use cocoon_measurements::verdict::{Class, Outcome};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::control::Phase;
use cocoon_protocol::openai::{FinishReason, Usage};
use cocoon_tests::trial::{Appliance, Model, Trial, image};
use cocoon_tests::{alphabet, processes};

use crate::demo;

/// Phases that the host is told of. The control channel opens only after the phases before these.
const HEARD: [Phase; 6] = [
    Phase::Configuration,
    Phase::Model,
    Phase::Keys,
    Phase::Evidence,
    Phase::Engine,
    Phase::Serving,
];
/// Phases that the console shows.
const SHOWN: [Phase; 9] = [
    Phase::Mounts,
    Phase::Modules,
    Phase::Platform,
    Phase::Configuration,
    Phase::Model,
    Phase::Keys,
    Phase::Evidence,
    Phase::Engine,
    Phase::Serving,
];

/// Maximum total bytes of kernel and initrd, which contains the engine and the agent.
const LARGEST: u64 = 40_000_000;

async fn boot(name: &str, tee: Tee, model: Model) -> Appliance {
    let trial = Trial::new(demo(), name, tee, model).await.unwrap();
    trial
        .up()
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Asserts that the console shows one line per phase in order, then the line about serving, and nothing after it.
#[track_caller]
fn assert_console(vm: &Appliance) {
    let console = vm.console().unwrap();
    let ours: Vec<&str> = console
        .lines()
        .filter_map(|line| Some(&line[line.find("cocoon: ")?..]))
        .collect();
    assert_eq!(ours.len(), SHOWN.len() + 1, "{console}");
    for (line, phase) in ours.iter().zip(SHOWN) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["cocoon:", "phase", name, duration, "ms"] = words[..] else {
            panic!("{line:?}")
        };
        assert_eq!(name, phase.name());
        assert!(duration.parse::<u64>().is_ok(), "{line:?}");
    }
    let (_, after) = console.split_once("cocoon: serving").unwrap();
    assert_eq!(after.trim(), "", "the console is quiet while serving");
    assert!(!console.contains("panic"), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_and_initrd_stay_small() {
    let image = image(Model::Real).await.unwrap();
    let sizes = ["vmlinuz", "initrd.img"].map(|name| {
        let found = std::fs::metadata(image.folder.join(name)).unwrap().len();
        assert_eq!(image.manifest.artefacts[name].size, found, "{name}");
        found
    });
    assert!(sizes.iter().sum::<u64>() <= LARGEST, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_boots_verifies_answers_and_leaves_nothing() {
    let vm = boot("tdx", Tee::Tdx, Model::Alphabet).await;
    assert_eq!(vm.seen.phases(), HEARD);
    let verifier = vm.verifier().unwrap();
    let connection = verifier.connect(&vm.address().unwrap()).await.unwrap();
    let verdict = connection.verdict();
    assert_eq!(verdict.class, Class::Simulated);
    assert_eq!(verdict.failures().count(), 0);
    drop(connection);

    // The model has been read completely, and the disk is not read from now on.
    let before = vm.vm.block_stats().await.unwrap();
    let [disk] = &before[..] else {
        panic!("{before:?}")
    };
    assert_eq!(disk.node, "cocoon-model");
    let files = vm.image.manifest.model.files.values();
    assert!(disk.read_bytes >= files.map(|file| file.size).sum());
    assert_eq!((disk.written_bytes, disk.write_operations), (0, 0));
    let mut conversation = vm.conversation(30).unwrap();
    let mut answer = String::new();
    let ending = conversation.ask("Hi", |piece| answer.push_str(piece)).await;
    let ending = ending.unwrap();
    assert_eq!(answer, alphabet::answer(30));
    assert_eq!(ending.finish, Some(FinishReason::Length));
    assert_eq!(vm.vm.block_stats().await.unwrap(), before);

    // Another disk is put behind the same device, and nothing reads it.
    let other = vm.image.folder.join("vmlinuz");
    vm.vm.qmp.swap_disk("cocoon-model", &other).await.unwrap();
    conversation.ask("Again", |_| ()).await.unwrap();
    let after = vm.vm.block_stats().await.unwrap();
    let swapped = after
        .iter()
        .find(|disk| disk.node == "cocoon-model-swapped")
        .unwrap_or_else(|| panic!("{after:?}"));
    assert_eq!(swapped.read_bytes, disk.read_bytes, "{after:?}");
    assert_eq!(swapped.read_operations, disk.read_operations);

    assert_console(&vm);
    let running = processes::naming(&vm.folder);
    assert_eq!(running.len(), 2, "QEMU and the simulator");
    assert!(running.contains(&vm.vm.qemu_pid));
    drop(conversation);
    let Appliance { vm, folder, .. } = vm;
    vm.shutdown().await.unwrap();
    for pid in running {
        assert!(!processes::exists(pid), "process {pid} is left");
    }
    assert!(processes::naming(&folder).is_empty());
}

/// Simulated SEV-SNP: the report is about the SNP firmware, which boots on real hardware only, and the verdict notes that.
#[tokio::test(flavor = "multi_thread")]
async fn an_imitated_snp_vm_boots_and_verifies() {
    let vm = boot("snp", Tee::SevSnp, Model::Alphabet).await;
    assert_eq!(vm.seen.phases(), HEARD);
    let verifier = vm.verifier().unwrap();
    let connection = verifier.connect(&vm.address().unwrap()).await.unwrap();
    let verdict = connection.verdict();
    assert_eq!(verdict.class, Class::Simulated);
    assert_eq!(connection.claims().tee, Tee::SevSnp);
    let notes: Vec<_> = verdict
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Note)
        .map(|check| (check.id, check.cause.as_deref().unwrap_or_default()))
        .collect();
    let ids: Vec<_> = notes.iter().map(|(id, _)| *id).collect();
    // An image with unlocked inputs has one more note.
    let expected = [
        "evidence.root",
        "evidence.tcb",
        "snp.aml_guard",
        "snp.firmware",
    ];
    assert!(expected.iter().all(|id| ids.contains(id)), "{notes:#?}");
    let firmware = "the measured firmware is not the one that booted: SEV-SNP firmware cannot start without the hardware, \
        so the simulator measured OVMF.snp.fd while the VM ran OVMF.tdx.fd";
    assert!(notes.contains(&("snp.firmware", firmware)), "{notes:#?}");
    drop(connection);
    let mut answer = String::new();
    let mut conversation = vm.conversation(3).unwrap();
    conversation
        .ask("Hi", |piece| answer.push_str(piece))
        .await
        .unwrap();
    assert_eq!(answer, "abc");
    drop(conversation);
    assert_console(&vm);
    vm.vm.shutdown().await.unwrap();
}

/// The default model end to end. It generates one token, because each takes seconds.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_model_answers() {
    let vm = boot("default-model", Tee::Tdx, Model::Real).await;
    let mut answer = String::new();
    let mut conversation = vm.conversation(1).unwrap();
    let ending = conversation.ask("Hi", |piece| answer.push_str(piece)).await;
    let usage = ending.unwrap().usage.unwrap();
    assert_eq!(
        usage,
        Usage {
            prompt_tokens: 16,
            completion_tokens: 1,
            total_tokens: 17
        }
    );
    assert!(!answer.trim().is_empty());
    drop(conversation);
    vm.vm.shutdown().await.unwrap();
}
