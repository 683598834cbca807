//! Explanations of RTMR0's events: what each hashes, what usually changes it, and what to do about it.
//!
//! Events are identified by the names in the manifest. They select explanations only, and decide nothing.

/// Explanation of one event.
pub(super) struct Explained {
    /// The likeliest cause of a difference, and what the event hashes.
    pub(super) cause: String,
    pub(super) advice: &'static str,
}

/// Returns the explanation of the event called `name`.
pub(super) fn explain(name: &str) -> Explained {
    let name = name.to_ascii_lowercase();
    let found = TABLE
        .iter()
        .find(|event| event.words.iter().any(|word| name.contains(word)));
    let (cause, hashes, advice) = found.map_or(
        (
            OTHER_EVENT,
            "what its name says",
            super::rtmr::PLATFORM_ADVICE,
        ),
        |event| (event.cause, event.hashes, event.advice),
    );
    Explained {
        cause: format!("{cause}; this event hashes {hashes}"),
        advice,
    }
}

struct Event {
    /// Texts of which the event's name contains at least one, in lower case.
    words: &'static [&'static str],
    hashes: &'static str,
    cause: &'static str,
    advice: &'static str,
}

/// All explanations. The first match counts, so single settings precede the entry for all settings.
const TABLE: [Event; 13] = [
    Event {
        words: &["hand-off", "memory map"],
        hashes: "the RAM ranges that QEMU hands to the firmware",
        cause: "the VM has another amount of memory than the manifest's shape",
        advice: "the operator starts the VM with an amount of memory that the manifest names",
    },
    Event {
        words: &["variable store"],
        hashes: "the firmware file's variable store, byte for byte",
        cause: VARSTORE,
        advice: VARSTORE_ADVICE,
    },
    Event {
        words: &[
            "variable secureboot",
            "variable pk",
            "variable kek",
            "variable db",
        ],
        hashes: "one secure-boot variable as the firmware reads it",
        cause: VARSTORE,
        advice: VARSTORE_ADVICE,
    },
    Event {
        words: &["setting bootorder"],
        hashes: "QEMU's list of boot devices",
        cause: "QEMU was given another boot order: a device with a bootindex, or no -kernel",
        advice: SETTING_ADVICE,
    },
    Event {
        words: &["setting bootmenu", "setting etc/boot-menu"],
        hashes: "whether and how long a boot menu is shown",
        cause: "QEMU was given -boot menu=on, or a time for it",
        advice: SETTING_ADVICE,
    },
    Event {
        words: &["setting etc/reserved-memory-end"],
        hashes: "where memory for hot-plugging ends",
        cause: "QEMU was given room for more memory (-m with maxmem, or CXL)",
        advice: SETTING_ADVICE,
    },
    Event {
        words: &["setting etc/extra-pci-roots"],
        hashes: "the number of further PCI root buses",
        cause: "QEMU was given PCI expander bridges (pxb), as hosts do that pass GPUs through",
        advice: GPU_ADVICE,
    },
    Event {
        words: &["pcimmio64mb"],
        hashes: "the size of the 64-bit PCI window that the host asks for",
        cause: "the host asks for another PCI window, as is done for the large BARs of GPUs",
        advice: GPU_ADVICE,
    },
    Event {
        words: &["qemu setting"],
        hashes: "one of QEMU's settings for the firmware",
        cause: "QEMU passes other settings to the firmware",
        advice: SETTING_ADVICE,
    },
    Event {
        words: &["acpi"],
        hashes: "ACPI tables as QEMU generated them",
        cause: "QEMU generated other ACPI tables, which hold code that the guest runs: another QEMU version, machine type, vCPU \
                count, memory size or device list, or a GPU whose BARs move the PCI window",
        advice: TABLES_ADVICE,
    },
    Event {
        words: &["smbios"],
        hashes: "the SMBIOS tables without serial numbers",
        cause: "QEMU generated other SMBIOS tables: another QEMU version, vCPU count or memory size, or -smbios was given",
        advice: TABLES_ADVICE,
    },
    Event {
        words: &["boot0", "bootorder"],
        hashes: "one of the firmware's boot options",
        cause: "the firmware has other boot options: another firmware build, or a bootable device was added",
        advice: "the operator starts the VM with the release's own OVMF.tdx.fd and no further devices",
    },
    Event {
        words: &["separator"],
        hashes: "four zero bytes, after a failure of the firmware one of them",
        cause: "the firmware reports an error, or it is another release that separates other steps (edk2 before stable202411)",
        advice: VARSTORE_ADVICE,
    },
];

const VARSTORE: &str = "the firmware's variable store was changed: secure-boot keys or settings that the image does not have";
const VARSTORE_ADVICE: &str =
    "the operator starts the VM with the release's own OVMF.tdx.fd, given as -bios";
const SETTING_ADVICE: &str =
    "the operator starts the VM with this release's cocoon-host, without settings of their own";
const GPU_ADVICE: &str = "the operator starts the VM without passed-through devices, or with those of a shape that the manifest names";
const TABLES_ADVICE: &str = "the operator starts the VM with the QEMU version, vCPU count, memory and devices of a shape that the manifest names";
const OTHER_EVENT: &str =
    "the firmware measured something else in this place: another firmware release";

#[cfg(test)]
mod tests {
    use super::explain;

    /// Every name that `tdx::rtmr0` gives has an explanation of its own.
    #[test]
    fn each_event_is_known() {
        for (name, cause) in [
            (
                "memory map (TD hand-off block, 8 MiB)",
                "the VM has another amount of memory",
            ),
            (
                "variable store (CFV)",
                "the firmware's variable store was changed",
            ),
            (
                "variable SecureBoot",
                "the firmware's variable store was changed",
            ),
            ("variable dbx", "the firmware's variable store was changed"),
            (
                "QEMU setting bootorder",
                "QEMU was given another boot order",
            ),
            ("QEMU setting BootMenu", "QEMU was given -boot menu=on"),
            (
                "QEMU setting etc/boot-menu-wait",
                "QEMU was given -boot menu=on",
            ),
            (
                "QEMU setting etc/reserved-memory-end",
                "QEMU was given room for more memory",
            ),
            (
                "QEMU setting etc/extra-pci-roots",
                "QEMU was given PCI expander bridges",
            ),
            (
                "QEMU setting opt/ovmf/X-PciMmio64Mb",
                "the host asks for another PCI window",
            ),
            ("QEMU setting new", "QEMU passes other settings"),
            ("ACPI tables", "QEMU generated other ACPI tables"),
            ("SMBIOS tables", "QEMU generated other SMBIOS tables"),
            ("variable BootOrder", "the firmware has other boot options"),
            ("variable Boot0000", "the firmware has other boot options"),
            ("separator", "the firmware reports an error"),
            (
                "something new",
                "the firmware measured something else in this place",
            ),
        ] {
            let explained = explain(name);
            assert!(
                explained.cause.starts_with(cause),
                "{name}: {}",
                explained.cause
            );
            assert!(explained.cause.contains("; this event hashes "));
            assert!(explained.advice.starts_with("the operator") || name == "something new");
        }
    }
}
