//! The boot of an appliance as bars on one time scale, one for each phase.

use super::html::Html;
use super::words::span;
use crate::watch::{PhaseTime, Watched};

/// Phases shorter than this fraction of the scale, 1/50, share one line.
const SHORT: u64 = 50;
/// Width of the thinnest bar, in percent of the scale.
const THIN: f64 = 0.8;

/// Writes the bars; nothing if no boot is known.
pub(super) fn bars(html: &mut Html, one: &Watched) {
    let phases = &one.phases;
    let Some(end) = phases
        .iter()
        .filter_map(|phase| phase.to_ms.or(Some(phase.from_ms)))
        .max()
    else {
        return;
    };
    let over = phases.iter().all(|phase| phase.to_ms.is_some());
    // A phase that is under way needs room to be visible.
    let scale = if over { end } else { end + end / 3 + 1 }.max(1);
    html.raw("<section class=\"boot\"><h3>Boot <span>");
    html.text(&if over {
        span(end)
    } else {
        "under way".to_owned()
    });
    html.raw("</span></h3><ol>");
    let length = |phase: &PhaseTime| phase.to_ms.map(|to| to.saturating_sub(phase.from_ms));
    let short = |phase: &&PhaseTime| length(phase).is_some_and(|ms| ms < scale / SHORT);
    for phase in phases.iter().filter(|phase| !short(phase)) {
        let (from, to) = (
            place(phase.from_ms, scale),
            phase.to_ms.map(|to| place(to, scale)),
        );
        let from = from.min(100.0 - THIN);
        let width = (to.unwrap_or(100.0) - from).max(THIN).min(100.0 - from);
        html.raw(if to.is_some() {
            "<li>"
        } else {
            "<li class=\"on\">"
        });
        html.around("<span class=\"phase\">", shown(&phase.name), "</span>");
        html.raw("<svg class=\"track\" preserveAspectRatio=\"none\" viewBox=\"0 0 100 1\" aria-hidden=\"true\">");
        html.raw("<rect class=\"rail\" width=\"100\" height=\"1\"/><rect class=\"bar\" height=\"1\" x=\"");
        html.text(&format!("{from:.2}")).raw("\" width=\"");
        html.text(&format!("{width:.2}"))
            .raw("\"/></svg><span class=\"took\">");
        html.text(&length(phase).map_or("now".to_owned(), span))
            .raw("</span></li>");
    }
    html.raw("</ol>");
    let rest: Vec<&PhaseTime> = phases.iter().filter(short).collect();
    if !rest.is_empty() {
        let names: Vec<&str> = rest.iter().map(|phase| shown(&phase.name)).collect();
        let took = rest.iter().filter_map(|phase| length(phase));
        let took = took.fold(0_u64, u64::saturating_add);
        html.around(
            "<p class=\"rest\"><span>",
            &names.join(", "),
            "</span><span class=\"took\">",
        );
        html.text(&span(took)).raw("</span></p>");
    }
    html.raw("</section>");
}

/// Returns the name of a phase as the page shows it.
fn shown(phase: &str) -> &str {
    match phase {
        "firmware" => "firmware, kernel",
        "hello" => "agent",
        other => other,
    }
}

/// Returns the position of `at`, in percent of the scale.
fn place(at: u64, scale: u64) -> f64 {
    (at as f64 / scale as f64 * 100.0).clamp(0.0, 100.0)
}
