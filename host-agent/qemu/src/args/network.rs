//! The network card and its backend.

use super::{Args, VIRTIO};
use crate::spec::{GUEST_ADDRESS, Network, SpecError};
use crate::text::{escaped, name, range, socket_path};

/// The card's MAC address where it is alone on its network. It is fixed, so that nothing that the guest sees depends on the
/// run.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// Longest name of a network device, in bytes (`IFNAMSIZ` without its final NUL).
const DEVICE_MAX: usize = 15;

/// Time before QEMU reconnects to the network's socket, in milliseconds. The option exists since QEMU 9.2.
const RECONNECT_MS: u32 = 1000;

pub(super) fn card(args: &mut Args, network: &Network) -> Result<(), SpecError> {
    let mac = match network {
        Network::User {
            host_port,
            guest_port,
        } => {
            range("guest_port", (*guest_port).into(), 1, 65535)?;
            let [a, b, c, d] = GUEST_ADDRESS.0;
            args.add(
                "-netdev",
                format!(
                    "user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{host_port}-{a}.{b}.{c}.{d}:{guest_port}"
                ),
                "no root needed; the guest can open no connection, only answer on one loopback port",
            );
            MAC
        }
        Network::Tap { device, vhost, mac } => {
            let device = name("tap device", device, DEVICE_MAX)?;
            let vhost = if *vhost { "on" } else { "off" };
            args.add(
                "-netdev",
                format!("tap,id=net0,ifname={device},script=no,downscript=no,vhost={vhost}"),
                "a device that the operator made; no script runs, and its routes and rules are the operator's",
            );
            *mac
        }
        Network::Passt { socket } => {
            let socket = escaped("passt socket", socket_path("passt socket", socket)?)?;
            args.add(
                "-netdev",
                format!(
                    "stream,id=net0,server=off,addr.type=unix,addr.path={socket},reconnect-ms={RECONNECT_MS}"
                ),
                "a passt of the operator's, which forwards what it was told to, and may be started again",
            );
            MAC
        }
    };
    let [a, b, c, d, e, f] = mac;
    args.add(
        "-device",
        format!(
            "virtio-net-pci,netdev=net0,mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x},romfile=,{VIRTIO}"
        ),
        "fixed address; no option ROM, which would be host code run before the kernel",
    );
    Ok(())
}
