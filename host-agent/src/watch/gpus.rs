//! What the host knows about an appliance's GPUs.
//!
//! A GPU that is passed through belongs to its guest, and only the guest's driver knows its memory and temperature. The
//! guest reports them with its counters, but in confidential-computing mode the driver may refuse to tell. The host sees
//! what the kernel shows of any PCI function, and a temperature only if the host's driver for it reports one (`hwmon`),
//! which vfio-pci does not. Unknown values are absent, never zero.

use cocoon_protocol::gpu::GpuMetrics;
use cocoon_qemu::PciAddress;
use serde::{Deserialize, Serialize};

use crate::doctor::facts::{DEVICES, model};
use crate::doctor::source::Files;

/// Address shown for a simulated GPU.
pub const SIMULATED: &str = "simulated";

/// A GPU of an appliance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuUse {
    /// PCI address on the host; [`SIMULATED`] for a simulated GPU.
    pub address: String,
    /// Model, if it is a known one with a confidential mode.
    pub model: Option<String>,
    /// Host driver that is bound to it.
    pub driver: Option<String>,
    /// Size of its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Temperature, in degrees Celsius.
    pub temperature_celsius: Option<f64>,
}

impl GpuUse {
    /// Returns an appliance's GPUs: the one at `address`, or those that the guest of a `simulated` TEE simulates. `told`
    /// holds what the guest reports about them.
    #[must_use]
    pub fn all(
        files: &dyn Files,
        address: Option<PciAddress>,
        simulated: bool,
        told: &[GpuMetrics],
    ) -> Vec<Self> {
        let mut gpus: Vec<Self> = match address {
            Some(address) => vec![Self::read(files, address)],
            None if simulated => told.iter().map(|_| Self::imitated()).collect(),
            // Reports of a guest that was given no GPU are ignored.
            None => vec![],
        };
        // The guest's order; for a single GPU it is also the host's.
        for (gpu, told) in gpus.iter_mut().zip(told) {
            gpu.hear(told);
        }
        gpus
    }

    fn imitated() -> Self {
        Self {
            address: SIMULATED.to_owned(),
            model: None,
            driver: None,
            memory_bytes: None,
            memory_used_bytes: None,
            temperature_celsius: None,
        }
    }

    /// Takes over the guest's values and ignores impossible ones.
    fn hear(&mut self, told: &GpuMetrics) {
        let used = told.memory_used_bytes;
        let fits = |used: &u64| told.memory_bytes.is_none_or(|all| *used <= all);
        self.memory_bytes = told.memory_bytes;
        self.memory_used_bytes = used.filter(fits);
        if let Some(degrees) = told.temperature_celsius {
            self.temperature_celsius = Some(degrees.into());
        }
    }

    /// Reads what is known about the GPU at `address` from files alone. The GPU may belong to a guest, so it is not
    /// queried, and QEMU may be about to open its IOMMU group, so that is not opened.
    #[must_use]
    pub fn read(files: &dyn Files, address: PciAddress) -> Self {
        let file = |name: &str| files.text(&format!("{DEVICES}/{address}/{name}"));
        let device = file("device").and_then(|text| {
            let digits = text.strip_prefix("0x")?.to_owned();
            u16::from_str_radix(&digits, 16).ok()
        });
        Self {
            address: address.to_string(),
            model: device.and_then(model).map(str::to_owned),
            driver: files.link(&format!("{DEVICES}/{address}/driver")),
            memory_bytes: None,
            memory_used_bytes: None,
            temperature_celsius: temperature(files, address),
        }
    }
}

/// Returns the temperature in degrees Celsius, from `temp1_input` of `hwmon` in thousandths of a degree.
fn temperature(files: &dyn Files, address: PciAddress) -> Option<f64> {
    let folder = format!("{DEVICES}/{address}/hwmon");
    let names = files.list(&folder);
    let text = names
        .iter()
        .find_map(|name| files.text(&format!("{folder}/{name}/temp1_input")))?;
    let thousandths: i32 = text.parse().ok()?;
    Some(f64::from(thousandths) / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::doctor::source::Refusal;

    /// A machine of a few files. A link is a file that holds the last component of its target.
    struct Few(BTreeMap<&'static str, &'static str>);

    impl Files for Few {
        fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
            let text = self.0.get(path.trim_start_matches(DEVICES));
            text.map(|text| text.as_bytes().to_vec())
                .ok_or(Refusal::NotFound)
        }

        fn list(&self, path: &str) -> Vec<String> {
            let folder = format!("{}/", path.trim_start_matches(DEVICES));
            let below = self
                .0
                .keys()
                .filter_map(|key| key.strip_prefix(folder.as_str()));
            below
                .filter_map(|rest| Some(rest.split('/').next()?.to_owned()))
                .collect()
        }

        fn link(&self, path: &str) -> Option<String> {
            self.text(path)
        }

        fn open(&self, path: &str) -> Result<(), Refusal> {
            panic!("{path} is opened")
        }
    }

    #[test]
    fn a_guests_gpu_shows_what_it_is_and_no_more() {
        let address: PciAddress = "0000:17:00.0".parse().unwrap();
        let mut files = Few(BTreeMap::from([
            ("/0000:17:00.0/device", "0x2330"),
            ("/0000:17:00.0/driver", "vfio-pci"),
        ]));
        let gpu = GpuUse::read(&files, address);
        assert_eq!(gpu.model.as_deref(), Some("H100 SXM5 80 GB"));
        assert_eq!(gpu.driver.as_deref(), Some("vfio-pci"));
        assert_eq!((gpu.memory_bytes, gpu.temperature_celsius), (None, None));
        files
            .0
            .insert("/0000:17:00.0/hwmon/hwmon3/temp1_input", "41500");
        assert_eq!(
            GpuUse::read(&files, address).temperature_celsius,
            Some(41.5)
        );
        let told = GpuMetrics {
            memory_bytes: Some(80 << 30),
            memory_used_bytes: Some(3 << 30),
            temperature_celsius: None,
        };
        let all =
            |address, simulated, told: &[GpuMetrics]| GpuUse::all(&files, address, simulated, told);
        let [gpu] = &all(Some(address), false, &[told])[..] else {
            panic!("not one GPU")
        };
        assert_eq!(gpu.model.as_deref(), Some("H100 SXM5 80 GB"));
        let memory = (gpu.memory_used_bytes, gpu.memory_bytes);
        assert_eq!(memory, (Some(3 << 30), Some(80 << 30)));
        // The host's value is kept if the guest reports none, and replaced by the guest's otherwise.
        assert_eq!(gpu.temperature_celsius, Some(41.5));
        let hot = GpuMetrics {
            temperature_celsius: Some(64),
            // More than the GPU has.
            memory_used_bytes: Some(81 << 30),
            ..told
        };
        let [gpu] = &all(Some(address), false, &[hot, told])[..] else {
            panic!("it has one, whatever its guest says")
        };
        assert_eq!(gpu.temperature_celsius, Some(64.0));
        assert_eq!(gpu.memory_used_bytes, None);
        // This guest was given no GPU.
        assert_eq!(all(None, false, &[told]), []);
        let [one, other] = &all(None, true, &[told, hot])[..] else {
            panic!("not two GPUs")
        };
        assert_eq!((&*one.address, &one.model), (SIMULATED, &None));
        assert_eq!(one.memory_used_bytes, Some(3 << 30));
        assert_eq!(other.temperature_celsius, Some(64.0));
        let gone = GpuUse::read(&files, "0000:18:00.0".parse().unwrap());
        assert_eq!((gone.model, gone.driver), (None, None));
    }
}
