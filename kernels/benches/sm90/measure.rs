//! Medians between events, as lines for people and as JSON.

use std::error::Error;
use std::fmt::Write as _;

use cocoon_kernels::gpu::Gpu;
use cudarc::driver::sys::{CUevent_flags, CUstream};
use serde_json::{Value, json};

/// What filling is held against.
pub const MEMSET: &str = "driver's memset";
/// The driver's copy within the device, whose reads and writes both count.
pub const COPY: &str = "driver's copy";
/// Reading alone.
pub const READ: &str = "plain read";

/// Calls that are not counted, and those that are.
const WARM: usize = 3;
const RUNS: usize = 15;

/// Figures of one GPU.
pub struct Report {
    name: String,
    nominal: Option<f64>,
    rows: Vec<Row>,
    goals: Vec<(String, f64, f64)>,
}

struct Row {
    name: &'static str,
    bytes: u64,
    /// The median, and the least and the most.
    seconds: f64,
    least: f64,
    most: f64,
    on_device: bool,
}

/// What a figure is held against.
pub enum Goal {
    Ratio(&'static str, &'static str, f64),
    BytesPerSecond(&'static str, f64),
}

impl Goal {
    /// The speed of one row is at least `times` that of another.
    pub fn ratio(row: &'static str, other: &'static str, times: f64) -> Self {
        Self::Ratio(row, other, times)
    }

    /// The speed of a row.
    pub fn bytes_per_second(row: &'static str, speed: f64) -> Self {
        Self::BytesPerSecond(row, speed)
    }
}

impl Report {
    /// Of the card with this name and nominal bandwidth in bytes a second, where the driver tells it.
    pub fn new(name: String, nominal: Option<f64>) -> Self {
        Self {
            name,
            nominal,
            rows: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Adds the median of calls that move `bytes` on the device, from when the device comes to what the call starts first
    /// until it is done with the last, with whatever the host does in between. Of two rows of one name the faster stays.
    pub fn time(
        &mut self,
        gpu: &Gpu,
        name: &'static str,
        bytes: u64,
        mut call: impl FnMut(CUstream) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let stream = gpu.stream();
        let event = || {
            stream
                .context()
                .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        };
        let (begin, end) = (event()?, event()?);
        let mut seconds = Vec::new();
        for run in 0..WARM + RUNS {
            begin.record(stream)?;
            call(stream.cu_stream())?;
            end.record(stream)?;
            end.synchronize()?;
            if run >= WARM {
                seconds.push(f64::from(begin.elapsed_ms(&end)?) / 1e3);
            }
        }
        let row = Row::new(name, bytes, seconds, true);
        match self.rows.iter_mut().find(|other| other.name == name) {
            Some(other) if row.seconds < other.seconds => *other = row,
            Some(_) => {}
            None => self.rows.push(row),
        }
        Ok(())
    }

    /// Adds what the host took, each time.
    pub fn host(&mut self, name: &'static str, bytes: u64, seconds: Vec<f64>) {
        self.rows.push(Row::new(name, bytes, seconds, false));
    }

    /// Holds rows against goals: what was reached, and what was wanted.
    pub fn goals(&mut self, goals: &[Goal]) {
        for goal in goals {
            self.goals.push(match goal {
                Goal::Ratio(row, other, times) => {
                    let reached = self.speed(row) / self.speed(other);
                    (format!("{row} / {other}"), reached, *times)
                }
                Goal::BytesPerSecond(row, speed) => {
                    (format!("{row}, TB/s"), self.speed(row) / 1e12, speed / 1e12)
                }
            });
        }
    }

    /// One line for each row: microseconds, gigabytes a second, and how much of the measured peak that is.
    pub fn text(&self) -> String {
        let nominal = self.nominal.map_or_else(String::new, |nominal| {
            format!(", nominal {:.0} GB/s", nominal / 1e9)
        });
        let peak = self.peak() / 1e9;
        let mut text = format!("{}{nominal}, measured peak {peak:.0} GB/s\n", self.name);
        for row in &self.rows {
            let percent = if row.on_device {
                format!("{:.1} %", 100.0 * row.speed() / self.peak())
            } else {
                "-".to_owned()
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:36} | {:>10.1} us | {:>8.1} GB/s | {percent:>7}",
                row.name,
                row.seconds * 1e6,
                row.speed() / 1e9
            );
        }
        for (name, reached, wanted) in &self.goals {
            let word = if reached >= wanted { "met" } else { "MISSED" };
            let _ = writeln!(text, "{name}: {reached:.3}, goal {wanted}: {word}");
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let peak = row.on_device.then(|| row.speed() / self.peak());
                json!({"name": row.name, "bytes": row.bytes, "us": row.seconds * 1e6,
                       "us_least": row.least * 1e6, "us_most": row.most * 1e6,
                       "gb_per_s": row.speed() / 1e9, "of_peak": peak})
            })
            .collect();
        let goals: Vec<Value> = self
            .goals
            .iter()
            .map(|(name, reached, wanted)| {
                json!({"name": name, "reached": reached, "wanted": wanted, "met": reached >= wanted})
            })
            .collect();
        json!({"gpu": self.name, "nominal_gb_per_s": self.nominal.map(|nominal| nominal / 1e9),
               "peak_gb_per_s": self.peak() / 1e9, "rows": rows, "goals": goals})
    }

    /// The fastest that the driver's own operations and reading alone are. What was not measured is no number and counts
    /// for nothing.
    fn peak(&self) -> f64 {
        self.speed(MEMSET)
            .max(self.speed(COPY))
            .max(self.speed(READ))
    }

    fn speed(&self, name: &str) -> f64 {
        let row = self.rows.iter().find(|row| row.name == name);
        row.map_or(f64::NAN, Row::speed)
    }
}

impl Row {
    /// At least one time is there.
    fn new(name: &'static str, bytes: u64, mut seconds: Vec<f64>, on_device: bool) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self {
            name,
            bytes,
            seconds: seconds[seconds.len() / 2],
            least: seconds[0],
            most: seconds[seconds.len() - 1],
            on_device,
        }
    }

    fn speed(&self) -> f64 {
        // No number of bytes here comes near to what a double cannot hold.
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let bytes = self.bytes as f64;
        bytes / self.seconds
    }
}
