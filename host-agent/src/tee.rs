//! Decides what a VM in a real TEE is started with, or which requirement of the TEE this machine does not meet.
//!
//! The decision is made before QEMU starts, from the facts that `doctor` collects, because QEMU's own messages name options
//! instead of remedies. This has not run on a TEE host yet.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::config;
use cocoon_qemu::process;
use cocoon_qemu::spec::{Confidential, QuoteSocket, Snp, Tdx};

use crate::collateral::Store;
use crate::doctor::facts::Facts;
use crate::doctor::judge::judge;
use crate::doctor::source::Peer;
use crate::doctor::{self, Finding, Mode, Tried, Wanted};
use crate::up::UpOptions;

/// SEV-SNP guest policy: permits SMT (bit 16), sets the reserved bit that must be one (bit 17), and nothing else.
const SNP_POLICY: u64 = 0x30000;

/// Returns a note about endorsements that the operator should read before the boot.
pub(crate) fn collateral() -> String {
    // The store is named, since this process keeps it and the reader may be another user with another default cache.
    let store = Store::default_root();
    let store = store.map_or_else(
        |_| String::new(),
        |root| format!(" --store {}", root.display()),
    );
    format!(
        "clients accept real evidence only with its vendor's endorsements, which are fetched when the guest asks for them: `cocoon-host collateral show{store}` says what came of it"
    )
}

/// Why this machine cannot start the VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// A requirement is not met.
    #[error(
        "this machine cannot start a VM in {mode}: {}: {}; needed: {}; fix: {}{}",
        finding.id, finding.found, finding.needed, finding.fix, others(*more, *mode)
    )]
    Missing {
        /// The mode of the VM.
        mode: Mode,
        /// The first finding that prevents the start.
        finding: Box<Finding>,
        /// Number of further findings that prevent it.
        more: usize,
    },
    /// Both a real TEE and a simulated one are requested.
    #[error("a VM is either in a real TEE or simulates one: leave out --tee or --simulate")]
    Both,
    /// The examination panicked or was cancelled.
    #[error("the examination of this machine was interrupted: try again")]
    Interrupted,
}

fn others(more: usize, mode: Mode) -> String {
    let name = match mode {
        Mode::Tdx => "tdx",
        Mode::SevSnp => "snp",
        Mode::SimulatedKvm | Mode::SimulatedEmulated => "simulated",
    };
    match more {
        0 => String::new(),
        more => format!(" (and {more} more: `cocoon-host doctor --for {name}` lists them)"),
    }
}

/// Returns how long the kernel may take to reclaim the memory of a VM in this TEE after QEMU was killed; zero without a
/// TEE. The time is known for TDX only; SEV-SNP gets the same.
#[must_use]
pub fn reclaim(tee: Option<Tee>, memory_mib: u32) -> Duration {
    tee.map_or(Duration::ZERO, |_| process::reclaim(memory_mib))
}

/// Returns what QEMU has to start on this machine: a plain VM, or one in the TEE that the options name.
///
/// # Errors
/// [`NotReady`], with the first requirement that is not met.
pub(crate) async fn of_this_machine(options: &UpOptions) -> Result<Confidential, NotReady> {
    let Some(tee) = options.tee else {
        return Ok(Confidential::None);
    };
    if options.simulate.is_some() {
        return Err(NotReady::Both);
    }
    let wanted = Wanted {
        memory_mib: options.memory_mib,
        // With a door, the address is in use already: the daemon's supervisors bind it before the VM starts, and in an
        // update it belongs to the old VM.
        listen: options.door.is_none().then_some(options.listen),
        gpu: false,
        examine: false,
        cache: None,
    };
    let world = Arc::clone(&options.world);
    let qemu = doctor::qemu(&*world, options.qemu.as_deref()).await;
    let examined = wanted.clone();
    let facts =
        tokio::task::spawn_blocking(move || Facts::read(&*world, &examined, qemu, Tried::NoImage));
    let facts = facts.await.map_err(|_| NotReady::Interrupted)?;
    confidential(
        tee,
        &facts,
        &wanted,
        &options.config.canonical(),
        &options.cpu_model,
    )
}

/// Returns the confidential configuration of a machine with these `facts`. `canonical` is the operator's configuration,
/// whose digest the launch measures.
///
/// # Errors
/// [`NotReady::Missing`] if a requirement is not met.
pub fn confidential(
    tee: Tee,
    facts: &Facts,
    wanted: &Wanted,
    canonical: &[u8],
    cpu_model: &str,
) -> Result<Confidential, NotReady> {
    let mode = match tee {
        Tee::Tdx => Mode::Tdx,
        Tee::SevSnp => Mode::SevSnp,
    };
    // Whether clients accept a platform does not prevent the start of a VM; `doctor` reports it.
    let judged = |finding: &Finding| matches!(finding.id, "snp.tcb" | "snp.platform" | "snp.chip");
    let findings = judge(facts, wanted, &Default::default());
    let mut missing =
        (findings.into_iter()).filter(|finding| finding.prevents(mode) && !judged(finding));
    if let Some(first) = missing.next() {
        return Err(NotReady::Missing {
            mode,
            finding: Box::new(first),
            more: missing.count(),
        });
    }
    let digest = config::digest(tee, canonical).0;
    Ok(match tee {
        Tee::Tdx => Confidential::Tdx(Tdx {
            mrconfigid: digest,
            quotes: match facts.tdx.quotes.at.clone() {
                Peer::Unix(path) => QuoteSocket::Unix(path),
                Peer::Vsock { cid, port } => QuoteSocket::Vsock { cid, port },
                // Intel's quote generation service is never reached over TCP.
                Peer::Tcp(_) => QuoteSocket::Unix(doctor::facts::QGS_SOCKET.into()),
            },
        }),
        Tee::SevSnp => {
            let mut host_data = [0; 32];
            host_data.copy_from_slice(&digest[..32]);
            Confidential::Snp(Snp {
                host_data,
                policy: SNP_POLICY,
                cbitpos: facts.snp.cbitpos,
                reduced_phys_bits: facts.snp.reduced_phys_bits,
                cpu: cpu_model.to_owned(),
                id: None,
            })
        }
    })
}
