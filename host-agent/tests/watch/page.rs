//! The status page without a browser: its contents, and the contrast of its colours.

use cocoon_host_agent::daemon::api::UpdateView;
use cocoon_host_agent::status::{STYLE, page};
use cocoon_host_agent::update::{Phase, Update, Way};
use cocoon_host_agent::watch::GpuUse;

use crate::moments::{NOW, busy, events, hostile, hostile_events, serving, silent, watch};

#[test]
fn the_page_asks_for_nothing_of_anybody_else() {
    let page = page(&hostile(), &hostile_events());
    let links = page.match_indices("=\"http").count() + page.match_indices("='http").count();
    assert_eq!(links, 0, "{page}");
    assert!(
        !STYLE.contains("url(") && !STYLE.contains("@import"),
        "the style loads something"
    );
    for (place, _) in page.match_indices("<script") {
        assert!(page[place..].starts_with("<script src=\"/script.js\" defer></script>"));
    }
    assert!(!page.contains(" style="), "{page}");
}

#[test]
fn empty_machines_have_pages_of_their_own() {
    let page = page(&watch(vec![]), &[]);
    assert!(page.contains("<h2>No appliance yet</h2>"), "{page}");
    assert!(
        page.contains("Nothing has happened since the daemon’s start."),
        "{page}"
    );
    assert!(
        page.contains("<title>0 of 0 serving · Cocoon</title>"),
        "{page}"
    );
}

#[test]
fn what_nobody_knows_is_a_dash() {
    let page = page(&busy(), &events()).replace('\u{a0}', " ");
    let told = "H100 SXM5 80 GB</span><span class=\"how\">memory 60.5 GiB of 79.6 GiB, temperature 64 °C</span>";
    assert!(page.contains(told), "{page}");
    let mut one = serving("a");
    let imitated = GpuUse {
        address: "simulated".to_owned(),
        model: None,
        memory_bytes: Some(1 << 30),
        ..silent()
    };
    one.gpus = vec![silent(), imitated];
    let text = self::page(&watch(vec![one]), &[]).replace('\u{a0}', " ");
    for told in [
        "H100 SXM5 80 GB</span><span class=\"how\">memory –, temperature –</span>",
        "simulated</span><span class=\"how\">memory 1 GiB, temperature –</span>",
    ] {
        assert!(text.contains(told), "{text}");
    }
    assert!(
        page.contains("Simulated TDX, proves nothing · 2 h old · given to 1,198 clients"),
        "{page}"
    );
    assert!(page.contains("SEV-SNP, none yet"), "{page}");
}

#[test]
fn an_update_is_told_until_it_is_done() {
    let mut one = serving("first");
    let update = |phase| UpdateView {
        update: Update {
            number: 1,
            rollback: false,
            way: Way::Beside,
            phase,
            since: 0,
            until: None,
            to: one.view.deployment.clone(),
            ran: true,
            policy: None,
        },
        life: None,
        report: None,
    };
    let (starting, done) = (update(Phase::Starting), update(Phase::Done));
    one.view.update = Some(starting);
    let text = page(&watch(vec![one.clone()]), &[]);
    let told = "Update: the new VM boots beside the old one, which serves.";
    assert!(text.contains(told), "{text}");
    let reason = "no disk".to_owned();
    let mut failed = update(Phase::Failed { reason });
    failed.update.since = NOW - 7_200_000;
    one.view.update = Some(failed);
    let text = page(&watch(vec![one.clone()]), &[]);
    let told = "Update, 2\u{a0}h ago: the old VM is the appliance, as before: no disk.";
    assert!(text.contains(told), "{text}");
    one.view.update = Some(done);
    let text = page(&watch(vec![one]), &[]);
    assert!(!text.contains("Update:"), "{text}");
}

#[test]
fn a_manifest_is_told_of_before_and_after_its_end() {
    let shown = |not_after| {
        let mut one = serving("first");
        one.view.deployment.not_after = not_after;
        page(&watch(vec![one]), &[]).replace('\u{a0}', " ")
    };
    let now = NOW / 1000;
    let fine = shown(Some(now + 29 * 86_400));
    assert!(
        fine.contains("<dt>Manifest</dt><dd>ends in 29 d, on 2025-11-07</dd>"),
        "{fine}"
    );
    assert!(!fine.contains("class=\"trouble\""), "{fine}");
    let soon = shown(Some(now + 6 * 86_400));
    let told = "<p class=\"trouble\">The image&#39;s manifest ends on 2025-10-15T08:53:20Z, in 6d; from then on every client";
    assert!(soon.contains(told), "{soon}");
    let ended = shown(Some(now - 3 * 86_400));
    assert!(
        ended.contains("<dd>ended 3 d ago, on 2025-10-06</dd>"),
        "{ended}"
    );
    let told = "ended on 2025-10-06T08:53:20Z, 3d ago; every client refuses this appliance: build or get a newer";
    assert!(ended.contains(told), "{ended}");
    let unknown = shown(None);
    assert!(unknown.contains("<dt>Manifest</dt><dd>–</dd>"), "{unknown}");
}

/// WCAG 2.2: success criterion 1.4.3 for text, and 1.4.11 for shapes and bars.
#[test]
fn colours_can_be_told_from_what_they_stand_on() {
    let (light, dark) = STYLE.split_once("(prefers-color-scheme: dark)").unwrap();
    for (theme, name) in [(light, "light"), (dark, "dark")] {
        let colour = |name: &str| {
            let (_, rest) = theme.split_once(&format!("--{name}: #")).unwrap();
            u32::from_str_radix(&rest[..6], 16).unwrap()
        };
        for (front, back, least) in [
            ("ink", "page", 7.0),
            ("ink", "card", 7.0),
            ("ink", "rail", 7.0),
            ("soft", "page", 4.5),
            ("soft", "card", 4.5),
            ("good", "card", 4.5),
            ("moving", "card", 4.5),
            ("resting", "card", 4.5),
            ("bad", "card", 4.5),
            ("bad", "bad-page", 4.5),
            ("bar", "card", 3.0),
            ("bar", "rail", 3.0),
        ] {
            let found = contrast(colour(front), colour(back));
            assert!(
                found >= least,
                "{name}: {front} on {back} has {found:.2}, {least} is needed"
            );
        }
    }
}

fn contrast(a: u32, b: u32) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Relative luminance of an sRGB colour.
fn luminance(colour: u32) -> f64 {
    let part = |shift: u32| {
        let value = f64::from(colour >> shift & 0xff) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
}
