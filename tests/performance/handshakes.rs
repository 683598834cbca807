//! Compares attested handshakes with plain ones: client and server in this process, on the same processors, with a new
//! connection each time and no tickets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use cocoon_client::Verifier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::appliance::Appliance;
use crate::double::Double;
use crate::rogue::{Rogue, Script, certificate, key};
use crate::stranger::Stranger;
use crate::table::{Table, median};

#[derive(Args)]
pub struct Options {
    /// Numbers of connections opened at the same time, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    parallel: Vec<usize>,
    /// Duration of each measurement in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Number of rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What a measured client opens.
#[derive(Clone, Copy)]
enum Kind {
    /// TLS with an ordinary certificate and one request, because an attestation is also one request.
    Plain,
    /// TLS with the appliance and the same request, without verification of the certificate.
    Unjudged,
    /// TLS with the appliance, evidence for a nonce, and both verdicts.
    AttestedFirst,
    /// The same, by a client that has already judged the boot document of this certificate.
    AttestedAgain,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Plain, "plain TLS and a request"),
    (
        Kind::Unjudged,
        "the appliance's TLS and a request, unjudged",
    ),
    (Kind::AttestedFirst, "attested, by a new client each time"),
    (Kind::AttestedAgain, "attested, by one client"),
];

/// Servers and clients of the measurements.
struct World {
    plain: SocketAddr,
    appliance: SocketAddr,
    served: Appliance,
    verifier: Verifier,
}

pub async fn measure(options: &Options) -> anyhow::Result<Table> {
    let appliance = Appliance::with(Double::default(), crate::double::MODEL, 1).await?;
    let server = Rogue::start(Script {
        certificate: certificate(&key(1), Vec::new()),
        key: key(1),
        answer: Box::new(|_| Vec::new()),
    })
    .await;
    let world = Arc::new(World {
        plain: socket(&server.address)?,
        appliance: socket(&appliance.address)?,
        verifier: appliance.verifier(),
        served: appliance,
    });
    let agreed = Stranger::new().connect(world.appliance).await;
    let group = agreed.0.get_ref().1.negotiated_key_exchange_group();
    let group = group.map(|group| group.name());

    let mut rates = vec![vec![Vec::new(); options.parallel.len()]; KINDS.len()];
    for round in 0..options.rounds {
        for (place, parallel) in options.parallel.iter().enumerate() {
            for turn in 0..KINDS.len() {
                let kind = (round + turn) % KINDS.len();
                let time = Duration::from_secs(options.seconds);
                let rate = rate(&world, KINDS[kind].0, *parallel, time).await?;
                rates[kind][place].push(rate);
            }
        }
    }
    let mut table = Table::new(
        format!(
            "Connections per second: medians of {} rounds of {} s",
            options.rounds, options.seconds
        ),
        &["per second", "ms each", "of plain"],
    );
    for (place, parallel) in options.parallel.iter().enumerate() {
        let plain = median(&rates[0][place]);
        for (kind, (_, name)) in KINDS.iter().enumerate() {
            let rate = median(&rates[kind][place]);
            let each = 1000.0 * f64::from(u32::try_from(*parallel)?) / rate;
            table.row(
                format!("{name}, {parallel} at once"),
                &[rate, each, rate / plain],
            );
        }
    }
    table.note(format!(
        "key exchange: {group:?}; simulated SEV-SNP, whose report takes no device"
    ));
    Ok(table)
}

/// Returns connections per second while `parallel` clients open connections continuously.
async fn rate(
    world: &Arc<World>,
    kind: Kind,
    parallel: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let (opened, began) = (Arc::<AtomicU64>::default(), Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..parallel {
        let (world, opened) = (Arc::clone(world), Arc::clone(&opened));
        clients.spawn(async move {
            while began.elapsed() < time {
                open(&world, kind).await?;
                opened.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let opened = u32::try_from(opened.load(Ordering::Relaxed))?;
    Ok(f64::from(opened) / began.elapsed().as_secs_f64())
}

async fn open(world: &World, kind: Kind) -> anyhow::Result<()> {
    let address = match kind {
        Kind::Plain => world.plain,
        Kind::Unjudged => world.appliance,
        Kind::AttestedFirst => {
            let verifier = world.served.verifier();
            verifier.connect(&world.served.address).await?;
            return Ok(());
        }
        Kind::AttestedAgain => {
            world.verifier.connect(&world.served.address).await?;
            return Ok(());
        }
    };
    // A new client each time, because a client remembers tickets.
    let mut connection = Stranger::new().connect(address).await;
    connection.ask("GET", "/v1/models", "").await;
    Ok(())
}

fn socket(address: &cocoon_client::Address) -> anyhow::Result<SocketAddr> {
    let authority = address.authority();
    authority
        .parse()
        .with_context(|| format!("{authority} is not a socket's address"))
}
