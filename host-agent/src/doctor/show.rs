//! Formats a report for people: a table, most serious findings last, and a line for each mode.

use std::fmt::{self, Write as _};

use super::finding::{Finding, Mode, Readiness, Severity};
use super::{Clients, Report};
use crate::text::plain;

/// Maximum length of a cell in characters: output of firmware and kernels may be arbitrary.
const CELL: usize = 300;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("This machine\n")?;
        table(f, &self.findings)?;
        if let Some(Clients { findings, .. }) = &self.clients {
            f.write_str("\nClients, about this image on it\n")?;
            table(f, findings)?;
        }
        f.write_str("\n")?;
        for readiness in &self.modes {
            mode(f, readiness, self.clients.as_ref())?;
        }
        Ok(())
    }
}

fn table(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    let width = |finding: &Finding| finding.id.len();
    let widest = findings.iter().map(width).max().unwrap_or_default();
    let mut ordered: Vec<&Finding> = findings.iter().collect();
    // A stable sort keeps the order of setup within one severity.
    ordered.sort_by_key(|finding| finding.severity);
    for finding in ordered {
        let Finding {
            id,
            severity,
            found,
            needed,
            fix,
            modes,
        } = finding;
        writeln!(f, "  {severity:<8} {id:<widest$}  {}", plain(found, CELL))?;
        if *severity == Severity::Ok {
            continue;
        }
        let mut below = |name: &str, text: &str| {
            if text.is_empty() {
                Ok(())
            } else {
                writeln!(
                    f,
                    "  {:<8} {:<widest$}    {name}: {}",
                    "",
                    "",
                    plain(text, CELL)
                )
            }
        };
        below("needed", needed)?;
        below("fix", fix)?;
        if modes.len() < Mode::ALL.len() {
            let modes: Vec<String> = modes.iter().map(Mode::to_string).collect();
            below("for", &modes.join(", "))?;
        }
    }
    Ok(())
}

fn mode(
    f: &mut fmt::Formatter<'_>,
    readiness: &Readiness,
    clients: Option<&Clients>,
) -> fmt::Result {
    let mut line = if readiness.ready && readiness.warnings.is_empty() {
        "ready".to_owned()
    } else if readiness.ready {
        format!("ready, with warnings ({})", readiness.warnings.join(", "))
    } else {
        format!("not ready ({})", readiness.because.join(", "))
    };
    let asked = clients.and_then(|clients| {
        clients
            .modes
            .iter()
            .find(|asked| asked.mode == readiness.mode)
    });
    if let Some(asked) = asked {
        if asked.ready {
            line.push_str("; nothing here makes clients refuse it");
        } else {
            write!(
                line,
                "; clients would refuse it ({})",
                asked.because.join(", ")
            )?;
        }
    }
    writeln!(f, "{:<26} {line}", readiness.mode)
}
