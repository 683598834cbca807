//! Checks whether a manifest lists the measurements of a machine. Clients have nothing to compare the evidence of any
//! other machine with and refuse it, so the operator is warned before the boot.

use std::collections::BTreeSet;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::manifest::{PlatformSource, SnpLaunch, TdxPlatform};

/// The properties of a machine that its measurements depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    /// The TEE whose evidence clients will get.
    pub tee: Tee,
    /// Whether that TEE is simulated. For real hardware, only values computed for it count.
    pub simulated: bool,
    /// QEMU's name of the CPU model, which SEV-SNP measures.
    pub cpu_model: &'a str,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory in MiB, which TDX measures.
    pub memory_mib: u32,
    /// Size of the window for a GPU's BARs in MiB, which TDX measures.
    pub mmio64_mib: Option<u32>,
}

/// Describes why a machine is not listed and which ones are; `None` if the manifest lists it.
#[must_use]
pub fn unlisted(tdx: &[TdxPlatform], snp: &[SnpLaunch], machine: Measured<'_>) -> Option<String> {
    let (found, listed, flag) = match machine.tee {
        Tee::Tdx => unlisted_tdx(tdx, &machine)?,
        Tee::SevSnp => {
            let of_model = snp
                .iter()
                .filter(|launch| launch.cpu_model == machine.cpu_model);
            let listed: BTreeSet<u32> = of_model.map(|launch| launch.vcpus).collect();
            if listed.contains(&machine.vcpus.into()) {
                return None;
            }
            let (vcpus, model) = (machine.vcpus, machine.cpu_model);
            let found = format!("an SNP machine with {vcpus} vCPUs of model {model}");
            let numbers = listed.iter().map(u32::to_string);
            (found, numbers.collect(), "--vcpus")
        }
    };
    let way_out = match &listed[..] {
        [] => "its signers can add it".to_owned(),
        listed => format!("listed for {flag}: {}", listed.join(", ")),
    };
    Some(format!(
        "the image's manifest does not list {found}, and clients will reject this VM; {way_out}"
    ))
}

/// Returns the machine's description, the values that are listed instead and the option that sets them.
fn unlisted_tdx(
    platforms: &[TdxPlatform],
    machine: &Measured<'_>,
) -> Option<(String, Vec<String>, &'static str)> {
    // The simulator's platform describes neither processors nor a GPU in its tables.
    let counts = |it: &&TdxPlatform| {
        machine.simulated
            || it.source == PlatformSource::Computed && it.mmio64_mib == machine.mmio64_mib
    };
    let platforms: Vec<&TdxPlatform> = platforms.iter().filter(counts).collect();
    let memory = u64::from(machine.memory_mib);
    let of_size: Vec<Option<u32>> = (platforms.iter())
        .filter(|it| it.memory_mib == memory)
        .map(|it| it.vcpus)
        .collect();
    let own = u32::from(machine.vcpus);
    let fits = |vcpus: &Option<u32>| machine.simulated || vcpus.is_none_or(|n| n == own);
    if of_size.iter().any(fits) {
        return None;
    }
    let mut found = format!("a TDX machine with {memory} MiB");
    if let Some(mib) = machine.mmio64_mib.filter(|_| !machine.simulated) {
        found.push_str(&format!(", a GPU and a window of {mib} MiB for it"));
    }
    if of_size.is_empty() {
        let sizes: BTreeSet<u64> = platforms.iter().map(|it| it.memory_mib).collect();
        let sizes = sizes.iter().map(|mib| format!("{mib}M")).collect();
        return Some((found, sizes, "--memory"));
    }
    found.push_str(&format!(" on {} vCPUs", machine.vcpus));
    let counts: BTreeSet<u32> = of_size.into_iter().flatten().collect();
    let counts = counts.iter().map(u32::to_string).collect();
    Some((found, counts, "--vcpus"))
}

/// Returns the default number of vCPUs: one per processor, at most four, and always a number that images list.
#[must_use]
pub fn usual_vcpus(processors: usize) -> u16 {
    match processors {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use cocoon_protocol::bytes::Hex;

    use super::*;

    fn tdx(memory: &[u64]) -> Vec<TdxPlatform> {
        let platform = |&memory_mib| TdxPlatform {
            name: format!("simulated, {memory_mib} MiB"),
            memory_mib,
            vcpus: None,
            mmio64_mib: None,
            source: PlatformSource::Simulator,
            rtmr0_events: vec![],
        };
        memory.iter().map(platform).collect()
    }

    fn snp(vcpus: &[u32]) -> Vec<SnpLaunch> {
        let launch = |&vcpus| SnpLaunch {
            cpu_model: "EPYC-v4".into(),
            vcpus,
            digest: Hex([8; 48]),
        };
        vcpus.iter().map(launch).collect()
    }

    fn machine(tee: Tee, vcpus: u16, memory_mib: u32) -> Measured<'static> {
        Measured {
            tee,
            simulated: true,
            cpu_model: "EPYC-v4",
            vcpus,
            memory_mib,
            mmio64_mib: None,
        }
    }

    #[test]
    fn tdx_measures_memory_and_snp_counts_processors() {
        let (tdx, snp) = (tdx(&[2048, 1024]), snp(&[1, 2, 4]));
        let unlisted = |tee, vcpus, memory| unlisted(&tdx, &snp, machine(tee, vcpus, memory));
        assert_eq!(unlisted(Tee::Tdx, 3, 1024), None);
        assert_eq!(unlisted(Tee::SevSnp, 4, 1536), None);
        assert_eq!(
            unlisted(Tee::Tdx, 2, 1536).unwrap(),
            "the image's manifest does not list a TDX machine with 1536 MiB, and clients will reject this VM; \
             listed for --memory: 1024M, 2048M"
        );
        assert_eq!(
            unlisted(Tee::SevSnp, 3, 1024).unwrap(),
            "the image's manifest does not list an SNP machine with 3 vCPUs of model EPYC-v4, and clients will reject \
             this VM; listed for --vcpus: 1, 2, 4"
        );
    }

    #[test]
    fn an_image_for_other_hardware_says_so() {
        let other = Measured {
            cpu_model: "EPYC-Rome",
            ..machine(Tee::SevSnp, 2, 1024)
        };
        assert_eq!(
            unlisted(&[], &snp(&[1, 2, 4]), other).unwrap(),
            "the image's manifest does not list an SNP machine with 2 vCPUs of model EPYC-Rome, and clients will \
             reject this VM; its signers can add it"
        );
    }

    #[test]
    fn real_trust_domains_need_values_of_their_own() {
        let mut tdx = tdx(&[1024, 2048]);
        let real = Measured {
            simulated: false,
            ..machine(Tee::Tdx, 2, 1024)
        };
        assert_eq!(
            unlisted(&tdx, &[], real).unwrap(),
            "the image's manifest does not list a TDX machine with 1024 MiB, and clients will reject this VM; its signers \
             can add it"
        );
        tdx[1].source = PlatformSource::Computed;
        assert_eq!(
            unlisted(&tdx, &[], real).unwrap(),
            "the image's manifest does not list a TDX machine with 1024 MiB, and clients will reject this VM; listed for \
             --memory: 2048M"
        );
        tdx[0].source = PlatformSource::Computed;
        assert_eq!(unlisted(&tdx, &[], real), None);
    }

    #[test]
    fn tables_list_processors_and_the_window_for_a_gpu() {
        let mut tdx = tdx(&[1024, 2048, 2048]);
        for (platform, vcpus) in tdx.iter_mut().zip([2, 2, 4]) {
            platform.source = PlatformSource::Computed;
            platform.vcpus = Some(vcpus);
        }
        let machine = |vcpus, mmio64_mib| Measured {
            simulated: false,
            mmio64_mib,
            ..machine(Tee::Tdx, vcpus, 2048)
        };
        assert_eq!(unlisted(&tdx, &[], machine(4, None)), None);
        assert_eq!(
            unlisted(&tdx, &[], machine(3, None)).unwrap(),
            "the image's manifest does not list a TDX machine with 2048 MiB on 3 vCPUs, and clients will reject this VM; \
             listed for --vcpus: 2, 4"
        );
        let window = Some(256 << 10);
        assert_eq!(
            unlisted(&tdx, &[], machine(4, window)).unwrap(),
            "the image's manifest does not list a TDX machine with 2048 MiB, a GPU and a window of 262144 MiB for it, and \
             clients will reject this VM; its signers can add it"
        );
        tdx[1].mmio64_mib = window;
        assert_eq!(unlisted(&tdx, &[], machine(2, window)), None);
        assert_eq!(
            unlisted(&tdx, &[], machine(4, window)).unwrap(),
            "the image's manifest does not list a TDX machine with 2048 MiB, a GPU and a window of 262144 MiB for it on 4 \
             vCPUs, and clients will reject this VM; listed for --vcpus: 2"
        );
        // Simulated machines always have the simulator's platform, whatever GPU is passed through.
        let simulated = Measured {
            simulated: true,
            ..machine(3, window)
        };
        assert_eq!(unlisted(&tdx, &[], simulated), None);
    }

    #[test]
    fn the_usual_number_of_processors_is_a_listed_one() {
        let numbers: Vec<u16> = (0..7).map(usual_vcpus).collect();
        assert_eq!(numbers, [1, 1, 2, 2, 4, 4, 4]);
    }
}
