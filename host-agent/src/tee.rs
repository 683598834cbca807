//! What a VM in a real TEE is started with, and, on a machine that cannot start one, which piece is missing.
//!
//! Everything is decided from what `doctor` knows of the machine, before QEMU starts: its own messages name options, not
//! remedies. No TEE host has run this.

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

/// Guest policy of SNP guests: SMT is allowed (bit 16), the bit that must be set is (17), and nothing else.
const SNP_POLICY: u64 = 0x30000;

/// What an operator should know before the boot.
pub(crate) fn collateral() -> String {
    // It is kept by this process: whoever reads this may be another user, with another cache.
    let store = Store::default_root();
    let store = store.map_or_else(
        |_| String::new(),
        |root| format!(" --store {}", root.display()),
    );
    format!(
        "clients accept real evidence only with its vendor's endorsements, which are fetched when the guest asks for them: `cocoon-host collateral show{store}` says what came of it"
    )
}

/// This machine cannot start such a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Something is missing.
    #[error(
        "this machine cannot start a VM in {mode}: {}: {}; needed: {}; fix: {}{}",
        finding.id, finding.found, finding.needed, finding.fix, others(*more, *mode)
    )]
    Missing {
        /// Which mode.
        mode: Mode,
        /// The first thing that is missing.
        finding: Box<Finding>,
        /// How many more are.
        more: usize,
    },
    /// Only one of them can be had.
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

/// How long the kernel may take to give back the memory of a VM in this TEE, if it is in one, after QEMU was killed. SEV-SNP has
/// as long as TDX, of which alone it is known.
#[must_use]
pub fn reclaim(tee: Option<Tee>, memory_mib: u32) -> Duration {
    tee.map_or(Duration::ZERO, |_| process::reclaim(memory_mib))
}

/// What QEMU is to start on this machine: a plain VM, or one in the TEE that the options name.
///
/// # Errors
/// [`NotReady`] names the first piece that is missing.
pub(crate) async fn of_this_machine(options: &UpOptions) -> Result<Confidential, NotReady> {
    let Some(tee) = options.tee else {
        return Ok(Confidential::None);
    };
    if options.simulate.is_some() {
        return Err(NotReady::Both);
    }
    let wanted = Wanted {
        memory_mib: options.memory_mib,
        // Somebody's already where there is a door: the daemon's supervisors take it before the VM is started, and in
        // an update it is the old VM's.
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

/// The same, of a machine of which `facts` are known. `canonical` is the operator's configuration, whose digest the
/// launch measures.
///
/// # Errors
/// [`NotReady::Missing`].
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
    // What clients think of a platform does not keep a VM from starting; `doctor` tells it.
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
                // Intel's service has no such address.
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
