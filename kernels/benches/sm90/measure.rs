//! Medians between events, as text and as JSON.

use std::error::Error;
use std::fmt::Write as _;

use cocoon_kernels::gpu::Gpu;
use cudarc::driver::sys::{CUevent_flags, CUstream};
use serde_json::{Value, json};

/// Row with which filling is compared.
pub const MEMSET: &str = "driver's memset";
/// The driver's copy within the device; its reads and writes both count.
pub const COPY: &str = "driver's copy";
/// Row that only reads, with which counting is compared.
pub const READ: &str = "plain read";

/// Number of calls that are not counted, and of those that are.
const WARM: usize = 3;
const RUNS: usize = 15;

/// The figures of one GPU.
pub struct Report {
    name: String,
    nominal: Option<f64>,
    rows: Vec<Row>,
    goals: Vec<(String, f64, f64)>,
}

struct Row {
    name: &'static str,
    bytes: u64,
    /// Median duration of a call; `least` and `most` are the shortest and the longest.
    seconds: f64,
    least: f64,
    most: f64,
    on_device: bool,
}

/// A goal for a row.
pub enum Goal {
    Ratio(&'static str, &'static str, f64),
    BytesPerSecond(&'static str, f64),
}

impl Goal {
    /// The speed of one row must be at least `times` that of another.
    pub fn ratio(row: &'static str, other: &'static str, times: f64) -> Self {
        Self::Ratio(row, other, times)
    }

    /// The speed of a row must be at least `speed`, in bytes per second.
    pub fn bytes_per_second(row: &'static str, speed: f64) -> Self {
        Self::BytesPerSecond(row, speed)
    }
}

impl Report {
    /// Creates a report for the GPU of this name; `nominal` is its bandwidth in bytes per second, if the driver reports
    /// it.
    pub fn new(name: String, nominal: Option<f64>) -> Self {
        Self {
            name,
            nominal,
            rows: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Adds the median duration of calls that move `bytes` on the device. A call is measured from the start of its
    /// first operation on the device to the end of its last, with everything that the host does in between. If the
    /// report already has the row, the faster one is kept.
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

    /// Adds durations that were measured on the host.
    pub fn host(&mut self, name: &'static str, bytes: u64, seconds: Vec<f64>) {
        self.rows.push(Row::new(name, bytes, seconds, false));
    }

    /// Compares rows with their goals.
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

    /// Renders one line for each row: microseconds, gigabytes per second, and per cent of the measured peak.
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

    /// Renders the report as JSON.
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

    /// The highest speed of the driver's operations and of plain reading. A row that was not measured is NaN, which
    /// `max` ignores.
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
    /// Creates a row; `seconds` must not be empty.
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
        // The numbers of bytes here are far below what a double represents exactly.
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let bytes = self.bytes as f64;
        bytes / self.seconds
    }
}
