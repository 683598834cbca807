//! Property tests of the parsers of firmware, kernels, manifests and policies.
//!
//! Generated input is read back unchanged or refused. Altered input is refused, or keeps the properties on which a loader
//! relies. No input causes a panic.

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{Manifest, PlatformSource, ReferenceEvent, TdxPlatform};
use proptest::prelude::*;

use crate::guid::Guid;
use crate::guid_table::GuidTable;
use crate::manifest::{Basis, ManifestTrust, add_signature, public_key, sign, trust};
use crate::pe::authenticode_sha384;
use crate::policy::{GpuRequirement, Policy};
use crate::snp::firmware::SnpFirmware;
use crate::tdx::mrtd::{PageOrder, mrtd};
use crate::tdx::setup_header::{KernelForm, Loading, measured};
use crate::tdx::tcb::TcbStatus;
use crate::tdx::tdvf::{PAGE, Tdvf};
use crate::test_firmware::{Firmware, TdxSection};

const RESET_BLOCK: Guid = Guid::parse("00f771de-1a7e-4fcb-890e-68c77e2fb44e");

/// Sections that are valid or not: mostly whole pages, in an address range small enough that they often overlap.
fn tdx_section() -> impl Strategy<Value = TdxSection> {
    let pages = |range| prop_oneof![9 => range, 1 => Just(7_u32)];
    (
        pages(0..5_u32),
        pages(0..5_u32),
        0..12_u64,
        0..6_u64,
        prop_oneof![9 => 3..7_u32, 1 => 0..8_u32],
        prop_oneof![9 => 0..3_u32, 1 => 3..5_u32],
        prop_oneof![9 => Just(0_u32), 1 => 1..4096_u32],
    )
        .prop_map(
            |(data, raw, address, memory, kind, attributes, odd)| TdxSection {
                data_offset: data * 4096,
                raw_size: raw * 4096 + odd,
                address: 0x80_0000 + address * PAGE,
                memory_size: memory * PAGE,
                kind,
                attributes,
            },
        )
}

/// Checks the properties on which QEMU and a prediction of MRTD rely.
fn sound(firmware: &Tdvf<'_>) -> Result<(), TestCaseError> {
    let sections = firmware.sections();
    for (at, one) in sections.iter().enumerate() {
        prop_assert_eq!(one.address % PAGE, 0);
        prop_assert_eq!(one.memory_size % PAGE, 0);
        prop_assert_eq!(firmware.data(one).len(), one.raw_size);
        prop_assert!(one.raw_size as u64 <= one.memory_size);
        let end = one.address.checked_add(one.memory_size);
        prop_assert!(end.is_some());
        for other in &sections[..at] {
            let apart = one.address >= other.address + other.memory_size
                || other.address >= one.address + one.memory_size;
            prop_assert!(apart, "{one:?} and {other:?}");
        }
    }
    Ok(())
}

/// Flips bits of up to three bytes.
fn changed(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] ^= value;
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4)
}

proptest! {
    #[test]
    fn tdx_metadata_come_back_or_are_refused(
        more in prop::collection::vec(tdx_section(), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        // Sections that every firmware needs: without them nearly all inputs would be refused at once.
        let base = Firmware::small().tdx;
        let hob = TdxSection { address: 0x82_0000, ..base[2].clone() };
        let tdx: Vec<_> = [base[0].clone(), base[1].clone(), hob].into_iter().chain(more).collect();
        let image = Firmware { tdx: tdx.clone(), ..Firmware::small() }.build();
        if let Ok(firmware) = Tdvf::parse(&image) {
            sound(&firmware)?;
            let fields = |s: &TdxSection| (s.data_offset as usize, s.raw_size as usize, s.address, s.memory_size);
            let expected: Vec<_> = tdx.iter().map(fields).collect();
            let found = firmware.sections().iter();
            let found: Vec<_> = found.map(|s| (s.data_offset, s.raw_size, s.address, s.memory_size)).collect();
            prop_assert_eq!(found, expected);
            let orders = [PageOrder::SinglePass, PageOrder::TwoPass].map(|order| mrtd(&firmware, order));
            prop_assert!(orders.iter().all(|digest| *digest != [0; 48]));
        }
        // A truncated image has no table.
        let cut = cut.index(image.len());
        prop_assert!(Tdvf::parse(&image[..cut]).is_err());
    }

    #[test]
    fn changed_tdx_metadata_stay_sound_or_are_refused(changes in changes()) {
        let good = Firmware::like_ovmf().build();
        let place = good.len() - 0x800;
        // Only the bytes that are parsed: the descriptor and the table after it.
        let end = changed(good[place..].to_vec(), &changes);
        let image = [&good[..place], &end].concat();
        if let Ok(firmware) = Tdvf::parse(&image) {
            sound(&firmware)?;
        }
    }

    #[test]
    fn sev_metadata_come_back_or_are_refused(
        sev in prop::collection::vec((0..12_u32, 0..4_u32, 0..6_u32, 0..8_u32), 1..6),
        changes in changes(),
    ) {
        let sev: Vec<(u32, u32, u32)> = sev
            .into_iter()
            .map(|(address, pages, kind, odd)| {
                // One address in eight is not page-aligned.
                let odd = u32::from(odd == 0) * 16;
                (0x80_0000 + address * 4096 + odd, pages * 4096, kind)
            })
            .collect();
        let entries = vec![(RESET_BLOCK, vec![0, 0, 0x80, 0])];
        let image = Firmware { tdx: vec![], sev: sev.clone(), entries, ..Firmware::small() }.build();
        if let Ok(firmware) = SnpFirmware::parse(&image) {
            let found = firmware.sections.iter().map(|s| (s.address, s.length));
            let expected = sev.iter().map(|(address, length, _)| (u64::from(*address), u64::from(*length)));
            prop_assert!(found.eq(expected));
            for section in &firmware.sections {
                prop_assert_eq!((section.address % PAGE, section.length % PAGE), (0, 0));
            }
        }
        let place = image.len() - 0x800;
        let end = changed(image[place..].to_vec(), &changes);
        let _refused_or_not = SnpFirmware::parse(&[&image[..place], &end].concat());
    }

    #[test]
    fn tables_of_guids_come_back(
        entries in prop::collection::vec((any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        changes in changes(),
    ) {
        let entries: Vec<(Guid, Vec<u8>)> = entries.into_iter().map(|(guid, data)| (Guid(guid), data)).collect();
        let image = Firmware { tdx: vec![], entries: entries.clone(), ..Firmware::small() }.build();
        let table = GuidTable::parse(&image).unwrap();
        let mut found: Vec<(Guid, Vec<u8>)> = table.entries().iter().map(|(guid, data)| (*guid, data.to_vec())).collect();
        // The table is read from its end.
        found.reverse();
        prop_assert_eq!(found, entries);
        let place = image.len() - 0x400;
        let end = changed(image[place..].to_vec(), &changes);
        let image = [&image[..place], &end].concat();
        if let Ok(table) = GuidTable::parse(&image) {
            prop_assert!(table.entries().len() <= 64);
        }
    }

    /// Only the checksum, the certificate table's directory entry and the certificates are outside the digest.
    #[test]
    fn each_byte_of_a_kernel_counts_but_those_that_signing_changes(at in 0..0x600_usize, value in 1..=255_u8) {
        let good = crate::pe::tests::sample();
        let digest = authenticode_sha384(&good).unwrap();
        let mut image = good;
        image[at] ^= value;
        let optional = 0x80 + 24;
        let outside = (optional + 64..optional + 68).contains(&at) || at >= 0x5c0;
        let entry = (optional + 144..optional + 152).contains(&at);
        match authenticode_sha384(&image) {
            Ok(other) => prop_assert!((other == digest) == outside || entry),
            Err(_) => prop_assert!(!outside),
        }
    }

    #[test]
    fn patching_changes_the_loaders_fields_alone(
        memory in 64..8192_u64,
        initrd in prop::option::of(1..(32_u64 << 20)),
        changes in changes(),
    ) {
        let mut kernel = vec![0x5a; 0x400];
        kernel[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        // The flag that the kernel is loaded high.
        kernel[0x211] = 1;
        let loading = Loading { memory: memory << 20, initrd, command_line: "quiet" };
        let patched = measured(&kernel, KernelForm::SetupHeaderPatched, &loading);
        let patched = patched.unwrap();
        prop_assert_eq!(patched.len(), kernel.len());
        let mut differing = (0..kernel.len()).filter(|at| patched[*at] != kernel[*at]);
        prop_assert!(differing.all(|at| (0x1fa..0x22c).contains(&at)));
        let kernel = changed(kernel, &changes);
        let unchanged = measured(&kernel, KernelForm::Unchanged, &loading);
        prop_assert!(unchanged.is_ok_and(|unchanged| *unchanged == kernel[..]));
        let _refused_or_not = measured(&kernel, KernelForm::SetupHeaderPatched, &loading);
    }

    #[test]
    fn manifests_come_back(
        texts in prop::collection::vec(any::<String>(), 5),
        numbers in any::<(u64, u64, u32)>(),
        digest in any::<[u8; 32]>(),
        sizes in any::<(Option<u32>, Option<u32>)>(),
        changes in changes(),
    ) {
        let mut manifest = crate::manifest::tests::sample();
        let [variant, cmdline, model, unlocked, name] = &texts[..] else { unreachable!() };
        (manifest.variant, manifest.cmdline, manifest.model.id) = (variant.clone(), cmdline.clone(), model.clone());
        manifest.unlocked = vec![unlocked.clone()];
        (manifest.release, manifest.snp.guest_features) = (numbers.0, numbers.1);
        manifest.inputs_lock = Hex(digest);
        manifest.tdx.platforms = vec![TdxPlatform {
            name: name.clone(),
            memory_mib: numbers.2.into(),
            vcpus: sizes.0,
            mmio64_mib: sizes.1,
            source: PlatformSource::Computed,
            rtmr0_events: vec![ReferenceEvent { name: name.clone(), digest: Hex([7; 48]) }],
        }];
        let bytes = manifest.to_json();
        prop_assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
        // A changed manifest that still parses survives a round trip, too.
        if let Ok(other) = Manifest::parse(&changed(bytes, &changes)) {
            prop_assert_eq!(Manifest::parse(&other.to_json()).unwrap(), other);
        }
    }

    /// A manifest is trusted if at least `threshold` pinned signers signed, whoever else signed and in whatever order.
    #[test]
    fn signatures_count_by_who_made_them(
        signers in prop::collection::btree_set(1..12_u8, 1..6),
        pinned in prop::collection::btree_set(1..12_u8, 1..6),
        threshold in 1..6_usize,
        changes in changes(),
    ) {
        let bytes = crate::manifest::tests::sample().to_json();
        let mut envelope: Option<Vec<u8>> = None;
        for signer in &signers {
            let secret = [*signer; 32];
            envelope = Some(match envelope {
                None => sign(&bytes, &secret).unwrap(),
                Some(envelope) => add_signature(&envelope, &bytes, &secret).unwrap(),
            });
        }
        let envelope = envelope.unwrap();
        let believed = ManifestTrust {
            signers: pinned.iter().map(|signer| public_key(&[*signer; 32])).collect(),
            threshold,
            ..ManifestTrust::default()
        };
        let valid = signers.intersection(&pinned).count();
        let now = 1_800_000_000;
        let enough = threshold <= pinned.len() && valid >= threshold;
        let trusted = trust(&bytes, Some(&envelope), &believed, now);
        prop_assert_eq!(trusted.is_ok(), enough);
        if let Ok(trusted) = trusted {
            let by = match trusted.basis() {
                Basis::Signed { by, .. } => by.len(),
                Basis::Pinned => 0,
            };
            prop_assert_eq!(by, valid);
        }
        // A changed envelope never gains trust.
        let changed = trust(&bytes, Some(&changed(envelope, &changes)), &believed, now);
        prop_assert!(enough || changed.is_err());
    }

    #[test]
    fn policies_come_back(
        days in 1..10_000_u64,
        numbers in any::<(u32, u8)>(),
        flags in any::<[bool; 4]>(),
        advisories in prop::collection::vec("[A-Z0-9-]{0,20}", 0..4),
        modules in prop::collection::vec(any::<[u8; 24]>(), 0..3),
        changes in changes(),
    ) {
        let mut policy = Policy {
            accepted_tcb_statuses: vec![TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded],
            accepted_advisories: advisories,
            min_tcb_evaluation: numbers.0,
            max_collateral_age: days * 86_400,
            max_amd_crl_age: days * 3600,
            tdx_modules: modules.iter().map(|half| Hex([*half, *half].concat().try_into().unwrap())).collect(),
            accept_missing_aml_guard: flags[0],
            accept_gpu_developer_mode: flags[1],
            accept_missing_gpu_revocation: flags[2],
            ..Policy::default()
        };
        if flags[3] {
            policy.gpu = GpuRequirement::Required;
        }
        policy.snp_tcb_floor.turin.fmc = numbers.1;
        let text = serde_json::to_vec(&policy).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Policy>(&text).unwrap(), policy);
        if let Ok(other) = serde_json::from_slice::<Policy>(&changed(text, &changes)) {
            prop_assert!(other.development_roots.is_empty());
        }
    }
}
