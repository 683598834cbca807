//! Targets for structures without signatures that predictions and verdicts read: firmware, kernels and event logs.

use cocoon_measurements::ccel::{self, EventLog, LoggedEvent, MAX_EVENTS};
use cocoon_measurements::guid_table::GuidTable;
use cocoon_measurements::pe::{authenticode_sha256, authenticode_sha384};
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use cocoon_measurements::tdx::hob::td_hob;
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::rtmr0::{Machine, rtmr0};
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_measurements::tdx::varstore;

use crate::memory::bounded;
use crate::platform::made;

/// Most memory, in bytes, that firmware may claim to be measured here, so that runs spend their time on parsing. The parsers
/// allow 64 MiB.
const MEASURED: u64 = 96 << 10;

/// Parses foreign bytes as TDX firmware (GUID table and metadata) and predicts measurements from it.
///
/// The data of all accepted sections lie inside the image. A prediction succeeds if there is a variable store and the firmware
/// fits in memory.
pub fn firmware_tdx(data: &[u8]) {
    let table = bounded(16 << 10, || GuidTable::parse(data));
    let Ok(firmware) = bounded(16 << 10, || Tdvf::parse(data)) else {
        return;
    };
    assert!(table.is_ok(), "metadata found without a table");
    for section in firmware.sections() {
        assert_eq!(firmware.data(section).len(), section.raw_size);
        assert!(section.raw_size as u64 <= section.memory_size);
    }
    let claimed = firmware.sections().iter().fold(0_u64, |sum, section| {
        sum.saturating_add(section.memory_size)
    });
    if claimed <= MEASURED {
        for order in [PageOrder::SinglePass, PageOrder::TwoPass] {
            bounded(16 << 10, || mrtd(&firmware, order));
        }
    }
    let machine = Machine::simulated(1 << 30);
    let events = bounded(64 << 10, || rtmr0(&firmware, &machine));
    let blocks = td_hob(&firmware, machine.memory);
    let predictable = blocks.is_ok() && firmware.configuration_volume().is_some();
    assert_eq!(events.is_ok(), predictable);
    let Some(store) = firmware.configuration_volume() else {
        return;
    };
    let mut blank = vec![0xff; store.raw_size];
    if let Some(signature) = blank.get_mut(40..44) {
        signature.copy_from_slice(b"_FVH");
        let changed = bounded(data.len() + (16 << 10), || varstore::blank(data, &blank));
        // The store may contain its own description. The changed image is then parsed again as foreign bytes.
        let changed = made(changed);
        assert_eq!(changed.len(), data.len());
        let _ = Tdvf::parse(&changed);
    }
}

/// Parses foreign bytes as SEV-SNP firmware (GUID table and metadata) and computes launch digests.
pub fn firmware_snp(data: &[u8]) {
    let Ok(firmware) = bounded(16 << 10, || SnpFirmware::parse(data)) else {
        return;
    };
    let claimed: u64 = firmware.sections.iter().map(|section| section.length).sum();
    assert!(claimed <= 64 << 20, "{claimed} bytes are to be measured");
    if claimed > MEASURED {
        return;
    }
    let vcpus = Vcpus {
        count: 2,
        model: made("EPYC-v4".parse()),
        guest_features: FEATURE_SNP,
    };
    let bare = bounded(64 << 10, || launch_digest(&firmware, None, &vcpus));
    assert!(bare.is_ok(), "firmware without a kernel always launches");
    let kernel = KernelHashes::of(b"kernel", None, "");
    let with_kernel = launch_digest(&firmware, Some(&kernel), &vcpus);
    assert_ne!(
        bare, with_kernel,
        "a kernel changes the digest or is refused"
    );
}

/// Hashes foreign bytes as a PE image. The checksum is not part of the digest; other fields are.
pub fn pe(data: &[u8]) {
    let digest = bounded(8 << 10, || authenticode_sha384(data));
    assert_eq!(digest.is_ok(), authenticode_sha256(data).is_ok());
    let Ok(digest) = digest else { return };
    let header = data
        .get(0x3c..0x40)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
        .map_or(0, u32::from_le_bytes) as usize;
    let changed = |offset: usize| {
        let mut image = data.to_vec();
        image[offset] ^= 0xff;
        authenticode_sha384(&image)
    };
    assert_eq!(changed(header + 24 + 64), Ok(digest), "the checksum counts");
    // Machine and time stamp are hashed, and the layout does not depend on them.
    for offset in [header + 4, header + 8] {
        assert_ne!(changed(offset), Ok(digest), "offset {offset:#x} is free");
    }
}

/// Parses foreign bytes as an event log. Encoded and parsed again it has the same events and registers.
pub fn event_log(data: &[u8]) {
    let Ok(log) = bounded(1 << 20, || EventLog::parse(data)) else {
        return;
    };
    assert!(log.events().len() <= MAX_EVENTS);
    for event in log.events() {
        let claimed = event.claimed_data();
        assert!(data.as_ptr_range().contains(&claimed.as_ptr()) || claimed.is_empty());
        assert!(event.hashed_data().is_none_or(|hashed| hashed == claimed));
    }
    let events = log.events().iter().map(|event| LoggedEvent {
        rtmr: event.rtmr,
        event_type: event.event_type,
        digest: event.digest,
        data: event.claimed_data(),
    });
    // The new encoding is never longer, because it has neither padding nor records that extend nothing.
    let written = made(ccel::encode(events));
    let again = made(EventLog::parse(&written));
    assert_eq!(again.events().len(), log.events().len());
    for (one, other) in again.events().iter().zip(log.events()) {
        assert_eq!((one.rtmr, one.event_type), (other.rtmr, other.event_type));
        assert_eq!(one.digest, other.digest);
        assert_eq!(one.claimed_data(), other.claimed_data());
    }
    assert_eq!(again.replay(), log.replay());
}
