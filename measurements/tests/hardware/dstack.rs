//! Registers and launch digests that real machines reported, recomputed from published measurement documents.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cocoon_measurements::{
    guid::Guid,
    pe,
    snp::{
        firmware::{Section, SectionKind, SnpFirmware},
        launch::{KernelHashes, Vcpus, launch_digest},
    },
    tdx::{
        boot_variables::BootApplications,
        event::{PredictedEvent, Provenance, Rtmr, replay},
        rtmr,
        rtmr0::{self, GivenDigest, Machine, PlatformDigests, SecureBoot},
        tdvf::Tdvf,
    },
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{unhex, vector};

/// Intel TDX, 2 GiB, QEMU 8.2.2, edk2 stable202502: RTMR0, RTMR1 and RTMR2 of the quote.
#[test]
fn tdx_registers_of_a_real_machine() {
    let Some(json) = vector("e2e/dstack_tdx-lite-getquote.json") else {
        return;
    };
    let json: Value = serde_json::from_slice(&json).unwrap();
    let quote = unhex(json["quote"].as_str().unwrap().as_bytes());
    let config: Value = serde_json::from_str(json["vm_config"].as_str().unwrap()).unwrap();
    let log: Value = serde_json::from_str(json["event_log"].as_str().unwrap()).unwrap();
    let logged = |name: &str| {
        let event = log
            .as_array()
            .unwrap()
            .iter()
            .find(|event| event["event"] == name)
            .unwrap();
        let digest = unhex(event["digest"].as_str().unwrap().as_bytes())
            .try_into()
            .unwrap();
        GivenDigest {
            digest,
            provenance: Provenance::Computed,
        }
    };
    let document = config["tdx_measurement"]["measurement"].as_str().unwrap();
    let image = &cbor(&STANDARD.decode(document).unwrap())["image"];
    let machine = Machine {
        memory: config["memory_size"].as_u64().unwrap(),
        edk2: rtmr::Edk2::Stable202502,
        secure_boot: SecureBoot::NotBuilt,
        boot_applications: BootApplications::UiApp,
        platform: PlatformDigests {
            acpi_loader: logged("acpi-loader"),
            acpi_rsdp: logged("acpi-rsdp"),
            acpi_tables: logged("acpi-tables"),
            smbios: logged("acpi-tables"), // not measured by this firmware
        },
        ..Machine::simulated(0)
    };
    let firmware = ovmf_layout(Layout::Classic);
    let mut events = rtmr0::rtmr0(&Tdvf::parse(&firmware).unwrap(), &machine).unwrap();
    // OVMF_VARS_4M.fd, as Debian ships it and as the machine measured it.
    let store = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790";
    events[1].digest = hex::decode(store).unwrap().try_into().unwrap();
    events.extend(rtmr::rtmr1(&smallest_pe()).unwrap());
    set(
        &mut events,
        "kernel (Authenticode SHA-384)",
        image,
        "kernel_authenticode",
    );
    events.extend(rtmr::rtmr2("", Some(b""), machine.edk2));
    set(&mut events, "kernel command line", image, "cmdline_sha384");
    set(&mut events, "initrd", image, "initrd_sha384");

    let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest)));
    // Another response of the same machine, in which versions and the quote's length precede the quote.
    let attestation = vector("e2e/dstack_tdx-lite-attestation.json").map(|json| {
        let json: Value = serde_json::from_slice(&json).unwrap();
        let bytes = unhex(json["attestation"].as_str().unwrap().as_bytes());
        // After two bytes of versions: SCALE's two-byte form of the length, which is four times the length plus one.
        let length = u16::from_le_bytes([bytes[2], bytes[3]]);
        assert_eq!(length & 3, 1);
        bytes[4..4 + usize::from(length >> 2)].to_vec()
    });
    for quote in [Some(quote), attestation].into_iter().flatten() {
        for (rtmr, at) in [(Rtmr::Rtmr0, 376), (Rtmr::Rtmr1, 424), (Rtmr::Rtmr2, 472)] {
            assert_eq!(
                hex::encode(registers[rtmr.index()]),
                hex::encode(&quote[at..at + 48]),
                "{rtmr:?}"
            );
        }
    }
}

/// AMD Milan, two vCPUs of the model EPYC-v4: the launch digest of the report.
#[test]
fn snp_launch_digest_of_a_real_machine() {
    let Some(json) = vector("e2e/dstack_sev-snp-attestation.json") else {
        return;
    };
    let json: Value = serde_json::from_slice(&json).unwrap();
    let attestation = unhex(json["attestation"].as_str().unwrap().as_bytes());
    let start = attestation
        .windows(16)
        .position(|window| window == b"{\"os_image_hash\"")
        .unwrap();
    let mut documents =
        serde_json::Deserializer::from_slice(&attestation[start..]).into_iter::<Value>();
    let claims = match &documents.next().unwrap().unwrap()["sev_snp_measurement"] {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        other => other.clone(),
    };
    let document = cbor(
        &STANDARD
            .decode(claims["measurement"].as_str().unwrap())
            .unwrap(),
    );
    let sections = document["ovmf_sections"]
        .list()
        .iter()
        .map(|section| Section {
            address: section["gpa"].number(),
            length: section["size"].number(),
            kind: match section["type"].number() {
                1 => SectionKind::SecMem,
                2 => SectionKind::Secrets,
                3 => SectionKind::Cpuid,
                4 => SectionKind::SvsmCallingArea,
                16 => SectionKind::KernelHashes,
                other => panic!("section type {other}"),
            },
        });
    let firmware = SnpFirmware {
        digest: document["ovmf_hash"].bytes(),
        sections: sections.collect(),
        hash_table: Some(document["hashes_table_gpa"].number()),
        reset_eip: document["reset_eip"].number().try_into().unwrap(),
    };
    let kernel = KernelHashes {
        kernel: document["kernel_hash"].bytes(),
        initrd: document["initrd_hash"].bytes(),
        command_line: Sha256::digest([document["cmdline"].text().as_bytes(), &[0]].concat()).into(),
    };
    let vcpus = Vcpus {
        count: claims["vcpus"].as_u64().unwrap().try_into().unwrap(),
        model: claims["vcpu_type"].as_str().unwrap().parse().unwrap(),
        guest_features: claims["guest_features"].as_u64().unwrap(),
    };
    let digest = launch_digest(&firmware, Some(&kernel), &vcpus).unwrap();
    // The report's measurement. Its offset depends on this format's header, so it is searched for.
    assert!(
        attestation
            .windows(48)
            .take(4096)
            .any(|window| window == digest),
        "{}",
        hex::encode(digest)
    );
    assert!(hex::encode(digest).starts_with("7f51e17f"));
}

fn set(events: &mut [PredictedEvent], name: &str, image: &Cbor, field: &str) {
    let event = events.iter_mut().find(|event| event.name == name).unwrap();
    event.digest = image[field].bytes();
}

/// Location of OVMF's temporary memory.
#[derive(Debug, Clone, Copy)]
pub enum Layout {
    /// Up to stable202411, and in IntelTdx builds.
    Classic,
    /// OvmfPkgX64 since stable202502.
    Stable202502,
}

/// Returns an image with OVMF's memory layout, which is all that the hand-off blocks depend on.
pub fn ovmf_layout(layout: Layout) -> Vec<u8> {
    const SIZE: usize = 0x4000;
    let (stack, stack_size) = match layout {
        Layout::Classic => (0x81_0000, 0x1_0000),
        Layout::Stable202502 => (0x81_1000, 0xf000),
    };
    let sections: [[u64; 6]; 6] = [
        [0x2000, 0x2000, 0xffff_e000, 0x2000, 0, 1],
        [0, 0x2000, 0xffff_c000, 0x2000, 1, 0],
        [0, 0, stack, stack_size, 3, 0],
        [0, 0, 0x80_b000, 0x2000, 3, 0],
        [0, 0, 0x80_9000, 0x2000, 2, 0],
        [0, 0, 0x80_0000, 0x6000, 3, 0],
    ];
    let short = |value: u64| u32::try_from(value).unwrap().to_le_bytes();
    let mut descriptor = b"TDVF".to_vec();
    descriptor.extend([16 + 32 * 6, 1, 6].map(short).concat());
    for [offset, raw, address, size, kind, attributes] in sections {
        descriptor.extend([short(offset), short(raw)].concat());
        descriptor.extend([address, size].map(u64::to_le_bytes).concat());
        descriptor.extend([short(kind), short(attributes)].concat());
    }
    let entry = |guid: &str, data: &[u8], length: u16| {
        [data, &length.to_le_bytes(), &Guid::parse(guid).0].concat()
    };
    let table = [
        entry("e47a6535-984a-4798-865e-4685a7bf8ec2", &short(0x400), 22),
        entry("96b582de-1fb2-45f7-baea-a366c55a082d", &[], 40),
        vec![0; 32],
    ]
    .concat();
    let mut image = vec![0; SIZE];
    image[SIZE - 0x400..SIZE - 0x400 + descriptor.len()].copy_from_slice(&descriptor);
    image[SIZE - table.len()..].copy_from_slice(&table);
    image
}

/// Returns a PE image of headers alone, without sections or data.
pub fn smallest_pe() -> Vec<u8> {
    let mut image = vec![0; 0x200];
    let mut put = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0x3c, 0x40);
    put(0x40, 0x4550);
    put(0x54, 0x70);
    put(0x58, 0x20b);
    put(0x58 + 60, 0x200);
    assert!(pe::authenticode_sha384(&image).is_ok());
    image
}

/// The subset of CBOR (RFC 8949) that the documents use.
#[derive(Debug)]
enum Cbor {
    Number(u64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Cbor>),
    Map(BTreeMap<String, Cbor>),
}

fn cbor(bytes: &[u8]) -> Cbor {
    let mut rest = bytes;
    let value = item(&mut rest);
    assert!(rest.is_empty());
    value
}

fn item(rest: &mut &[u8]) -> Cbor {
    let first = rest.split_off_first().unwrap();
    let argument = match first & 31 {
        small @ 0..24 => u64::from(small),
        size @ 24..28 => rest
            .split_off(..1 << (size - 24))
            .unwrap()
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte)),
        other => panic!("additional information {other}"),
    };
    let count = usize::try_from(argument).unwrap();
    match first >> 5 {
        0 => Cbor::Number(argument),
        2 => Cbor::Bytes(rest.split_off(..count).unwrap().to_vec()),
        3 => Cbor::Text(String::from_utf8(rest.split_off(..count).unwrap().to_vec()).unwrap()),
        4 => Cbor::List((0..count).map(|_| item(rest)).collect()),
        5 => Cbor::Map(
            (0..count)
                .map(|_| (item(rest).text().to_owned(), item(rest)))
                .collect(),
        ),
        other => panic!("major type {other}"),
    }
}

impl Cbor {
    fn number(&self) -> u64 {
        let Self::Number(number) = self else {
            panic!("{self:?} is no number")
        };
        *number
    }

    fn text(&self) -> &str {
        let Self::Text(text) = self else {
            panic!("{self:?} is no text")
        };
        text
    }

    fn list(&self) -> &[Self] {
        let Self::List(list) = self else {
            panic!("{self:?} is no list")
        };
        list
    }

    fn bytes<const N: usize>(&self) -> [u8; N] {
        let Self::Bytes(bytes) = self else {
            panic!("{self:?} is no byte string")
        };
        bytes.as_slice().try_into().unwrap()
    }
}

impl std::ops::Index<&str> for Cbor {
    type Output = Self;

    fn index(&self, key: &str) -> &Self {
        let Self::Map(map) = self else {
            panic!("{self:?} is no map")
        };
        &map[key]
    }
}
