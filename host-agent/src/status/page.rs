//! The status page: a pure function from a snapshot and the latest events to HTML.

use super::appliance::{Look, card, look, shape};
use super::html::Html;
use super::words::{UNKNOWN, count, memory, rate, time};
use crate::daemon::api::Entry;
use crate::daemon::journal::{MANIFEST, UPDATE_FAILED};
use crate::lifecycle::State;
use crate::watch::Watch;

/// Reloads the page every ten seconds in browsers without scripts.
const REFRESH: &str = "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>";

/// Returns the whole HTML document.
#[must_use]
pub fn page(watch: &Watch, events: &[Entry]) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">");
    html.around("<title>", &headline(watch), " · Cocoon</title>");
    html.raw("<link rel=\"stylesheet\" href=\"/style.css?");
    html.text(&watch.version)
        .raw("\"><link rel=\"icon\" href=\"/icon.svg\">");
    html.raw(REFRESH);
    html.raw("<script src=\"/script.js\" defer></script></head><body><header class=\"top\">");
    html.raw("<h1><svg class=\"mark\" viewBox=\"0 0 32 32\" aria-hidden=\"true\">");
    html.raw(MARK)
        .raw("</svg>Cocoon <span>status</span></h1><p id=\"live\"><span>as of</span> ");
    stamp(&mut html, watch.time as f64 / 1000.0);
    html.raw("</p></header><p id=\"said\" role=\"status\">")
        .text(&headline(watch));
    html.raw("</p><p id=\"lost\" role=\"alert\" hidden>No answer from the daemon. What is shown is from before.</p>");
    html.raw("<main>");
    main(&mut html, watch, events);
    html.raw("</main><footer><p>Figures are this host’s and its guests’ own word. ");
    html.raw("Only a client’s verdict over fresh evidence says what runs.</p><p>cocoon-host ");
    html.text(&watch.version)
        .raw(" · ")
        .text(&watch.file.display().to_string());
    html.raw(" · <a href=\"/metrics\">metrics</a></p></footer></body></html>\n");
    html.into_string()
}

/// Writes the parts that the script replaces; their element ids must stay the same.
fn main(html: &mut Html, watch: &Watch, events: &[Entry]) {
    summary(html, watch);
    html.raw("<section id=\"appliances\" aria-label=\"Appliances\">");
    if watch.appliances.is_empty() {
        html.raw("<div class=\"empty\"><h2>No appliance yet</h2><p>Describe one in ");
        html.around(
            "<code>",
            &watch.file.display().to_string(),
            "</code> and start the daemon again. ",
        );
        html.raw("<code>cocoon-host config example</code> prints a file to begin with.</p></div>");
    }
    for one in &watch.appliances {
        card(html, one, watch.time);
    }
    html.raw(
        "</section><section id=\"events\" aria-labelledby=\"events-name\"><h2 id=\"events-name\">",
    );
    html.raw("Events <span>UTC</span></h2>");
    if events.is_empty() {
        html.raw("<p class=\"quiet\">Nothing has happened since the daemon’s start.</p>");
    } else {
        html.raw("<ol>");
        let mut day = day(watch.time as f64 / 1000.0);
        for entry in events {
            let of = self::day(entry.time);
            if of != day {
                html.around("<li class=\"day\">", &of, "</li>");
                day = of;
            }
            event(html, entry);
        }
        html.raw("</ol>");
    }
    html.raw("</section>");
}

fn headline(watch: &Watch) -> String {
    let (mut serving, mut failed) = (0_usize, 0_usize);
    for one in &watch.appliances {
        match one.view.life.state {
            State::Serving => serving += 1,
            State::Failed { .. } => failed += 1,
            _ => {}
        }
    }
    let failed = if failed > 0 {
        format!(", {failed} failed")
    } else {
        String::new()
    };
    format!("{serving} of {} serving{failed}", watch.appliances.len())
}

/// Writes the key figures of the whole host.
fn summary(html: &mut Html, watch: &Watch) {
    let serving = watch.appliances.iter();
    let serving = serving
        .filter(|one| one.view.life.state == State::Serving)
        .count();
    let rates: Vec<f64> = (watch.appliances.iter())
        .filter_map(|one| Some(one.rates?.completion_tokens))
        .collect();
    let tokens = (!rates.is_empty()).then(|| rate(rates.iter().sum()));
    let host = &watch.host;
    let (free, all) = (host.memory_available_bytes, host.memory_bytes);
    let load = host.load1.map(|load| format!("{load:.2}"));
    let cells = [
        (
            "Serving",
            Some(serving.to_string()),
            format!("of {}", watch.appliances.len()),
        ),
        ("Tokens per second", tokens, "over a minute".to_owned()),
        (
            "Memory free",
            free.map(memory),
            all.map_or(String::new(), |all| format!("of {}", memory(all))),
        ),
        (
            "Load",
            load,
            host.processors.map_or(String::new(), |many| {
                format!("on {} processors", count(many))
            }),
        ),
    ];
    html.raw("<dl id=\"summary\" class=\"summary\">");
    for (name, figure, beside) in cells {
        html.around("<div><dt>", name, "</dt><dd>");
        html.raw(match figure {
            Some(_) => "<b>",
            None => "<b class=\"unknown\">",
        });
        html.text(figure.as_deref().unwrap_or(UNKNOWN))
            .raw("</b> <span>")
            .text(&beside);
        html.raw("</span></dd></div>");
    }
    html.raw("</dl>");
}

fn event(html: &mut Html, entry: &Entry) {
    html.raw("<li>");
    stamp(html, entry.time);
    html.raw("<p>");
    let look = match entry.state.as_str() {
        "serving" => Some(Look::Good),
        "failed" | "unknown" | UPDATE_FAILED | MANIFEST => Some(Look::Bad),
        "created" | "stopped" => Some(Look::Resting),
        "note" => None,
        _ => Some(look(&State::Booting)),
    };
    html.raw("<span class=\"mark-of ");
    html.raw(match look {
        Some(Look::Good) => "good\">",
        Some(Look::Bad) => "bad\">",
        Some(Look::Moving) => "moving\">",
        Some(Look::Resting) => "resting\">",
        None => "note\">",
    });
    match &look {
        Some(look) => shape(html, look),
        None => drop(html.raw("<i aria-hidden=\"true\"></i>")),
    }
    html.raw("</span>");
    if let Some(name) = &entry.appliance {
        html.around("<b>", name, "</b> ");
    }
    html.text(&entry.text).raw("</p></li>");
}

/// Returns the date in UTC.
fn day(seconds: f64) -> String {
    let (_, full) = time(seconds);
    full.chars().take_while(|c| *c != 'T').collect()
}

fn stamp(html: &mut Html, seconds: f64) {
    let (clock, full) = time(seconds);
    html.around("<time datetime=\"", &full, "\">")
        .text(&clock)
        .raw("</time>");
}

/// The logo, a cocoon: a leaf-shaped outline with threads around it.
pub(super) const MARK: &str = "<path d=\"M16 2c6 3.5 9 8.4 9 14s-3 10.500-9 14c-6-3.500-9-8.400-9-14S10 5.500 16 2z\"/>\
    <path class=\"thread\" d=\"M8.500 11.500c5 1.500 10 1.500 15 0M7.200 16c5.800 2 11.800 2 17.600 0M8.500 20.500c5 1.500 10 1.500 15 0\"/>";
