//! Compares the whole path with the engine alone.

use clap::Args;
use cocoon_tests::processes::processor_time;

use crate::appliance::Appliance;
use crate::asked::{ask, connect};
use crate::direct::Direct;
use crate::double::{self, Double};
use crate::streams::QUESTION;
use crate::subject::{self, Subject};
use crate::table::{Table, median, quantile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: subject::Options,
    /// Numbers of concurrent answers, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    streams: Vec<usize>,
    /// Number of tokens in each answer
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Number of rounds
    ///
    /// Each round starts both engines and measures both paths, in the opposite order of the round before.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// Results for one number of streams, by turn: tokens per second and milliseconds, of the engine alone and of the path.
#[derive(Default)]
struct Figures {
    throughput: [Vec<f64>; 2],
    first: [Vec<f64>; 2],
}

impl Figures {
    /// Returns the figures of a row: medians, and for the ratio and the added time, which are formed within
    /// each turn, also both quartiles.
    fn row(&self) -> [f64; 10] {
        let turns = |both: &[Vec<f64>; 2], of: fn(f64, f64) -> f64| {
            let pairs = both[0].iter().zip(&both[1]);
            let each: Vec<f64> = pairs.map(|(engine, path)| of(*engine, *path)).collect();
            [0.5, 0.25, 0.75].map(|part| quantile(&each, part))
        };
        let [ratio, ratio_low, ratio_high] = turns(&self.throughput, |engine, path| path / engine);
        let [added, added_low, added_high] = turns(&self.first, |engine, path| path - engine);
        let [engine, path] = [0, 1].map(|way| median(&self.throughput[way]));
        let [engine_first, path_first] = [0, 1].map(|way| median(&self.first[way]));
        [
            engine,
            path,
            ratio,
            ratio_low,
            ratio_high,
            engine_first,
            path_first,
            added,
            added_low,
            added_high,
        ]
    }
}

pub async fn measure(options: &Options) -> anyhow::Result<Table> {
    let subject = Subject::find(&options.subject).await?;
    let most = options.streams.iter().copied().max().unwrap_or(1);
    let setup = subject.setup(u16::try_from(most)?);
    let mut figures: Vec<Figures> = options.streams.iter().map(|_| Figures::default()).collect();
    for round in 0..options.rounds {
        // Both engines are started anew: the memory layout of a process makes it a few per cent faster or slower.
        let mut direct = Direct::start(&setup).await?;
        let appliance = Appliance::start(setup.clone()).await?;
        let mut clients = Vec::new();
        for _ in 0..most {
            clients.push(connect(&appliance.verifier(), &appliance).await?);
        }
        // Warms up both before the measurement.
        direct.ask(QUESTION, 4, 2).await?;
        clients = ask(clients, &setup.model, 4, 2).await?.1;
        for (count, figures) in options.streams.iter().zip(&mut figures) {
            for way in [round % 2, 1 - round % 2] {
                let together = match way {
                    0 => direct.ask(QUESTION, options.tokens, *count).await?,
                    _ => {
                        let (together, back) =
                            ask(clients, &setup.model, options.tokens, *count).await?;
                        clients = back;
                        together
                    }
                };
                figures.throughput[way].push(together.throughput());
                figures.first[way].push(together.first());
            }
        }
    }
    let title = format!(
        "The whole path against the engine alone: {} tokens an answer, medians of {} rounds, and of what is compared \
         the middle half",
        options.tokens, options.rounds
    );
    let added = first_alone(&options.streams).await?;
    let mut table = Table::new(
        title,
        &[
            "engine tok/s",
            "path tok/s",
            "ratio",
            "from",
            "to",
            "engine first ms",
            "path first ms",
            "added ms",
            "added from",
            "added to",
            "path alone ms",
            "its cpu ms",
            "queueing ms",
        ],
    );
    for ((count, figures), alone) in options.streams.iter().zip(&figures).zip(added) {
        let mut row = figures.row().to_vec();
        row.extend([alone.first, alone.processor, alone.queueing(*count)]);
        table.row(format!("{count} streams"), &row);
    }
    table.note(
        "path alone: an engine that answers at once, and one token; its cpu: what client and agent take of the processors for \
         one such answer; queueing: how much later, in the mean, answers of so much come that are asked for at once and served \
         one after another on these processors",
    );
    table.note(subject.note);
    Ok(table)
}

/// Medians for the path alone, in milliseconds.
struct Alone {
    /// Time to the first text.
    first: f64,
    /// Processor time of client and agent for one complete answer of one token.
    processor: f64,
}

impl Alone {
    /// Returns the mean delay of `count` answers requested at once, compared with a single answer.
    fn queueing(&self, count: usize) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let rounds = count.div_ceil(processors) as f64;
        // The first round waits for nothing, and the last one for all before it.
        self.processor * (rounds - 1.0) / 2.0
    }
}

/// Measures the path with an engine that answers at once, so that all the time is the path's. With a real engine, a
/// prompt takes hundreds of milliseconds, which vary and hide the small addition.
async fn first_alone(streams: &[usize]) -> anyhow::Result<Vec<Alone>> {
    const TURNS: usize = 50;
    let most = streams.iter().copied().max().unwrap_or(1);
    let slots = u16::try_from(most)?;
    let own = std::process::id();
    let appliance = Appliance::with(Double::default(), double::MODEL, slots).await?;
    let mut clients = Vec::new();
    for _ in 0..most {
        clients.push(connect(&appliance.verifier(), &appliance).await?);
    }
    let mut medians = Vec::new();
    for count in streams {
        let (mut firsts, mut processor) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let before = processor_time(own)?;
            let (together, back) = ask(clients, double::MODEL, 1, *count).await?;
            clients = back;
            firsts.push(together.first());
            let spent = processor_time(own)?.saturating_sub(before);
            processor.push(spent.as_secs_f64() * 1000.0 / *count as f64);
        }
        medians.push(Alone {
            first: median(&firsts),
            processor: median(&processor),
        });
    }
    Ok(medians)
}
