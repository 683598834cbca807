//! The table of `cocoon-host top`.

use cocoon_host_agent::watch::top::{age, bytes, rate, table};

use crate::moments::{NOW, busy, serving, watch};

#[test]
fn the_table_shows_what_is_known() {
    let expected = "\
cocoon-host 0.1.0 · 2 of 4 serving · 413 tokens/s
load 3.25 on 128 processors · memory 120 GiB of 512 GiB free

NAME                     STATE         FOR EVIDENCE             TOK/S    REQ/S  ANSWERED  ERRORS    MEMORY  GPU USED GPU °C
llama-8b                 serving        2h real, 2h               413      2.2      5432       3  99.0 GiB  60.5 GiB     64
try-out                  serving        2h simulated, 2h            –        –      5432       3  99.0 GiB         –      –
llama-70b                booting        3s –                        –        –         –       –         –         –      –
mixtral                  failed        24h –                        –        –         –       –         –         –      –
";
    assert_eq!(table(&busy(), usize::MAX), expected);
    let narrow = table(&busy(), 20);
    assert!(
        narrow.lines().all(|line| line.chars().count() <= 20),
        "{narrow}"
    );
    let idle = table(&watch(vec![]), usize::MAX);
    assert!(
        idle.starts_with("cocoon-host 0.1.0 · 0 of 0 serving · – tokens/s\n"),
        "{idle}"
    );
}

#[test]
fn a_manifest_that_ends_is_seen_at_a_glance() {
    let shown = |not_after| {
        let mut one = serving("first");
        one.view.deployment.not_after = Some(not_after);
        let table = table(&watch(vec![one]), usize::MAX);
        table.lines().last().unwrap()[43..].to_owned()
    };
    let now = NOW / 1000;
    for (not_after, expected) in [
        (now + 8 * 86_400, "real, 2h               413 "),
        (now + 6 * 86_400, "manifest 6d left       413 "),
        (now - 1, "manifest ended         413 "),
    ] {
        let shown = shown(not_after);
        assert!(shown.starts_with(expected), "{shown}");
    }
}

#[test]
fn amounts_are_short_and_never_round_to_something_else() {
    let ages = [
        (0, "0s"),
        (59_999, "59s"),
        (60_000, "1m"),
        (3_600_000, "1h"),
        (172_800_000, "2d"),
    ];
    for (millis, expected) in ages {
        assert_eq!(age(millis), expected);
    }
    for (amount, expected) in [
        (0, "0 KiB"),
        (1 << 20, "1 MiB"),
        (3 << 29, "1.5 GiB"),
        (120 << 30, "120 GiB"),
    ] {
        assert_eq!(bytes(amount), expected);
    }
    let rates = [
        (None, "–"),
        (Some(0.0), "0"),
        (Some(0.26), "0.3"),
        (Some(412.6), "413"),
    ];
    for (number, expected) in rates {
        assert_eq!(rate(number), expected);
    }
}
