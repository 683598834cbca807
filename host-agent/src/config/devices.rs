//! The parts of the machine that an appliance has for itself: network, placement and GPU.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use cocoon_qemu::spec::{GUEST_ADDRESS, HugePages, Placement};
use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::reader::{Report, Table, Wrong, described};
use super::schema::At;
use super::values::{self, flag, one_of, path};

const NETWORK: [&str; 6] = ["mode", "device", "address", "vhost", "socket", "relay"];
const PLACEMENT: [&str; 2] = ["hugepages", "numa_nodes"];
const MODES: [(&str, Mode); 3] = [
    ("user", Mode::User),
    ("tap", Mode::Tap),
    ("passt", Mode::Passt),
];
const HUGEPAGES: [(&str, Option<HugePages>); 3] = [
    ("none", None),
    ("2M", Some(HugePages::TwoMib)),
    ("1G", Some(HugePages::OneGib)),
];
/// Allowed node numbers; no machine has more nodes.
const NODES: std::ops::RangeInclusive<u32> = 0..=1023;

/// The network over which the relay reaches the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// QEMU's user-mode network.
    #[default]
    User,
    /// A TAP device that the operator created.
    Tap {
        /// Name of the device.
        device: String,
        /// The guest's address. The host has another address of the same network on the device.
        address: GuestAddress,
        /// Whether the kernel moves the packets (vhost); `None` for where it can.
        vhost: Option<bool>,
    },
    /// A passt process that the operator started.
    Passt {
        /// Socket on which passt listens for QEMU.
        socket: PathBuf,
        /// Address on which passt listens for the relay; it forwards to the guest's port 8443.
        relay: SocketAddr,
        /// The guest's address, as configured in passt.
        address: GuestAddress,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    User,
    Tap,
    Passt,
}

/// An IPv4 address with its network's prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestAddress {
    /// The IPv4 address.
    pub ip: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
}

impl Default for GuestAddress {
    /// The guest's address on QEMU's user-mode network.
    fn default() -> Self {
        let ([a, b, c, d], prefix) = GUEST_ADDRESS;
        let ip = Ipv4Addr::new(a, b, c, d);
        Self { ip, prefix }
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for GuestAddress {
    type Err = String;

    /// Accepts a host address in a private or link-local network of at least four addresses; others are likely mistakes.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (ip, prefix) = text.split_once('/')?;
            let (ip, prefix) = (ip.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
            let host = u32::MAX.checked_shr(prefix.into())?;
            let part = u32::from(ip) & host;
            let usable = (8..=30).contains(&prefix) && part != 0 && part != host;
            let inside = ip.is_private() || ip.is_link_local();
            (usable && inside).then_some(Self { ip, prefix })
        };
        parsed().ok_or_else(|| format!("{text:?} is no address such as 10.77.1.2/30"))
    }
}

impl TryFrom<String> for GuestAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GuestAddress> for String {
    fn from(address: GuestAddress) -> Self {
        address.to_string()
    }
}

impl Network {
    /// The guest's address on this network.
    #[must_use]
    pub fn guest(&self) -> GuestAddress {
        match self {
            Self::User => GuestAddress::default(),
            Self::Tap { address, .. } | Self::Passt { address, .. } => *address,
        }
    }
}

/// The devices of one appliance, with the positions at which conflicts are reported.
pub(super) struct Devices {
    pub(super) network: At<Network>,
    pub(super) placement: Placement,
    pub(super) hugepages_at: usize,
    pub(super) nodes_at: usize,
}

pub(super) fn devices(appliance: &Table<'_, '_>, report: &mut Report<'_>) -> Devices {
    let network = network(appliance, report);
    let table = appliance.table(report, "placement", &PLACEMENT);
    let hugepages = table.optional(report, "hugepages", hugepages);
    let nodes = table.optional(report, "numa_nodes", nodes);
    Devices {
        network,
        hugepages_at: hugepages.as_ref().map_or(0, |(_, at)| *at),
        nodes_at: nodes.as_ref().map_or(0, |(_, at)| *at),
        placement: Placement {
            hugepages: hugepages.and_then(|(size, _)| size),
            nodes: nodes.map(|(nodes, _)| nodes).unwrap_or_default(),
        },
    }
}

fn network(appliance: &Table<'_, '_>, report: &mut Report<'_>) -> At<Network> {
    let table = appliance.table(report, "network", &NETWORK);
    let mode = table.optional(report, "mode", |value| one_of(value, &MODES));
    let (mode, at) = mode.unwrap_or((Mode::User, 0));
    for (key, only, name) in [
        ("device", Mode::Tap, "tap"),
        ("vhost", Mode::Tap, "tap"),
        ("socket", Mode::Passt, "passt"),
        ("relay", Mode::Passt, "passt"),
    ] {
        if table.has(key) && mode != only {
            let words = format!("only a network with mode = {name:?} has one");
            table.wrong(report, key, Wrong::because(words));
        }
    }
    let usual = GuestAddress::default();
    let network = match mode {
        Mode::User => {
            if table.has("address") {
                let words = format!("on QEMU's own network the guest is always {usual}");
                table.wrong(report, "address", Wrong::because(words));
            }
            Some(Network::User)
        }
        Mode::Tap => {
            let device = table.required(report, "device", "\"cocoon0\"", device);
            let address = table.required(report, "address", "\"10.77.1.2/30\"", guest_address);
            let vhost = table
                .optional(report, "vhost", flag)
                .map(|(vhost, _)| vhost);
            device
                .zip(address)
                .map(|((device, _), (address, _))| Network::Tap {
                    device,
                    address,
                    vhost,
                })
        }
        Mode::Passt => {
            let socket = table.required(report, "socket", "\"/run/passt/first.sock\"", path);
            let relay = table.required(report, "relay", "\"127.0.0.1:18443\"", relay);
            let address = table.optional(report, "address", guest_address);
            let address = address.map_or(usual, |(address, _)| address);
            socket
                .zip(relay)
                .map(|((socket, _), (relay, _))| Network::Passt {
                    socket,
                    relay,
                    address,
                })
        }
    };
    // Missing values have been reported.
    (network.unwrap_or_default(), at)
}

fn device(value: &DeValue<'_>) -> Result<String, Wrong> {
    let allowed = "the name of a network device: 1 to 15 letters, digits, '-', '_' or '.', beginning with a letter";
    let wrong = || Wrong::found(&described(value), allowed);
    let name = value.as_str().ok_or_else(wrong)?;
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = name.len() <= 15 && name.starts_with(|c: char| c.is_ascii_alphabetic());
    (fits && name.chars().all(known))
        .then(|| name.to_owned())
        .ok_or_else(wrong)
}

fn guest_address(value: &DeValue<'_>) -> Result<GuestAddress, Wrong> {
    let allowed = "a private IPv4 address with its network's prefix, such as \"10.77.1.2/30\"";
    let wrong = || Wrong::found(&described(value), allowed);
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(wrong)
}

/// Accepts loopback addresses only: on another interface, anybody could bypass the public listener and its limits.
fn relay(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let address = values::address(value)?;
    let allowed = "a loopback address that passt listens on, such as \"127.0.0.1:18443\"";
    let fits = address.ip().is_loopback() && address.port() != 0;
    fits.then_some(address)
        .ok_or_else(|| Wrong::found(&described(value), allowed))
}

fn hugepages(value: &DeValue<'_>) -> Result<Option<HugePages>, Wrong> {
    if value.as_str() == Some("transparent") {
        let words = "transparent huge pages are the kernel's affair, and on with \"none\" where they are on at all";
        return Err(Wrong {
            suggestion: Some("\"none\"".to_owned()),
            ..Wrong::because(words)
        });
    }
    one_of(value, &HUGEPAGES)
}

fn nodes(value: &DeValue<'_>) -> Result<Vec<u32>, Wrong> {
    let allowed = "numbers of NUMA nodes, each once, such as [0]";
    let wrong = || Wrong::found(&described(value), allowed);
    let DeValue::Array(array) = value else {
        return Err(wrong());
    };
    let mut nodes = vec![];
    for entry in array.iter() {
        let node = values::number(NODES)(entry.get_ref())?;
        if nodes.contains(&node) {
            return Err(Wrong::because(format!("node {node} stands there twice")));
        }
        nodes.push(node);
    }
    nodes.sort_unstable();
    Ok(nodes)
}
