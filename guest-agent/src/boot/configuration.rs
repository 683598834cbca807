//! The host's `configure` message: parsed into types and, in a TEE, compared with the measured digest before any of it is
//! used.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::{Hex32, Hex48};
use cocoon_protocol::config::{self, ConfigError, OperatorConfig};
use cocoon_protocol::control::{CONTROL_VERSION, Configure};

use crate::sys::interface;
use crate::tee::{Platform, Tee as _, TeeError};
use crate::wait;

const INTERFACE: &str = "eth0";
const INTERFACE_DEADLINE: Duration = Duration::from_secs(10);

/// Why the host's configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    /// The host speaks another version of the control protocol.
    #[error(
        "the host speaks version {0} of the control protocol, this image version {CONTROL_VERSION}"
    )]
    Version(u16),
    /// `address` is not an IPv4 host address with a prefix of 8 to 30 bits.
    #[error("the host's `address` is not an IPv4 host address with a prefix of 8 to 30 bits")]
    Address,
    /// The machine is no TEE, and the host names no TEE to simulate.
    #[error("this machine is no TEE and the host names none to imitate")]
    NoTee,
    /// The operator's configuration does not parse.
    #[error("the host's `config` was refused")]
    Operator(#[from] ConfigError),
    /// The launch measured another configuration than the host sent.
    #[error("the host's configuration is not the one that the launch measured")]
    Mismatch,
    /// The digest that the launch measured cannot be read.
    #[error("cannot read the configuration's digest of this launch")]
    OwnReport(#[source] TeeError),
    /// A network interface cannot be brought up.
    #[error("cannot {operation} {interface}")]
    Network {
        /// Failed operation.
        operation: &'static str,
        /// Name of the interface.
        interface: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// The host's configuration, parsed and, in a TEE, compared with the measured digest.
#[derive(Debug)]
pub(super) struct Configuration {
    /// TEE of this machine, or the simulated one.
    pub tee: Kind,
    address: Ipv4Addr,
    prefix: u8,
    /// Operator's configuration: name, payout address, prices and concurrency.
    pub operator: OperatorConfig,
    /// Canonical bytes of the operator's configuration.
    pub canonical: Vec<u8>,
    /// Digest of the operator's configuration, as the launch measures it.
    pub digest: Hex48,
    /// Manifest identifier as the host states it; clients compare it with their manifest.
    pub manifest_id: Hex32,
}

/// Parses the host's configuration and, in a TEE, compares it with the measured digest. Without a TEE,
/// [`crate::attester::boot`] makes the same comparison on the simulator's evidence.
pub(super) fn check(
    configure: Configure,
    platform: &Platform,
) -> Result<Configuration, ConfigurationError> {
    let own = match platform {
        Platform::Hardware(tsm) => {
            let digest = tsm
                .own_config_digest()
                .map_err(ConfigurationError::OwnReport)?;
            Some((tsm.kind(), digest))
        }
        Platform::Plain(_) => None,
    };
    parse(configure, own)
}

fn parse(
    configure: Configure,
    own: Option<(Kind, Hex48)>,
) -> Result<Configuration, ConfigurationError> {
    if configure.version != CONTROL_VERSION {
        return Err(ConfigurationError::Version(configure.version));
    }
    let (address, prefix) = parse_address(&configure.address).ok_or(ConfigurationError::Address)?;
    let tee = own
        .map(|(kind, _)| kind)
        .or(configure.simulate)
        .ok_or(ConfigurationError::NoTee)?;
    let canonical = configure.config.0;
    let digest = config::digest(tee, &canonical);
    if own.is_some_and(|(_, measured)| measured != digest) {
        return Err(ConfigurationError::Mismatch);
    }
    let operator = OperatorConfig::parse(&canonical)?;
    Ok(Configuration {
        tee,
        address,
        prefix,
        operator,
        canonical,
        digest,
        manifest_id: configure.manifest_id,
    })
}

fn parse_address(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let host = !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast());
    (host && (8..=30).contains(&prefix)).then_some((address, prefix))
}

/// Sets the address and brings the link up. There is no route and no name server, and nothing is requested from the network.
pub(super) fn bring_up_network(configuration: &Configuration) -> Result<(), ConfigurationError> {
    let network = |operation, interface| {
        move |source| ConfigurationError::Network {
            operation,
            interface,
            source,
        }
    };
    let device = Path::new("/sys/class/net").join(INTERFACE);
    wait::until(INTERFACE_DEADLINE, || device.exists().then_some(()))
        .ok_or_else(|| network("find", INTERFACE)(io::ErrorKind::NotFound.into()))?;
    interface::up("lo").map_err(network("bring up", "lo"))?;
    interface::set_address(INTERFACE, configuration.address, configuration.prefix)
        .map_err(network("set the address of", INTERFACE))?;
    interface::up(INTERFACE).map_err(network("bring up", INTERFACE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::bytes::Blob;

    fn configure() -> Configure {
        Configure {
            version: 1,
            address: "10.0.2.15/24".into(),
            config: Blob(OperatorConfig::default().canonical()),
            manifest_id: Hex32::ZERO,
            simulate: Some(Kind::SevSnp),
            collateral: None,
        }
    }

    #[test]
    fn a_tee_decides_what_it_is_and_what_was_measured() {
        let digest = config::digest(Kind::Tdx, &configure().config.0);
        let found = parse(configure(), Some((Kind::Tdx, digest))).unwrap();
        assert_eq!((found.tee, found.digest), (Kind::Tdx, digest));
        let error = parse(configure(), Some((Kind::Tdx, Hex48::ZERO))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the host's configuration is not the one that the launch measured"
        );
    }

    #[test]
    fn each_lie_has_its_error() {
        let refused = |configure| parse(configure, None).unwrap_err().to_string();
        assert_eq!(
            refused(Configure {
                version: 2,
                ..configure()
            }),
            "the host speaks version 2 of the control protocol, this image version 1"
        );
        for address in [
            "",
            "10.0.2.15",
            "10.0.2.15/31",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "0.0.0.0/8",
            "::1/24",
            "1.2.3.4/-1",
        ] {
            assert_eq!(
                refused(Configure {
                    address: address.into(),
                    ..configure()
                }),
                "the host's `address` is not an IPv4 host address with a prefix of 8 to 30 bits"
            );
        }
        assert_eq!(
            refused(Configure {
                simulate: None,
                ..configure()
            }),
            "this machine is no TEE and the host names none to imitate"
        );
        assert_eq!(
            refused(Configure {
                config: Blob(b"{}".to_vec()),
                ..configure()
            }),
            "the host's `config` was refused"
        );
    }
}
