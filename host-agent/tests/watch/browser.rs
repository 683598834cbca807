//! The status page in a real browser: on small and large screens, in light and dark colours, with and without scripts.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use cocoon_host_agent::daemon::api::Entry;
use cocoon_host_agent::status::{Source, routes};
use cocoon_host_agent::watch::Watch;
use cocoon_host_agent::web::{Web, WebSettings};
use serde_json::Value;

use crate::chromium::Chromium;
use crate::moments::{busy, crowded, events, hostile, hostile_events, serving, watch};
use crate::skip::skipped;

const PHONE: (u32, u32) = (390, 844);
const WALL: (u32, u32) = (1920, 1080);
const SCREENS: [(u32, u32); 5] = [(320, 568), PHONE, (820, 1180), WALL, (3840, 2160)];

/// What the page shows. A test may change it.
#[derive(Clone)]
struct Shown(Arc<Mutex<(Watch, Vec<Entry>)>>);

impl Shown {
    fn show(&self, watch: Watch, events: Vec<Entry>) {
        *self.0.lock().unwrap() = (watch, events);
    }
}

impl Source for Shown {
    fn watch(&self) -> Watch {
        self.0.lock().unwrap().0.clone()
    }

    fn events(&self, most: usize) -> Vec<Entry> {
        let mut events = self.0.lock().unwrap().1.clone();
        events.truncate(most);
        events
    }
}

/// A browser, a listener with the status page, and what the page shows.
struct Stage {
    runtime: tokio::runtime::Runtime,
    address: String,
    shown: Shown,
    browser: Chromium,
}

impl Stage {
    fn set() -> Option<Self> {
        let Some(browser) = Chromium::start() else {
            skipped(
                "there is no Chromium to look at the status page with: apt-get install chromium, or set COCOON_CHROMIUM",
            );
            return None;
        };
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let shown = Shown(Arc::new(Mutex::new((busy(), events()))));
        let guard = runtime.enter();
        let listen = "127.0.0.1:0".parse().unwrap();
        let web = Web::bind(&WebSettings { listen, tls: None }).unwrap();
        let at = web.address().unwrap();
        let source: Arc<dyn Source> = Arc::new(shown.clone());
        runtime.spawn(web.run(routes(&source, at, None)));
        drop(guard);
        let address = format!("http://{at}/");
        Some(Self {
            runtime,
            address,
            shown,
            browser,
        })
    }

    fn open(&mut self) {
        let address = self.address.clone();
        self.browser.open(&address);
    }

    /// Returns descriptions of all visible faults of the layout.
    fn faults(&mut self) -> Vec<String> {
        match self.browser.value(FAULTS) {
            Value::Array(faults) => faults.iter().map(Value::to_string).collect(),
            other => panic!("{other}"),
        }
    }

    fn keep(&mut self, name: &str, whole: bool) {
        let path =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("status-{name}.png"));
        std::fs::write(&path, self.browser.picture(whole)).unwrap();
        println!("{}", path.display());
    }
}

/// Checks that nothing sticks out of the screen, no text leaves its box or overlaps a neighbour, and no bar leaves its track.
const FAULTS: &str = r#"(() => {
  const faults = [];
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) faults.push(`the page is ${document.documentElement.scrollWidth} wide on ${wide}`);
  const name = (e) => `${e.tagName}.${e.getAttribute("class") || e.id} "${e.textContent.trim().slice(0, 40)}"`;
  const inside = (a, b) => a.left >= b.left - 0.6 && a.right <= b.right + 0.6 && a.top >= b.top - 0.6 && a.bottom <= b.bottom + 0.6;
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || e.id === "said" || e.closest("svg svg")) continue;
    if (box.right > wide + 0.6 || box.left < -0.6) faults.push(`${name(e)} sticks out: ${box.left} to ${box.right}`);
    if (e.id !== "events" && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1) faults.push(`${name(e)} is clipped: ${e.scrollWidth} in ${e.clientWidth}`);
    const card = e.closest(".card, #events, .summary, .top");
    if (card && card !== e && card.id !== "events" && !inside(box, card.getBoundingClientRect())) faults.push(`${name(e)} leaves its card`);
  }
  const bars = [...document.querySelectorAll(".bar")];
  for (const bar of bars) {
    const [box, track] = [bar.getBoundingClientRect(), bar.closest(".track").getBoundingClientRect()];
    if (!inside(box, track)) faults.push(`a bar leaves its track: ${box.left}-${box.right} in ${track.left}-${track.right}`);
    if (box.width < 0.5 || box.height < 3) faults.push(`a bar cannot be seen: ${box.width} by ${box.height}`);
  }
  for (const row of document.querySelectorAll(".card header, .boot li, .facts div, .top, #events li")) {
    const parts = [...row.children].map((e) => e.getBoundingClientRect());
    for (let i = 1; i < parts.length; i++) {
      const [a, b] = [parts[i - 1], parts[i]];
      if (a.right > b.left + 0.6 && a.bottom > b.top + 0.6 && b.right > a.left + 0.6 && b.bottom > a.top + 0.6) faults.push(`${name(row)}: parts overlap`);
    }
  }
  return faults;
})()"#;

#[test]
fn the_page_fits_every_screen() {
    let Some(mut stage) = Stage::set() else {
        return;
    };
    let moments = [
        ("busy", busy(), events()),
        ("crowded", crowded(), events()),
        ("hostile", hostile(), hostile_events()),
        ("empty", watch(vec![]), vec![]),
    ];
    let mut faults = String::new();
    for (moment, watch, events) in moments {
        stage.shown.show(watch, events);
        for screen in SCREENS {
            for dark in [false, true] {
                stage.browser.dress(screen, dark, true);
                stage.open();
                let (width, height) = screen;
                let light = if dark { "dark" } else { "light" };
                for fault in stage.faults() {
                    writeln!(faults, "{moment} on {width}x{height}: {fault}").unwrap();
                }
                if screen == PHONE || screen == WALL {
                    stage.keep(
                        &format!("{moment}-{width}x{height}-{light}"),
                        screen == PHONE,
                    );
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    // The page loaded nothing from elsewhere, and its policy refused nothing of ours.
    assert_eq!(stage.browser.complaints, Vec::<String>::new());
}

#[test]
fn without_scripts_it_says_the_same() {
    let Some(mut stage) = Stage::set() else {
        return;
    };
    stage.browser.dress(PHONE, false, true);
    const TEXT: &str = "document.body.innerText.replace('live', 'as of')";
    stage.open();
    stage
        .browser
        .until("document.documentElement.classList.contains('script')");
    let with = stage.browser.value(TEXT);
    stage.browser.scripts(false);
    stage.open();
    assert_eq!(
        stage.browser.value("document.documentElement.className"),
        ""
    );
    assert_eq!(stage.browser.value(TEXT), with);
    // Without scripts, the page reloads itself every ten seconds.
    let again = stage
        .browser
        .value("document.querySelector('noscript meta')?.content ?? null");
    assert_eq!(again, "10");
    let text = with.as_str().unwrap().replace('\u{a0}', " ");
    for fact in [
        "2 of 4",
        "Serving",
        "llama-8b",
        "H100 SXM5 80 GB",
        "memory 60.5 GiB of 79.6 GiB, temperature 64 °C",
        "Given up: the guest failed",
    ] {
        assert!(text.contains(fact), "{fact} is not in\n{text}");
    }
}

#[test]
fn with_scripts_it_follows_and_says_when_it_cannot() {
    let Some(mut stage) = Stage::set() else {
        return;
    };
    stage.browser.dress(WALL, true, true);
    stage.open();
    stage
        .browser
        .until("document.documentElement.classList.contains('script')");
    // Unchanged elements stay in the document, with whatever a reader has selected there.
    stage
        .browser
        .value("document.getElementById('vm-llama-8b').kept = true");
    let mut next = busy();
    next.appliances[3] = serving("mixtral");
    stage.shown.show(next, events());
    stage
        .browser
        .until("document.title.startsWith('3 of 4 serving')");
    stage
        .browser
        .until("document.querySelector('#vm-mixtral b').textContent === 'Serving'");
    assert_eq!(
        stage
            .browser
            .value("document.getElementById('vm-llama-8b').kept"),
        true
    );
    assert_eq!(
        stage
            .browser
            .value("document.getElementById('said').textContent"),
        "3 of 4 serving"
    );
    // If the set of appliances changes, the script replaces the whole content.
    let mut next = busy();
    next.appliances.push(serving("another"));
    stage.shown.show(next, events());
    stage
        .browser
        .until("document.getElementById('vm-another') !== null");
    assert_eq!(
        stage
            .browser
            .value("document.getElementById('lost').hidden"),
        true
    );
    let Stage {
        runtime,
        mut browser,
        ..
    } = stage;
    runtime.shutdown_background();
    browser.until("!document.getElementById('lost').hidden");
    let words = browser.value("document.querySelector('#live span').textContent");
    assert_eq!(words, "last at");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-lost.png");
    std::fs::write(path, browser.picture(false)).unwrap();
}

#[test]
fn words_of_others_are_shown_and_never_run() {
    let Some(mut stage) = Stage::set() else {
        return;
    };
    stage.browser.dress(WALL, false, true);
    stage.shown.show(hostile(), hostile_events());
    stage.open();
    assert_eq!(stage.browser.value("typeof window.stolen"), "undefined");
    assert_eq!(
        stage
            .browser
            .value("document.querySelectorAll('img, iframe, object, form').length"),
        0
    );
    let text = stage.browser.value("document.body.textContent");
    assert!(
        text.as_str()
            .unwrap()
            .contains("<script>window.stolen = 1</script>"),
        "{text}"
    );
    // A script that gets into the page nevertheless does not run.
    stage.browser.value("(() => { const s = document.createElement('script'); s.textContent = 'window.stolen = 2'; document.body.append(s); })()");
    assert_eq!(stage.browser.value("typeof window.stolen"), "undefined");
    let complaint = stage
        .browser
        .complaints
        .iter()
        .any(|words| words.contains("Content Security Policy"));
    assert!(complaint, "{:?}", stage.browser.complaints);
}

#[test]
fn it_can_be_heard_and_stands_still_where_that_is_wanted() {
    let Some(mut stage) = Stage::set() else {
        return;
    };
    stage.browser.dress(PHONE, false, false);
    stage.open();
    let moving = stage.browser.value("document.getAnimations().length > 0");
    assert_eq!(moving, true, "nothing moves where it may");
    stage.browser.dress(PHONE, false, true);
    stage.open();
    assert_eq!(stage.browser.value("document.getAnimations().length"), 0);
    for (what, expected) in [
        ("document.documentElement.lang", "en"),
        ("document.querySelectorAll('h1').length", "1"),
        (
            "[...document.querySelectorAll('[aria-labelledby]')].every((e) => document.getElementById(e.getAttribute('aria-labelledby')))",
            "true",
        ),
        (
            "[...document.querySelectorAll('svg')].every((e) => e.getAttribute('aria-hidden') === 'true')",
            "true",
        ),
        (
            "new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size === document.querySelectorAll('[id]').length",
            "true",
        ),
        (
            "document.getElementById('said').getAttribute('role')",
            "status",
        ),
        ("document.querySelectorAll('article h2').length", "4"),
    ] {
        let found = stage.browser.value(what);
        let found = found.as_str().map_or(found.to_string(), str::to_owned);
        assert_eq!(found, expected, "{what}");
    }
}
