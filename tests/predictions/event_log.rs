//! The event log of firmware with a TPM: parsed, replayed, and converted to what a trust domain would have logged.
//!
//! Format: TCG PC Client Platform Firmware Profile, crypto-agile. Registers correspond as in edk2's `TdxMeasurementCommon.c`
//! and the TDVF design guide: PCR 1 and 7 are RTMR0, 2 to 6 are RTMR1, and 8 to 15 are RTMR2; MRTD takes the place of PCR 0.

use anyhow::Context as _;
use cocoon_measurements::tdx::event::{Rtmr, event_type};
use sha2::{Digest as _, Sha384};

/// Algorithm identifier `TPM_ALG_SHA384`.
const SHA384: u16 = 0x000c;
/// Bytes of the first record, which has the old format, without its data.
const FIRST: usize = 32;

/// An event with its SHA-384 digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmEvent {
    pub pcr: u32,
    pub event_type: u32,
    pub digest: [u8; 48],
    pub data: Vec<u8>,
}

/// Parses all events of `log`, in order.
pub fn parse(log: &[u8]) -> anyhow::Result<Vec<TpmEvent>> {
    let mut rest = log;
    let first = take(&mut rest, FIRST)?;
    let length = usize::try_from(u32::from_le_bytes(first[28..].try_into()?))?;
    let mut spec = take(&mut rest, length)?;
    anyhow::ensure!(
        take(&mut spec, 16)? == b"Spec ID Event03\0",
        "another kind of log"
    );
    take(&mut spec, 8)?;
    let mut algorithms = Vec::new();
    for _ in 0..number(&mut spec)? {
        let (algorithm, length) = (short(&mut spec)?, short(&mut spec)?);
        algorithms.push((algorithm, usize::from(length)));
    }
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (pcr, event_type) = (number(&mut rest)?, number(&mut rest)?);
        let mut digest = None;
        for _ in 0..number(&mut rest)? {
            let algorithm = short(&mut rest)?;
            let known = algorithms.iter().find(|(known, _)| *known == algorithm);
            let (_, length) = known.context("a digest of an unannounced algorithm")?;
            let found = take(&mut rest, *length)?;
            if algorithm == SHA384 {
                digest = Some(found.try_into()?);
            }
        }
        let digest = digest.context("the SHA-384 bank is not active")?;
        let length = usize::try_from(number(&mut rest)?)?;
        let data = take(&mut rest, length)?.to_owned();
        events.push(TpmEvent {
            pcr,
            event_type,
            digest,
            data,
        });
    }
    Ok(events)
}

/// Returns the value of a register after all its events.
pub fn replay(events: &[TpmEvent], pcr: u32) -> [u8; 48] {
    let extend = |register: [u8; 48], event: &TpmEvent| {
        Sha384::new()
            .chain_update(register)
            .chain_update(event.digest)
            .finalize()
            .into()
    };
    events
        .iter()
        .filter(|event| event.pcr == pcr)
        .fold([0; 48], extend)
}

/// Selects the events that a trust domain's firmware measures too, in order, each with the register that it extends there.
///
/// There are two differences, and this function checks both. When the firmware finishes, it measures a separator into each of
/// PCR 0 to 6; a trust domain measures only one, into the register of PCR `separator`. QEMU lists `tpm_log`, the memory for a
/// legacy event log, in its ACPI data only on a machine with a TPM; `None` means that ACPI data are not measured.
pub fn as_in_a_trust_domain(
    events: Vec<TpmEvent>,
    separator: u32,
    tpm_log: Option<[u8; 48]>,
) -> anyhow::Result<Vec<(Rtmr, TpmEvent)>> {
    let is_separator = |event: &TpmEvent| event.event_type == event_type::SEPARATOR;
    let separators: Vec<u32> = events
        .iter()
        .filter(|event| is_separator(event))
        .map(|event| event.pcr)
        .collect();
    anyhow::ensure!(
        separators == [7, 0, 1, 2, 3, 4, 5, 6],
        "separators in {separators:?}"
    );
    let all = events.len();
    let events: Vec<_> = events
        .into_iter()
        .filter(|event| Some(event.digest) != tpm_log)
        .collect();
    anyhow::ensure!(
        all == events.len() + usize::from(tpm_log.is_some()),
        "the TPM's memory is not measured once"
    );
    let kept = events.into_iter().filter_map(|event| {
        if is_separator(&event) && event.pcr != separator && event.pcr != 7 {
            return None;
        }
        Some((register(event.pcr)?, event))
    });
    Ok(kept.collect())
}

fn register(pcr: u32) -> Option<Rtmr> {
    match pcr {
        1 | 7 => Some(Rtmr::Rtmr0),
        2..=6 => Some(Rtmr::Rtmr1),
        8..=15 => Some(Rtmr::Rtmr2),
        _ => None,
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> anyhow::Result<&'a [u8]> {
    let (taken, left) = rest
        .split_at_checked(length)
        .context("the log breaks off")?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> anyhow::Result<u32> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into()?))
}

fn short(rest: &mut &[u8]) -> anyhow::Result<u16> {
    Ok(u16::from_le_bytes(take(rest, 2)?.try_into()?))
}
