//! The command lines of confidential machines, compared with a real QEMU's own lists of options, and parsed by it up to the
//! point at which it asks the kernel for a TEE.
//!
//! The QEMU is the one named by `COCOON_QEMU` if it can start trust domains, or else a private copy with this test's own
//! lock file.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use cocoon_qemu::args::{Argument, arguments};
use cocoon_qemu::find::{MINIMUM_TDX, Search, search};
use cocoon_qemu::spec::*;
use cocoon_qemu::{Accel, Qemu, Qmp, Vm, VmSpec, private};
use serde_json::{Value, json};

use crate::absent::absent;
use crate::guest::{PATIENCE, Running, start};
use crate::inputs::fetcher_of;
use crate::skip::skipped;

const LOCK: &str = include_str!("tee.lock");

#[tokio::test]
async fn every_option_of_ours_is_one_of_qemus() {
    let Some(qemu) = qemu().await else { return };
    let Running { vm, qmp, .. } = start(&qemu).await;
    let mut specs = machines(Path::new("/nonexistent"));
    // And a plain machine with the placement that a confidential one cannot have.
    specs.push(VmSpec {
        confidential: Confidential::None,
        placement: Placement {
            hugepages: Some(HugePages::TwoMib),
            nodes: vec![0, 1],
        },
        ..specs[0].clone()
    });
    for spec in specs {
        for argument in arguments(&spec).expect("a command line") {
            if let Err(unknown) = known(&qmp, &argument).await {
                panic!("{argument}: {unknown}");
            }
        }
    }
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}

/// Shows that the test above can fail: one wrong letter is noticed in any kind of argument.
#[tokio::test]
async fn an_option_that_qemu_has_not_is_noticed() {
    let Some(qemu) = qemu().await else { return };
    let Running { vm, qmp, .. } = start(&qemu).await;
    for (flag, value, said) in [
        (
            "-object",
            r#"{"qom-type":"tdx-guest","id":"a","mrconfig":""}"#,
            "tdx-guest has no mrconfig",
        ),
        (
            "-object",
            r#"{"qom-type":"sev-snp-guest","id":"a","cbitpos":"51"}"#,
            "cbitpos of sev-snp-guest is of type uint32, not \"51\"",
        ),
        ("-object", r#"{"qom-type":"tdx","id":"a"}"#, "no type tdx"),
        (
            "-device",
            "vfio-pci,id=a,hosts=0000:17:00.0",
            "vfio-pci has no hosts",
        ),
        (
            "-object",
            r#"{"qom-type":"memory-backend-memfd","id":"a","hugetlbsize":"2M"}"#,
            "hugetlbsize of memory-backend-memfd is of type int, not \"2M\"",
        ),
        (
            "-machine",
            "pc-q35-10.0,confidential=a",
            "pc-q35-10.0-machine has no confidential",
        ),
        (
            "-machine",
            "pc-q35-9.9,smm=off",
            "no type pc-q35-9.9-machine",
        ),
        ("-cpu", "EPYC-v99", "no processor EPYC-v99"),
    ] {
        let value = Some(value.to_owned());
        let reason = "";
        let argument = Argument {
            flag,
            value,
            reason,
        };
        assert_eq!(known(&qmp, &argument).await, Err(said.to_owned()));
    }
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}

/// On a host without a TEE, QEMU parses the whole line and then reports that the kernel has none.
#[tokio::test]
async fn qemu_reads_the_whole_line_and_asks_the_kernel() {
    let Some(qemu) = qemu().await else { return };
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return absent("this machine has no /dev/kvm that QEMU could ask");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let firmware = folder.path().join("firmware");
    std::fs::write(&firmware, vec![0; 4 << 20]).expect("a file");
    for mut spec in machines(&firmware) {
        // Not every host lets a process bind memory.
        spec.placement = Placement::default();
        // With a GPU, QEMU opens /dev/iommu before it comes to the TEE.
        spec.gpu = None;
        let (module, name) = match spec.confidential {
            Confidential::Tdx(_) => ("kvm_intel/parameters/tdx", "TDX"),
            _ => ("kvm_amd/parameters/sev_snp", "SEV-SNP"),
        };
        let parameter = std::fs::read_to_string(format!("/sys/module/{module}"));
        if parameter.is_ok_and(|value| matches!(value.trim(), "Y" | "1")) {
            absent(format_args!("this machine has {name}"));
            continue;
        }
        let vm = Vm::spawn(&qemu, &spec, Vec::new()).expect("started");
        let ended = tokio::time::timeout(PATIENCE, vm.wait()).await;
        let status = ended.expect("ends by itself");
        assert_eq!(status.and_then(|status| status.code()), Some(1));
        let said = vm.diagnostics();
        let expected = format!("-accel kvm: vm-type {name} not supported by KVM");
        assert!(said.contains(&expected), "{said}");
    }
}

/// Checks that QEMU has what the argument names. What every machine has is tested by starting one.
async fn known(qmp: &Qmp, argument: &Argument) -> Result<(), String> {
    let value = argument.value.as_deref().unwrap_or_default();
    let mut parts = value.split(',');
    let first = parts.next().unwrap_or_default();
    let keys = parts.filter_map(|part| Some(part.split_once('=')?.0));
    match argument.flag {
        "-object" => object(qmp, value).await,
        "-device" => {
            // These properties belong to the bus, not to the device.
            let generic = ["id", "bus"].map(str::to_owned);
            let own = listed(qmp, "device-list-properties", first).await?;
            all(first, keys, &own.union(&generic.into()).cloned().collect())
        }
        "-machine" => {
            let machine = format!("{first}-machine");
            let mut own = listed(qmp, "qom-list-properties", &machine).await?;
            // This option is passed on to the accelerator.
            let accelerator = listed(qmp, "qom-list-properties", "kvm-accel").await?;
            own.extend(
                accelerator
                    .into_iter()
                    .filter(|name| name == "kernel-irqchip"),
            );
            all(&machine, keys, &own)
        }
        "-cpu" => {
            let models: Vec<Value> = ask(qmp, "query-cpu-definitions", json!({})).await?;
            let has = models.iter().any(|model| model["name"] == first);
            has.then_some(()).ok_or(format!("no processor {first}"))
        }
        _ => Ok(()),
    }
}

/// Checks that the members of a JSON object are properties of its type, with values of the right types.
async fn object(qmp: &Qmp, text: &str) -> Result<(), String> {
    let members: serde_json::Map<String, Value> = serde_json::from_str(text).expect("JSON");
    let kind = members["qom-type"].as_str().expect("a type").to_owned();
    let properties = properties(qmp, "qom-list-properties", &kind).await?;
    for (name, value) in &members {
        if matches!(name.as_str(), "qom-type" | "id") {
            continue;
        }
        let property = properties.iter().find(|property| property["name"] == *name);
        let property = property.ok_or_else(|| format!("{kind} has no {name}"))?;
        let expected = property["type"].as_str().unwrap_or_default();
        let fits = match expected {
            "bool" => value.is_boolean(),
            "string" => value.is_string(),
            // For a list, QEMU reports the type of its members.
            "int" | "uint16List" if name == "host-nodes" => value.is_array(),
            "int" | "uint32" | "uint64" => value.is_u64(),
            "HostMemPolicy" => value.is_string(),
            _ => value.is_object(),
        };
        if !fits {
            return Err(format!(
                "{name} of {kind} is of type {expected}, not {value}"
            ));
        }
    }
    Ok(())
}

fn all<'a>(
    of: &str,
    mut keys: impl Iterator<Item = &'a str>,
    own: &BTreeSet<String>,
) -> Result<(), String> {
    match keys.find(|key| !own.contains(*key)) {
        Some(key) => Err(format!("{of} has no {key}")),
        None => Ok(()),
    }
}

async fn listed(qmp: &Qmp, command: &'static str, kind: &str) -> Result<BTreeSet<String>, String> {
    let properties = properties(qmp, command, kind).await?;
    let names = properties
        .iter()
        .filter_map(|property| property["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

async fn properties(qmp: &Qmp, command: &'static str, kind: &str) -> Result<Vec<Value>, String> {
    let properties = ask(qmp, command, json!({ "typename": kind })).await;
    properties.map_err(|_| format!("no type {kind}"))
}

async fn ask(qmp: &Qmp, command: &'static str, arguments: Value) -> Result<Vec<Value>, String> {
    let answer = qmp.execute(command, arguments).await;
    answer.map_err(|error| error.to_string())
}

/// Returns trust domains and SEV-SNP guests with every option that can be requested, without and with a GPU.
fn machines(firmware: &Path) -> Vec<VmSpec> {
    let tdx = Confidential::Tdx(Tdx {
        mrconfigid: [1; 48],
        quotes: QuoteSocket::Unix("/run/qgs.socket".into()),
    });
    let vsock = Confidential::Tdx(Tdx {
        mrconfigid: [1; 48],
        quotes: QuoteSocket::Vsock { cid: 2, port: 4050 },
    });
    let snp = |id| {
        Confidential::Snp(Snp {
            host_data: [2; 32],
            policy: 0x30000,
            cbitpos: 51,
            reduced_phys_bits: 1,
            cpu: "EPYC-v4".into(),
            id,
        })
    };
    let identity = IdBlock {
        block: [3; 96],
        auth: Box::new([4; 4096]),
        author_key: true,
    };
    let gpu = Gpu {
        address: "0000:17:00.0".parse().expect("an address"),
        mmio64_mib: 256 << 10,
    };
    let kinds = [
        (tdx, None),
        (vsock, Some(gpu)),
        (snp(None), Some(gpu)),
        (snp(Some(identity)), None),
    ];
    let machine = |(confidential, gpu)| VmSpec {
        name: "tee".into(),
        accel: Accel::Kvm,
        confidential,
        vcpus: 2,
        memory_mib: 512,
        placement: Placement {
            hugepages: None,
            nodes: vec![0],
        },
        firmware: Some(Blob::Path(firmware.to_owned())),
        kernel: Blob::Path("/nonexistent/kernel".into()),
        initrd: Some(Blob::Path("/nonexistent/initrd".into())),
        cmdline: "quiet".into(),
        disks: Vec::new(),
        control: None,
        console: Console::Discard,
        network: Some(Network::User {
            host_port: 0,
            guest_port: 8443,
        }),
        gpu,
        qmp: None,
        pid_file: None,
    };
    kinds.into_iter().map(machine).collect()
}

/// Returns a QEMU that can start trust domains, or `None` after reporting that there is none.
async fn qemu() -> Option<Qemu> {
    let named = std::env::var_os("COCOON_QEMU").map(PathBuf::from);
    if let Ok(Search::Found { qemu, .. }) = search(named.as_deref(), None, MINIMUM_TDX).await {
        return Some(qemu);
    }
    let private = async {
        let fetcher = fetcher_of(LOCK)?;
        let cache = fetcher.cache().root().to_owned();
        let packages = tokio::task::spawn_blocking(move || fetcher.fetch_group("qemu")).await??;
        let reporter = cocoon_inputs::report::stderr();
        Ok::<_, Box<dyn std::error::Error>>(private::open(&cache, packages, reporter).await?)
    };
    match private.await {
        Ok(qemu) => Some(qemu),
        Err(error) => {
            skipped(format_args!("a QEMU with TDX cannot be had: {error}"));
            None
        }
    }
}
