//! Tests shapes of real machines: added to a manifest, kept, replaced, refused, and copied by a rebuild.

mod appraised;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_measurements::tdx::smbios::ProcessorId;
use cocoon_protocol::bytes::{Hex, Hex48};
use cocoon_protocol::manifest::{Manifest, PlatformSource};
use serde_json::Value;

use crate::world::{World, fail, gguf, program, succeed};

const NAME: &str = "2 vCPUs, 1024 MiB, QEMU 10.1.0";
const PROCESSOR: ProcessorId = ProcessorId {
    signature: 0x000c_06f2,
    features: 0x1f8b_fbff,
};
/// A processor structure with the emulator's ID, and the end-of-table structure.
const SMBIOS: &[u8] = b"\x04\x10\0\0\x01\x03\x02\x01EMULATORCPU 0\0\0\x7f\x04\x01\0\0\0";
/// The same table as firmware on [`PROCESSOR`] measures it.
const MEASURED: &[u8] =
    b"\x04\x10\0\0\x01\x03\x02\x01\xf2\x06\x0c\0\xff\xfb\x8b\x1fCPU 0\0\0\x7f\x04\x01\0\0\0";
/// RTMR0 events of tables: index, name, content.
const TABLES: [(usize, &str, &[u8]); 4] = [
    (10, "ACPI loader", b"a loader"),
    (11, "ACPI RSDP", b"an RSDP"),
    (12, "ACPI tables", b"tables"),
    (13, "SMBIOS tables", MEASURED),
];

/// Returns a world with an image and the tables of a machine.
fn prepared() -> (World, PathBuf) {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    for (name, bytes) in [
        ("acpi-loader.bin", &b"a loader"[..]),
        ("acpi-rsdp.bin", b"an RSDP"),
        ("acpi-tables.bin", b"tables"),
        ("smbios.bin", SMBIOS),
    ] {
        world.write(&format!("tables/{name}"), bytes);
    }
    (world, image.join("manifest.json"))
}

fn platform(world: &World, manifest: &Path, name: &str, memory: &str) -> Command {
    let mut command = program();
    command
        .args(["--json", "manifest", "platform"])
        .arg(manifest)
        .arg("--tables")
        .arg(world.path("tables"))
        .args(["--name", name, "--memory", memory, "--vcpus", "2"])
        .args([
            "--cpu-signature",
            "0x000c06f2",
            "--cpu-features",
            "0x1f8bfbff",
        ]);
    command
}

fn added(world: &World, manifest: &Path) -> Value {
    let output = succeed(&mut platform(world, manifest, NAME, "1024"));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(path: &Path) -> Manifest {
    Manifest::parse(&fs::read(path).unwrap()).unwrap()
}

fn sign(world: &World, manifest: &Path) -> PathBuf {
    let key = world.path("key");
    if !key.exists() {
        succeed(program().args(["manifest", "keygen", "--out"]).arg(&key));
    }
    let mut command = program();
    command.args(["manifest", "sign"]).arg(manifest);
    succeed(command.arg("--key").arg(&key));
    manifest.with_file_name("manifest.json.dsse")
}

#[test]
fn a_shape_is_added_once_and_signatures_never_outlive_their_manifest() {
    let (world, path) = prepared();
    let envelope = sign(&world, &path);
    let before = read(&path);
    let said = added(&world, &path);
    assert_eq!(
        (&said["change"], &said["signatures_removed"]),
        (&"added".into(), &true.into())
    );
    assert!(!envelope.exists());
    let after = read(&path);
    let (simulated, [shape]) = after.tdx.platforms.split_at(5) else {
        panic!("{:?}", after.tdx.platforms)
    };
    assert_eq!(simulated, before.tdx.platforms);
    assert_eq!(
        (&*shape.name, shape.memory_mib, shape.source),
        (NAME, 1024, PlatformSource::Computed)
    );
    assert_eq!((shape.vcpus, shape.mmio64_mib), (Some(2), None));
    // Except for the tables, the shape is that of the simulator with the same memory.
    let mut expected = simulated
        .iter()
        .find(|shape| shape.memory_mib == 1024)
        .unwrap()
        .clone();
    for (at, name, bytes) in TABLES {
        let event = &mut expected.rtmr0_events[at];
        assert_eq!(event.name, name);
        event.digest = Hex48::sha384(bytes);
    }
    assert_eq!(shape.rtmr0_events, expected.rtmr0_events);
    let register = shape
        .rtmr0_events
        .iter()
        .fold(Hex48::ZERO, |register, event| {
            Hex48::sha384(&[register.0, event.digest.0].concat())
        });
    assert_eq!(said["rtmr0"], register.to_string());

    let (bytes, envelope) = (fs::read(&path).unwrap(), sign(&world, &path));
    let said = added(&world, &path);
    assert_eq!(
        (&said["change"], &said["signatures_removed"]),
        (&"unchanged".into(), &false.into())
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(envelope.exists());

    world.write("tables/acpi-tables.bin", b"other tables");
    assert_eq!(added(&world, &path)["change"], "replaced");
    let mut expected = after;
    expected.tdx.platforms[5].rtmr0_events[12].digest = Hex48::sha384(b"other tables");
    assert_eq!(read(&path), expected);
    assert!(!envelope.exists());

    // No event of RTMR0 depends on the model.
    world.write("other.gguf", &gguf(6, 70_000));
    let image = path.parent().unwrap();
    let mut command = program();
    command
        .args(["model", "add", "--not-before", "1000000", "--image"])
        .arg(image);
    command
        .arg("--out")
        .arg(image)
        .arg("--model")
        .arg(world.path("other.gguf"));
    succeed(&mut command);
    assert_eq!(read(&path).tdx.platforms, expected.tdx.platforms);
}

/// Runs `cocoon-image verify` on a manifest and returns its JSON output.
fn verified(world: &World, manifest: &Path, code: i32) -> Value {
    let mut command = program();
    command.args(["--json", "verify"]).arg(manifest);
    command.arg("--model").arg(world.path("tiny.gguf"));
    world.making(&mut command);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_rebuild_predicts_all_but_the_tables() {
    let (world, path) = prepared();
    added(&world, &path);
    let found = verified(&world, &path, 0);
    assert_eq!(
        (&found["identical"], &found["pinned"]),
        (&true.into(), &[NAME][..].into())
    );

    // The variable store belongs to the firmware and not to the tables, so signers cannot pin another one.
    let mut manifest = read(&path);
    manifest.tdx.platforms[5].rtmr0_events[1].digest = Hex([7; 48]);
    fs::write(&path, manifest.to_json()).unwrap();
    let found = verified(&world, &path, 1);
    let fields: Vec<_> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|difference| difference["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["tdx/platforms/5/rtmr0_events/1/digest"]);
    assert_eq!(found["pinned"], Value::Array(Vec::new()));
}

/// Firmware measures the window that QEMU tells it to keep for a GPU, in one more event, which a rebuild predicts.
#[test]
fn a_window_for_a_gpu_is_an_event_of_its_own() {
    let (world, path) = prepared();
    added(&world, &path);
    let mut command = platform(&world, &path, "the same with a GPU", "1024");
    succeed(command.args(["--mmio64-mib", "262144"]));
    let mut manifest = read(&path);
    let [plain, with_gpu] = &manifest.tdx.platforms[5..] else {
        panic!("{:?}", manifest.tdx.platforms)
    };
    assert_eq!(
        (with_gpu.vcpus, with_gpu.mmio64_mib),
        (Some(2), Some(262_144))
    );
    let mut events = with_gpu.rtmr0_events.clone();
    let window = events.remove(3);
    assert_eq!(events, plain.rtmr0_events);
    assert_eq!(window.name, "QEMU setting opt/ovmf/X-PciMmio64Mb");
    // QEMU stores the option's text without a terminating zero.
    assert_eq!(window.digest, Hex48::sha384(b"262144"));

    let found = verified(&world, &path, 0);
    assert_eq!(
        (&found["identical"], &found["pinned"]),
        (&true.into(), &[NAME, "the same with a GPU"][..].into())
    );
    // The window in the manifest is not the one that the event measures.
    manifest.tdx.platforms[6].mmio64_mib = Some(131_072);
    fs::write(&path, manifest.to_json()).unwrap();
    let found = verified(&world, &path, 1);
    assert_eq!(
        found["differences"][0]["field"],
        "tdx/platforms/6/rtmr0_events/3/digest"
    );
}

#[test]
fn what_cannot_be_vouched_for_is_refused_and_changes_nothing() {
    let (world, path) = prepared();
    let envelope = sign(&world, &path);
    let bytes = fs::read(&path).unwrap();
    let image = path.parent().unwrap();
    let refused = |name: &str, memory: &str, expected: &str| {
        let output = platform(&world, &path, name, memory).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let causes: Vec<_> = error["error"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| cause.as_str().unwrap())
            .collect();
        assert_eq!(causes.join("; "), expected);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert!(envelope.exists());
    };
    refused(
        "simulated, 1024 MiB",
        "1024",
        "\"simulated, 1024 MiB\" is a machine shape of the simulator: choose another name",
    );
    refused(
        "a\nb",
        "1024",
        "\"a\\nb\" is no name for a machine shape: use 1 to 100 printable characters",
    );
    refused(
        NAME,
        "1",
        "cannot predict RTMR0 of the machine shape; cannot predict RTMR0 for 1 MiB; cannot predict the TD hand-off block; the \
         firmware's section at 0x809000 lies outside 1048576 bytes of memory: give the VM more",
    );
    refused(
        NAME,
        "18446744073709551615",
        "cannot predict RTMR0 of the machine shape; cannot predict RTMR0 for 18446744073709551615 MiB; cannot predict the TD \
         hand-off block; 18446744073709551615 bytes of memory: expected whole pages, at most 70368744177664 bytes",
    );
    let table = |name: &str| world.path(&format!("tables/{name}"));
    world.write("tables/smbios.bin", &SMBIOS[..SMBIOS.len() - 1]);
    let smbios = table("smbios.bin");
    let output = platform(&world, &path, NAME, "1024").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(&format!("cannot measure {}", smbios.display())),
        "{said}"
    );
    assert!(said.contains("SMBIOS table"), "{said}");
    world.write("tables/acpi-rsdp.bin", b"");
    refused(
        NAME,
        "1024",
        &format!(
            "{} is empty: compute the tables again with `cocoon-host tables`",
            table("acpi-rsdp.bin").display()
        ),
    );
    world.write("tables/acpi-rsdp.bin", b"an RSDP");
    world.write("tables/smbios.bin", SMBIOS);
    for name in ["cmdline", "OVMF.tdx.fd"] {
        let good = fs::read(image.join(name)).unwrap();
        fs::write(image.join(name), b"altered").unwrap();
        refused(
            NAME,
            "1024",
            &format!(
                "{} is not the file that the manifest describes: put the manifest beside its own image",
                image.join(name).display()
            ),
        );
        fs::write(image.join(name), good).unwrap();
    }
    fs::remove_file(table("acpi-loader.bin")).unwrap();
    let missing = platform(&world, &path, NAME, "1024").output().unwrap();
    let said: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(
        said["error"][1],
        format!("cannot read {}", table("acpi-loader.bin").display())
    );

    let mut command = program();
    command.args([
        "manifest", "platform", "m", "--tables", "t", "--name", "n", "--memory", "1G",
    ]);
    let error = fail(&mut command, 2);
    assert!(
        error.contains("--vcpus <N>")
            && error.contains("--cpu-signature <HEX>")
            && error.contains("--cpu-features <HEX>"),
        "{error}"
    );
}
