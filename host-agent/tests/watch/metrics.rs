//! The metrics: their exact text, and that `docs/metrics.md` lists all of them and no others.

use std::collections::BTreeSet;

use cocoon_host_agent::lifecycle::{State, Then};
use cocoon_host_agent::watch::metrics::text;

use crate::moments::{busy, serving, silent, watch};

const PAGE: &str = include_str!("../../docs/metrics.md");

/// Returns the exported metric families as name and type.
fn families(text: &str) -> BTreeSet<(String, String)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = types.map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(name, kind)| {
            let total = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{total}"), kind.to_owned())
        })
        .collect()
}

#[test]
fn the_page_lists_every_family_and_no_other() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeSet<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let name = cells.next().unwrap().trim_matches('`').to_owned();
            (name, cells.next().unwrap().to_owned())
        })
        .collect();
    let exported = families(&text(&busy()));
    assert_eq!(listed, exported);
    assert!(exported.len() > 25, "{exported:?}");
    // An idle machine has the same families.
    assert_eq!(families(&text(&watch(vec![]))), exported);
}

#[test]
fn the_page_names_every_label_of_every_family() {
    for line in text(&busy()).lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let row = PAGE
            .lines()
            .find(|row| row.starts_with(&format!("| `{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in the page"));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        if let Some((labels, _)) = labels {
            for label in labels.split(',') {
                let (label, _) = label.split_once('=').unwrap();
                assert!(row.contains(&format!("`{label}`")), "{row} lacks {label}");
            }
        }
    }
}

#[test]
fn numbers_are_exact_and_labelled() {
    let text = text(&busy());
    for line in [
        "# UNIT cocoon_host_memory_available_bytes bytes",
        "cocoon_host_info{version=\"0.1.0\"} 1",
        "cocoon_host_memory_available_bytes 128849018880",
        "cocoon_host_events_total 57",
        "process_cpu_seconds_total 4.5",
        "cocoon_appliance_state{appliance=\"llama-8b\",state=\"serving\"} 1",
        "cocoon_appliance_state{appliance=\"llama-8b\",state=\"failed\"} 0",
        "cocoon_appliance_state{appliance=\"mixtral\",state=\"failed\"} 1",
        "cocoon_appliance_failures{appliance=\"mixtral\"} 5",
        "cocoon_appliance_info{appliance=\"try-out\",tee=\"simulated-tdx\"} 1",
        "cocoon_appliance_boot_phase_duration_seconds{appliance=\"llama-8b\",phase=\"model\"} 2.33",
        "cocoon_appliance_evidence_timestamp_seconds{appliance=\"llama-8b\"} 1759992738.54",
        "cocoon_appliance_manifest_not_after_timestamp_seconds{appliance=\"llama-8b\"} 1762505600",
        // An integer that a 64-bit floating-point number cannot represent.
        "cocoon_guest_prompt_tokens_total{appliance=\"llama-8b\"} 9007199254740993",
        "cocoon_gpu_info{appliance=\"llama-8b\",gpu=\"0\",address=\"0000:17:00.0\",model=\"H100 SXM5 80 GB\"} 1",
        "cocoon_gpu_memory_bytes{appliance=\"llama-8b\",gpu=\"0\"} 85520809984",
        "cocoon_gpu_memory_used_bytes{appliance=\"llama-8b\",gpu=\"0\"} 64961380352",
        "cocoon_gpu_temperature_celsius{appliance=\"llama-8b\",gpu=\"0\"} 64.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

/// A state that is missing from the list of labels would have no sample with the value 1.
#[test]
fn every_state_is_the_one_of_its_name() {
    let states = [
        State::Created,
        State::Preparing { restart_at: None },
        State::Booting,
        State::Attesting,
        State::Serving,
        State::Draining {
            then: Then::Start,
            killed: false,
        },
        State::Stopped { resume: false },
        State::Failed {
            reason: String::new(),
        },
    ];
    for (place, state) in states.into_iter().enumerate() {
        // The exhaustive match makes a new state a compile error here.
        let known = match state {
            State::Created => 0,
            State::Preparing { .. } => 1,
            State::Booting => 2,
            State::Attesting => 3,
            State::Serving => 4,
            State::Draining { .. } => 5,
            State::Stopped { .. } => 6,
            State::Failed { .. } => 7,
        };
        assert_eq!(known, place);
        let name = state.name();
        let mut one = serving("a");
        one.view.life.state = state;
        let text = text(&watch(vec![one]));
        let of = text
            .lines()
            .filter(|line| line.starts_with("cocoon_appliance_state{"));
        let ones: Vec<&str> = of.filter(|line| line.ends_with(" 1")).collect();
        let expected = format!("cocoon_appliance_state{{appliance=\"a\",state=\"{name}\"}} 1");
        assert_eq!(ones, [expected]);
    }
}

/// An unknown value has no sample, since zero would be wrong.
#[test]
fn what_is_unknown_is_absent() {
    let mut one = serving("a");
    one.gpus = vec![silent()];
    let text = text(&watch(vec![one]));
    for name in [
        "cocoon_gpu_temperature_celsius",
        "cocoon_gpu_memory_bytes",
        "cocoon_gpu_memory_used_bytes",
    ] {
        let sample = format!("{name}{{");
        assert!(text.contains(&format!("# TYPE {name} gauge")), "{text}");
        assert!(!text.contains(&sample), "{text}");
    }
    let idle = self::text(&watch(vec![]));
    assert!(!idle.contains("appliance="), "{idle}");
}
