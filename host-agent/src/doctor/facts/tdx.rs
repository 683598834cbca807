//! The host's support for TDX: firmware, kernel, module and quoting.
//!
//! Sources: the kernel's `Documentation/arch/x86/tdx.rst` (log messages, hibernation),
//! `Documentation/ABI/testing/sysfs-devices-faux-tdx-host` (version of the module), KVM's module parameter `tdx`, Intel's
//! DCAP (`qgs.conf`, `sgx_default_qcnl.conf`) and, for the platform's registration, the UEFI variable documented by Intel's
//! SGX software infrastructure.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::source::{Peer, Refusal, World};
use super::host::Kernel;
use super::parameter;

/// Socket of Intel's quote generation service with `port=0`, the configuration of its package.
pub const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
/// Default vsock port of the service.
const QGS_PORT: u32 = 4050;
/// Context id of the host in vsock.
const HOST_CID: u32 = 2;

/// IA32_TME_ACTIVATE, bit 1: memory encryption is on.
const TME_ACTIVATE: u32 = 0x982;
/// IA32_SEAMRR_PHYS_MASK, bit 11: the TDX module's memory range is on.
const SEAMRR_MASK: u32 = 0x1401;
/// IA32_MKTME_KEYID_PARTITIONING, upper half: the number of TDX's private keys.
const KEY_PARTITIONING: u32 = 0x87;

/// UEFI variable in which the BIOS reports the platform's registration with Intel.
const REGISTRATION: &str =
    "/sys/firmware/efi/efivars/SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45";

/// The BIOS's settings, as far as model-specific registers show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Whether memory encryption is on.
    pub memory_encryption: bool,
    /// Whether memory is reserved for the TDX module.
    pub module_range: bool,
    /// Number of encryption keys for trust domains.
    pub private_keys: u64,
}

/// The quote generation service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quotes {
    /// Address at which the service is configured to listen.
    pub at: Peer,
    /// Whether the service accepts connections there.
    pub answers: Result<(), Refusal>,
}

/// Whether the platform is registered with Intel. Quotes of an unregistered platform cannot be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// The BIOS does not report it.
    Unknown,
    /// Registration is under way, or was never done.
    Pending,
    /// The platform is registered.
    Complete,
    /// Registration failed with this error code.
    Error(u8),
}

/// The host's support for TDX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    /// The BIOS's settings; `None` if the registers cannot be read.
    pub registers: Option<Registers>,
    /// Whether the kernel's log says that private keys exist; `None` if the log cannot be read.
    pub keys_in_log: Option<bool>,
    /// KVM's parameter `tdx`; `None` if KVM has no TDX support or is not loaded.
    pub kvm: Option<bool>,
    /// Whether hibernation is possible, with which the kernel does not start TDX.
    pub hibernation: bool,
    /// The kernel's last log message about the module.
    pub module_log: Option<String>,
    /// Version of the module, if the kernel shows it.
    pub module: Option<String>,
    /// SGX devices that do not exist, although the quoting enclave needs them.
    pub sgx_missing: Vec<&'static str>,
    /// Whether `/dev/vsock` can be opened.
    pub vsock: Result<(), Refusal>,
    /// The quote generation service.
    pub quotes: Quotes,
    /// Address of the local cache of Intel's certificates (PCCS), and whether it answers; `None` if there is none.
    pub certificates: Option<(String, Result<(), Refusal>)>,
    /// Registration of the platform with Intel.
    pub registration: Registration,
}

impl Tdx {
    pub(super) fn read(world: &dyn World, kernel: &Kernel) -> Self {
        let at = quote_service(&world.text("/etc/qgs.conf").unwrap_or_default());
        let disk = world.text("/sys/power/disk").unwrap_or_default();
        let module_log = (kernel.log.as_ref()).and_then(|lines| {
            let said = lines
                .iter()
                .rev()
                .filter(|line| line.contains("virt/tdx: "));
            let mut said = said.filter(|line| !line.contains("KBs allocated"));
            said.next().map(|line| {
                let begin = line.find("virt/tdx: ").unwrap_or_default();
                line[begin..].to_owned()
            })
        });
        let registers = |world: &dyn World| {
            Some(Registers {
                memory_encryption: world.msr(TME_ACTIVATE)? >> 1 & 1 == 1,
                module_range: world.msr(SEAMRR_MASK)? >> 11 & 1 == 1,
                private_keys: world.msr(KEY_PARTITIONING)? >> 32,
            })
        };
        let keys = |log: &Vec<String>| {
            log.iter()
                .any(|line| line.contains("virt/tdx: BIOS enabled: private KeyID range"))
        };
        Self {
            registers: registers(world),
            keys_in_log: kernel.log.as_ref().map(keys),
            kvm: parameter(world, "kvm_intel", "tdx"),
            hibernation: !disk.is_empty() && !disk.contains("[disabled]"),
            module_log,
            module: world.text("/sys/devices/faux/tdx_host/version"),
            sgx_missing: ["/dev/sgx_enclave", "/dev/sgx_provision"]
                .into_iter()
                .filter(|path| world.open(path) == Err(Refusal::NotFound))
                .collect(),
            vsock: world.open("/dev/vsock"),
            quotes: Quotes {
                answers: world.connect(&at),
                at,
            },
            certificates: certificates(world),
            registration: registration(world.read(REGISTRATION).ok().as_deref()),
        }
    }
}

/// Returns where `qgs.conf` lets the service listen.
fn quote_service(configuration: &str) -> Peer {
    let port = configuration
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "port")
        .map_or(Some(0), |(_, value)| value.trim().parse().ok());
    match port {
        // Also without the file: the package is not installed then, and nothing listens.
        Some(0) => Peer::Unix(QGS_SOCKET.into()),
        port => Peer::Vsock {
            cid: HOST_CID,
            port: port.unwrap_or(QGS_PORT),
        },
    }
}

/// Examines the certificate cache (PCCS) that the quote provider is configured for, if it is on this machine.
fn certificates(world: &dyn World) -> Option<(String, Result<(), Refusal>)> {
    // JSON with comments, of which only the address is needed.
    let text = world.text("/etc/sgx_default_qcnl.conf")?;
    let active = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let url = active
        .filter_map(|line| line.split_once("\"pccs_url\""))
        .find_map(|(_, rest)| rest.split('"').nth(1))?
        .to_owned();
    let authority = url.split("://").nth(1)?.split('/').next()?;
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let local = matches!(host, "localhost" | "127.0.0.1");
    // A remote service is not contacted.
    let port = port.parse().ok().filter(|_| local)?;
    let answers = world.connect(&Peer::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    Some((url, answers))
}

/// Parses the variable after the four bytes of attributes that efivarfs puts first: version, size, status (bit 0:
/// registration complete), error code.
fn registration(variable: Option<&[u8]>) -> Registration {
    let Some([_, _, _, _, 1, 0, _, _, status, _, error]) = variable else {
        return Registration::Unknown;
    };
    match (*error, status & 1) {
        (0, 1) => Registration::Complete,
        (0, _) => Registration::Pending,
        (error, _) => Registration::Error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quote_service_is_where_its_configuration_says() {
        let socket = Peer::Unix(QGS_SOCKET.into());
        let vsock = |port| Peer::Vsock { cid: 2, port };
        for (text, expected) in [
            ("", socket.clone()),
            ("port=0\n", socket),
            ("port = 4050\nnumber_threads = 4\n", vsock(4050)),
            ("#port=0\nport=5000", vsock(5000)),
            ("port=many", vsock(4050)),
        ] {
            assert_eq!(quote_service(text), expected, "{text:?}");
        }
    }

    #[test]
    fn registration_is_read_from_its_variable() {
        let variable = |status, error| [7, 0, 0, 0, 1, 0, 3, 0, status, 0, error];
        assert_eq!(registration(None), Registration::Unknown);
        assert_eq!(registration(Some(&[7, 0, 0, 0])), Registration::Unknown);
        let newer = [7, 0, 0, 0, 2, 0, 3, 0, 3, 0, 0];
        assert_eq!(registration(Some(&newer)), Registration::Unknown);
        assert_eq!(registration(Some(&variable(2, 0))), Registration::Pending);
        assert_eq!(registration(Some(&variable(3, 0))), Registration::Complete);
        assert_eq!(
            registration(Some(&variable(0, 0x85))),
            Registration::Error(0x85)
        );
    }
}
