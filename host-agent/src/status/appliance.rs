//! The card of one appliance: its state, its evidence, its activity and its boot.

use super::html::Html;
use super::words::{UNKNOWN, age, count, memory, rate};
use super::{boot, words};
use crate::expiry::{self, Term};
use crate::lifecycle::{Millis, State};
use crate::text::utc;
use crate::update::Phase;
use crate::watch::{Evidence, Watched};

/// Appearance of a state: a shape and a colour, either of which suffices to tell it.
pub(super) enum Look {
    Good,
    Moving,
    Resting,
    Bad,
}

pub(super) fn look(state: &State) -> Look {
    match state {
        State::Serving => Look::Good,
        State::Preparing { .. } | State::Booting | State::Attesting | State::Draining { .. } => {
            Look::Moving
        }
        State::Created | State::Stopped { .. } => Look::Resting,
        State::Failed { .. } => Look::Bad,
    }
}

pub(super) fn card(html: &mut Html, one: &Watched, now: Millis) {
    let (view, life) = (&one.view, &one.view.life);
    html.around(
        "<article class=\"card ",
        class(&look(&life.state)),
        "\" id=\"vm-",
    );
    html.text(&view.name)
        .raw("\" aria-labelledby=\"name-")
        .text(&view.name);
    html.raw("\"><header><h2 id=\"name-").text(&view.name);
    html.around("\">", &view.name, "</h2><p class=\"state\">");
    shape(html, &look(&life.state));
    html.around("<b>", state_word(&life.state), "</b> <span class=\"for\">");
    html.text(&since(one, now)).raw("</span></p></header>");
    if let Some(trouble) = trouble(one, now) {
        html.around("<p class=\"trouble\">", &trouble, "</p>");
    }
    if matches!(life.state, State::Serving | State::Draining { .. }) {
        figures(html, one);
    }
    facts(html, one, now);
    boot::bars(html, one);
    html.raw("</article>");
}

fn class(look: &Look) -> &'static str {
    match look {
        Look::Good => "good",
        Look::Moving => "moving",
        Look::Resting => "resting",
        Look::Bad => "bad",
    }
}

/// Draws the state's shape: a disc, a half-filled ring, a square or a triangle.
pub(super) fn shape(html: &mut Html, look: &Look) {
    html.raw("<svg class=\"shape\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">");
    html.raw(match look {
        Look::Good => "<circle cx=\"8\" cy=\"8\" r=\"6\"/>",
        Look::Moving => "<path d=\"M8 2a6 6 0 0 1 0 12z\"/><circle class=\"line\" cx=\"8\" cy=\"8\" r=\"5.25\"/>",
        Look::Resting => "<rect class=\"line\" x=\"3\" y=\"3\" width=\"10\" height=\"10\" rx=\"1\"/>",
        Look::Bad => "<path d=\"M8 1.5 15 14H1z\"/>",
    });
    html.raw("</svg>");
}

fn state_word(state: &State) -> &'static str {
    match state {
        State::Created => "Never started",
        State::Preparing {
            restart_at: Some(_),
        } => "Restarting",
        State::Preparing { restart_at: None } => "Preparing",
        State::Booting => "Booting",
        State::Attesting => "Attesting",
        State::Serving => "Serving",
        State::Draining { .. } => "Draining",
        State::Stopped { .. } => "Stopped",
        State::Failed { .. } => "Failed",
    }
}

fn since(one: &Watched, now: Millis) -> String {
    match one.view.life.state {
        State::Preparing {
            restart_at: Some(at),
        } => format!("in {}", age(at.saturating_sub(now))),
        State::Created => String::new(),
        _ => format!("for {}", age(now.saturating_sub(one.view.life.since))),
    }
}

/// Returns what needs the operator's attention, as one sentence.
fn trouble(one: &Watched, now: Millis) -> Option<String> {
    let not_after = one.view.deployment.not_after;
    let ending = not_after.and_then(|end| expiry::warning(end, now / 1000));
    let ended = not_after.is_some_and(|end| expiry::term(end, now / 1000) == Term::Ended);
    let life = &one.view.life;
    let halted = one
        .view
        .report
        .as_ref()
        .and_then(|report| report.halted.as_ref());
    let last = life.last_failure.as_deref().unwrap_or("no reason is known");
    match &life.state {
        State::Failed { reason } => Some(format!("Given up: {reason}")),
        State::Preparing {
            restart_at: Some(_),
        } => Some(format!("Failure {} in a row: {last}", life.in_a_row())),
        _ if halted.is_some() => Some(format!("The machine stands still: {}", halted?)),
        _ if ended => ending.map(sentence),
        State::Serving if one.rates.is_none() && told(one).is_some() => Some(
            "The guest has told nothing for a while: its figures are the last ones.".to_owned(),
        ),
        _ if updating(one, now).is_some() => updating(one, now),
        _ if ending.is_some() => ending.map(sentence),
        _ if one.view.outdated => {
            Some("Runs what the file said before: a restart makes it what it says now.".to_owned())
        }
        _ => None,
    }
}

fn sentence(text: String) -> String {
    let mut rest = text.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest).chain(['.']).collect()
}

/// Describes the update under way, or the last one if it failed.
fn updating(one: &Watched, now: Millis) -> Option<String> {
    let update = &one.view.update.as_ref()?.update;
    let what = if update.rollback {
        "Rollback"
    } else {
        "Update"
    };
    let words = update.words();
    match update.phase {
        Phase::Done => None,
        Phase::Failed { .. } => {
            let ago = age(now.saturating_sub(update.since));
            Some(format!("{what}, {ago} ago: {words}."))
        }
        _ => Some(format!("{what}: {words}.")),
    }
}

fn told(one: &Watched) -> Option<cocoon_protocol::control::Metrics> {
    one.view.report.as_ref()?.metrics
}

/// Writes the two figures that are read from across a room.
fn figures(html: &mut Html, one: &Watched) {
    let tokens = one.rates.map(|rates| rate(rates.completion_tokens));
    let requests = one.rates.map(|rates| rate(rates.requests * 60.0));
    html.raw("<dl class=\"figures\">");
    for (label, number) in [("tokens/s", tokens), ("requests/min", requests)] {
        html.around("<div><dt>", label, "</dt><dd");
        html.raw(match number {
            Some(_) => ">",
            None => " class=\"unknown\">",
        });
        html.text(number.as_deref().unwrap_or(UNKNOWN))
            .raw("</dd></div>");
    }
    html.raw("</dl>");
}

fn facts(html: &mut Html, one: &Watched, now: Millis) {
    let view = &one.view;
    html.raw("<dl class=\"facts\"><div><dt>Evidence</dt><dd class=\"evidence\">");
    seal(html, one);
    html.around("<span>", &evidence(one, now), "</span></dd></div>");
    gpus(html, one);
    let mut fact = |name: &'static str, value: &str| {
        html.around("<div><dt>", name, "</dt><dd>")
            .text(value)
            .raw("</dd></div>");
    };
    let served = told(one).map(|told| {
        let errors = match told.errors {
            0 => String::new(),
            1 => ", 1 error".to_owned(),
            errors => format!(", {} errors", count(errors)),
        };
        format!(
            "{} requests{errors} · {} tokens",
            count(told.requests),
            count(told.completion_tokens)
        )
    });
    fact("Since boot", served.as_deref().unwrap_or(UNKNOWN));
    let cpus = if view.vcpus == 1 { "vCPU" } else { "vCPUs" };
    let size = memory(u64::from(view.memory_mib) << 20);
    fact("Machine", &format!("{} {cpus} · {size}", view.vcpus));
    fact("Manifest", manifest(one, now).as_deref().unwrap_or(UNKNOWN));
    fact("Listener", &view.listen.to_string());
    html.raw("</dl>");
}

/// Draws a shield: solid for a real TEE, dashed for a simulated one, empty while there is no evidence.
fn seal(html: &mut Html, one: &Watched) {
    let class = match (one.evidence, one.is_simulated()) {
        (Evidence::None | Evidence::Coming, _) => "none",
        (Evidence::Taken { .. }, true) => "imitated",
        (Evidence::Taken { .. }, false) => "real",
    };
    html.around(
        "<svg class=\"seal ",
        class,
        "\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">",
    );
    html.raw("<path d=\"M8 1.5 13.5 3.4v4.2c0 3.3-2.2 5.6-5.5 6.9-3.3-1.3-5.5-3.6-5.5-6.9V3.4z\"/></svg>");
}

fn evidence(one: &Watched, now: Millis) -> String {
    let tee = match one.view.tee.as_str() {
        "tdx" | "simulated-tdx" => "TDX",
        _ => "SEV-SNP",
    };
    let kind = match one.is_simulated() {
        true => format!("Simulated {tee}, proves nothing"),
        false => tee.to_owned(),
    };
    match one.evidence {
        Evidence::None => format!("{kind}, none yet"),
        Evidence::Coming => format!("{kind}, on its way"),
        Evidence::Taken { at } => {
            let taken = at.map(|at| format!(" · {} old", age(now.saturating_sub(at))));
            let asked = told(one).map(|told| format!(" · given to {}", clients(told.attestations)));
            format!(
                "{kind}{}{}",
                taken.unwrap_or_default(),
                asked.unwrap_or_default()
            )
        }
    }
}

/// Describes when clients stop accepting the manifest.
fn manifest(one: &Watched, now: Millis) -> Option<String> {
    let end = one.view.deployment.not_after?;
    let span = age(end.saturating_mul(1000).abs_diff(now));
    let date = utc(end);
    let (day, _) = date.split_once('T')?;
    Some(match expiry::term(end, now / 1000) {
        Term::Ended => format!("ended {span} ago, on {day}"),
        Term::Fine | Term::EndsSoon => format!("ends in {span}, on {day}"),
    })
}

fn clients(number: u64) -> String {
    match number {
        1 => "1 client".to_owned(),
        number => format!("{} clients", count(number)),
    }
}

/// Writes two lines for each GPU: what it is, and its memory and temperature.
fn gpus(html: &mut Html, one: &Watched) {
    html.raw("<div><dt>GPU</dt><dd>");
    if one.gpus.is_empty() {
        html.raw("none");
    }
    for gpu in &one.gpus {
        let memory = match (gpu.memory_used_bytes, gpu.memory_bytes) {
            (Some(used), Some(all)) => {
                format!("{} of {}", words::memory(used), words::memory(all))
            }
            (None, Some(all)) => words::memory(all),
            _ => UNKNOWN.to_owned(),
        };
        let degrees = gpu.temperature_celsius;
        let degrees = degrees.filter(|degrees| degrees.abs() < 1000.0);
        let degrees = degrees.map(|degrees| format!("{degrees:.0}\u{a0}°C"));
        html.around(
            "<span class=\"what\">",
            gpu.model.as_deref().unwrap_or(&gpu.address),
            "</span>",
        );
        html.around("<span class=\"how\">memory ", &memory, ", temperature ");
        html.text(degrees.as_deref().unwrap_or(UNKNOWN))
            .raw("</span>");
    }
    html.raw("</dd></div>");
}
