//! Tables of results: medians, as text for people and as JSON for programs.

use std::io::Write as _;

use serde_json::{Value, json};

/// A table of figures.
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>)>,
    notes: Vec<String>,
    missed: Vec<String>,
}

impl Table {
    /// Makes an empty table. Column names include their units.
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            notes: Vec::new(),
            missed: Vec::new(),
        }
    }

    /// Adds a row with one figure per column.
    pub fn row(&mut self, name: impl Into<String>, figures: &[f64]) {
        self.rows.push((name.into(), figures.to_vec()));
    }

    /// Adds a row with a figure, and a row with its maximum.
    pub fn goal(&mut self, name: impl Into<String>, figure: f64, most: f64) {
        let name = name.into();
        // NaN misses every goal.
        if figure.is_nan() || figure > most {
            self.missed.push(format!(
                "{name}: {} instead of at most {}",
                shown(figure),
                shown(most)
            ));
        }
        let goal = format!("{name}: goal, at most");
        self.row(name, &[figure]);
        self.row(goal, &[most]);
    }

    /// Fails if a goal was missed.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.missed.is_empty(), "missed: {}", self.missed.join("; "));
        Ok(())
    }

    /// Adds a line below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Prints the table to standard output, with the machine on which it was measured.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = match json {
            true => format!("{}\n", self.json()),
            false => self.text(),
        };
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, figures)| {
            let mut row = json!({ "name": name });
            for (column, figure) in self.columns.iter().zip(figures) {
                row[column] = json!(figure);
            }
            row
        });
        json!({
            "title": self.title,
            "machine": machine(),
            "rows": rows.collect::<Vec<_>>(),
            "notes": self.notes,
            "missed": self.missed,
        })
    }

    fn text(&self) -> String {
        let names = self.rows.iter().map(|(name, _)| name.chars().count());
        let width = names.max().unwrap_or(0);
        let mut text = format!("{}\n{}\n\n{:width$}", self.title, machine(), "");
        for column in &self.columns {
            text += &format!("  {column:>12}");
        }
        text.push('\n');
        for (name, figures) in &self.rows {
            text += &format!("{name:width$}");
            for (column, figure) in self.columns.iter().zip(figures) {
                let space = column.chars().count().max(12);
                text += &format!("  {:>space$}", shown(*figure));
            }
            text.push('\n');
        }
        for note in &self.notes {
            text += &format!("{note}\n");
        }
        text
    }
}

/// Formats a figure with about three significant digits.
fn shown(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Returns the median, or zero if there are no figures.
pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// Returns the quantile `part`, interpolated between neighbours, or zero if there are no figures.
pub fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut behind = part * sorted.len().saturating_sub(1) as f64;
    let mut pairs = sorted.windows(2);
    while behind > 1.0 {
        behind -= 1.0;
        pairs.next();
    }
    match (pairs.next(), sorted.first()) {
        (Some([below, above]), _) => below + (above - below) * behind,
        (_, only) => only.copied().unwrap_or(0.0),
    }
}

/// Describes the machine: number and model of its processors, and the load average of the last minute.
fn machine() -> String {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("{count} × {model}, load {load} when it ended")
}
