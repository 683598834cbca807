//! The devices of this machine that a VM gets, as QEMU's settings, or what is missing for them.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use cocoon_protocol::control::GUEST_PORT;
use cocoon_qemu::qmp::{Event, QmpError};
use cocoon_qemu::spec::{self, Placement, VmSpec};
use cocoon_qemu::{PciAddress, Qmp};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use crate::config::Network;
use crate::doctor::facts::{Gpu, Gpus, Look, Modes};
use crate::doctor::real::Real;
use crate::error::UpError;
use crate::gpu::{self, RealHands};
use crate::tee;
use crate::up::UpOptions;

/// If this device can be opened, the kernel can move packets.
const VHOST: &str = "/dev/vhost-net";
/// The kernel's folder of network devices.
const DEVICES: &str = "/sys/class/net";

/// The devices that a VM gets.
pub(crate) struct Given {
    network: spec::Network,
    placement: Placement,
    gpu: Option<spec::Gpu>,
}

/// How long a VM that has just ended may still hold its GPU. The kernel reclaims memory page by page, and private memory more
/// slowly ([`tee::reclaim`]).
const RELEASE: Duration = Duration::from_secs(30);
/// Interval between two checks.
const AGAIN: Duration = Duration::from_millis(200);

impl Given {
    /// Finds the devices that `options` name. `say` is told what is waited for.
    ///
    /// # Errors
    /// Fails if a device is missing or not ready, with a remedy.
    pub(crate) async fn find(options: &UpOptions, say: impl Fn(&str)) -> Result<Self, UpError> {
        let has = |path: &str| Path::new(path).exists();
        let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
        let gpu = match options.gpu {
            None => None,
            Some(address) => {
                // An appliance keeps its GPU, so the VM before it had as much memory to reclaim.
                let limit = RELEASE + tee::reclaim(options.tee, options.memory_mib);
                Some(gpu::given(&released(address, limit, say).await?, address)?)
            }
        };
        Ok(Self {
            network: network(&options.network, has, opens)?,
            placement: options.placement.clone(),
            gpu,
        })
    }

    /// Resets the GPU for the one attach that follows, just before QEMU starts. Returns a sentence for the operator.
    ///
    /// # Errors
    /// Fails if the GPU cannot be reset.
    pub(crate) async fn refresh(&self) -> Result<Option<String>, UpError> {
        let Some(address) = self.gpu.as_ref().map(|gpu| gpu.address) else {
            return Ok(None);
        };
        let reset = move || {
            gpu::fresh(
                &Gpus::read(&Real, Look::Nowhere, Modes::Ignored),
                address,
                &RealHands,
            )
        };
        let reset = tokio::task::spawn_blocking(reset).await;
        let fresh = reset.map_err(|_| UpError::Lost)??;
        Ok(Some(format!("the GPU {address} {}", fresh.words())))
    }

    /// Returns the size of the firmware's window for the GPU's BARs in MiB, if there is a GPU.
    pub(crate) fn mmio64_mib(&self) -> Option<u32> {
        self.gpu.map(|gpu| gpu.mmio64_mib)
    }

    pub(crate) fn attach(self, spec: &mut VmSpec) {
        spec.network = Some(self.network);
        spec.placement = self.placement;
        spec.gpu = self.gpu;
    }
}

/// Waits until nothing uses the GPU at `address`, but no longer than `limit`. Returns the state of the GPUs.
async fn released(
    address: PciAddress,
    limit: Duration,
    say: impl Fn(&str),
) -> Result<Gpus, UpError> {
    let began = Instant::now();
    let mut said = false;
    loop {
        // Nothing is asked of the GPU itself. Only a panic in `Gpus::read`, which would be a bug, can fail here.
        let gpus = move || Gpus::read(&Real, Look::At(address), Modes::Ignored);
        let gpus = tokio::task::spawn_blocking(gpus);
        let gpus = gpus.await.map_err(|_| UpError::Lost)?;
        let used = |gpu: &Gpu| gpu.address == address && gpu.in_use;
        if !gpus.all.iter().any(used) || began.elapsed() > limit {
            return Ok(gpus);
        }
        if !said {
            say(&format!(
                "the GPU {address} is another VM's, or the kernel has not taken it back yet: waiting for up to {} s",
                limit.as_secs()
            ));
            said = true;
        }
        sleep(AGAIN).await;
    }
}

/// Returns QEMU's settings of the network. `has` tells whether a path exists, `opens` whether a device can be opened.
fn network(
    wanted: &Network,
    has: impl Fn(&str) -> bool,
    opens: impl Fn(&str) -> bool,
) -> Result<spec::Network, UpError> {
    Ok(match wanted {
        Network::User => spec::Network::User {
            host_port: 0,
            guest_port: GUEST_PORT,
        },
        Network::Tap {
            device,
            address,
            vhost,
        } => {
            // Only TUN and TAP devices have this file.
            if !has(&format!("{DEVICES}/{device}/tun_flags")) {
                return Err(UpError::Network(format!(
                    "there is no TAP device {device}: `ip tuntap add dev {device} mode tap user USER vnet_hdr` makes one"
                )));
            }
            let vhost = match vhost {
                Some(true) if !opens(VHOST) => {
                    return Err(UpError::Network(format!(
                        "vhost is demanded, and {VHOST} cannot be opened: modprobe vhost_net, and let this user open it"
                    )));
                }
                Some(vhost) => *vhost,
                None => opens(VHOST),
            };
            let [_, b, c, d] = address.ip.octets();
            spec::Network::Tap {
                device: device.clone(),
                vhost,
                // Unique as far as the guests' addresses are.
                mac: [0x52, 0x54, 0x00, b, c, d],
            }
        }
        Network::Passt { socket, .. } => {
            if !has(&socket.display().to_string()) {
                return Err(UpError::Network(format!(
                    "there is no socket {}: start passt first",
                    socket.display()
                )));
            }
            spec::Network::Passt {
                socket: socket.clone(),
            }
        }
    })
}

/// Returns the address at which the relay reaches the guest.
///
/// # Errors
/// Fails if QEMU does not report the port that it forwards.
pub(crate) async fn guest(network: &Network, qmp: &Qmp) -> Result<SocketAddr, QmpError> {
    Ok(match network {
        Network::User => (Ipv4Addr::LOCALHOST, qmp.forwarded_port(GUEST_PORT).await?).into(),
        Network::Tap { address, .. } => (address.ip, GUEST_PORT).into(),
        Network::Passt { relay, .. } => {
            // passt sends to the broadcast address, which TCP rejects, until it has received a packet from the guest's card.
            qmp.announce().await?;
            *relay
        }
    })
}

/// Repeats the announcement whenever QEMU has reconnected to passt: a restarted passt has received no packet yet.
pub(crate) async fn announce_again(qmp: Qmp) {
    let mut events = qmp.events();
    loop {
        match events.recv().await {
            Ok(Event::NetworkConnected) | Err(RecvError::Lagged(_)) => {
                // Others notice a QEMU that does not answer.
                let _ = qmp.announce().await;
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::UnixListener;

    use super::*;

    fn tap(vhost: Option<bool>) -> Network {
        Network::Tap {
            device: "cocoon0".to_owned(),
            address: "10.77.1.2/30".parse().unwrap(),
            vhost,
        }
    }

    /// After a reconnection, the restarted passt must hear from the guest's card again.
    #[tokio::test]
    async fn the_card_speaks_again_when_its_network_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let greeted = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let version = r#"{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":0}}}}"#;
            stream.write_all(version.as_bytes()).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
            let mut asked = String::new();
            stream.read_line(&mut asked).await.unwrap();
            let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
            let ready = serde_json::json!({ "return": {}, "id": asked["id"] });
            stream
                .write_all(format!("{ready}\r\n").as_bytes())
                .await
                .unwrap();
            stream
        };
        let (qmp, mut stream) = tokio::join!(Qmp::connect(&path, RELEASE), greeted);
        let heard = async {
            let connected = b"{\"event\":\"NETDEV_STREAM_CONNECTED\",\"data\":{}}\r\n";
            stream.write_all(connected).await.unwrap();
            let mut asked = String::new();
            stream.read_line(&mut asked).await.unwrap();
            asked
        };
        let asked = tokio::select! {
            // `biased` polls this branch first, so that it subscribes before the event.
            biased;
            () = announce_again(qmp.unwrap()) => panic!("QMP has ended"),
            asked = heard => asked,
        };
        assert!(asked.contains("announce-self"), "{asked}");
    }

    #[test]
    fn the_kernel_moves_packets_where_it_can() {
        for (wanted, opens, expected) in [
            (None, true, true),
            (None, false, false),
            (Some(false), true, false),
            (Some(true), true, true),
        ] {
            let told = network(&tap(wanted), |_| true, |_| opens).unwrap();
            let expected = spec::Network::Tap {
                device: "cocoon0".to_owned(),
                vhost: expected,
                mac: [0x52, 0x54, 0, 77, 1, 2],
            };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_a_remedy() {
        let said = |network: &Network, has, opens| {
            let told = self::network(network, |_| has, |_| opens);
            told.unwrap_err().to_string()
        };
        assert_eq!(
            said(&tap(None), false, true),
            "network: there is no TAP device cocoon0: `ip tuntap add dev cocoon0 mode tap user USER vnet_hdr` makes one"
        );
        assert_eq!(
            said(&tap(Some(true)), true, false),
            "network: vhost is demanded, and /dev/vhost-net cannot be opened: modprobe vhost_net, and let this user open it"
        );
        let passt = Network::Passt {
            socket: "/run/passt".into(),
            relay: "127.0.0.1:1".parse().unwrap(),
            address: Default::default(),
        };
        assert_eq!(
            said(&passt, false, true),
            "network: there is no socket /run/passt: start passt first"
        );
    }
}
