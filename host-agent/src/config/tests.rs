//! The configuration file: defaults, errors with their positions, and conflicts.

use proptest::prelude::*;

use super::*;
use crate::web::TlsFiles;

mod devices;
mod listener;
mod missing;

/// A machine on which everything fits.
fn large() -> Machine {
    Machine {
        memory_mib: Some(1 << 20),
        processors: 64,
        nodes: vec![0, 1],
        hugepages: |_| Some(8),
        has_folder: |_| true,
        has_file: |_| true,
    }
}

const MINIMAL: &str = r#"version = 1
[[appliance]]
name = "first"
image = "/image"
memory = "1G"
vcpus = 1
tee = "tdx"
listen = "127.0.0.1:8443"
"#;

fn problems(text: &str, machine: &Machine) -> Vec<String> {
    match HostConfig::parse(text, "f", machine) {
        Ok(_) => vec![],
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

/// The problems reported when `line` is added at the end of the appliance, as line 9.
fn said(line: &str) -> Vec<String> {
    problems(&format!("{MINIMAL}{line}\n"), &large())
}

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let config = HostConfig::parse(EXAMPLE, "example", &large()).unwrap();
    assert_eq!(config.appliances.len(), 1);
    let first = config.appliance("first").unwrap();
    assert_eq!(first.operator.name, "example-operator");
    assert_eq!(first.restart, Restart::default());
    assert_eq!(first.limits, Limits::default());
    // The comments state the defaults. Uncommenting them must change only keys that have no default.
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let bare = line.strip_prefix("# ").filter(|line| {
            let key = line.split(" = ").next().unwrap_or_default();
            line.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        text.push_str(bare.unwrap_or(line));
        text.push('\n');
    }
    let stated = HostConfig::parse(&text, "example", &large()).unwrap();
    let mut expected = config.clone();
    expected.host.cache = Some("/var/cache/cocoon".into());
    expected.host.qemu = Some("/usr/bin/qemu-system-x86_64".into());
    expected.host.simulator = Some("/usr/bin/cocoon-simulator".into());
    expected.host.development_roots = Some("/var/lib/cocoon/development-roots".into());
    let signer = [0x11; 32];
    expected.updates.signers = vec![signer];
    expected.updates.policy = Some("/etc/cocoon/policy.toml".into());
    expected.web = Some(WebSettings {
        listen: "0.0.0.0:8444".parse().unwrap(),
        tls: Some(TlsFiles {
            certificate: "/etc/cocoon/web.pem".into(),
            key: "/etc/cocoon/web.key".into(),
        }),
    });
    expected.status = Some(StatusSettings {
        web: WebSettings {
            listen: "127.0.0.1:8450".parse().unwrap(),
            tls: Some(TlsFiles {
                certificate: "/etc/cocoon/status.pem".into(),
                key: "/etc/cocoon/status.key".into(),
            }),
        },
        named: true,
        login: Some("/etc/cocoon/status.login".into()),
    });
    let appliance = &mut expected.appliances[0];
    appliance.manifest = Some("/srv/cocoon/manifest.json".into());
    let address = "EQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM9c";
    appliance.operator.payout_address = Some(address.into());
    assert_eq!(stated, expected);
}

/// The file did not name the status page's address, so an appliance may have the default one.
#[test]
fn an_appliance_may_have_the_status_pages_usual_address() {
    let config = HostConfig::parse(MINIMAL, "f", &large()).unwrap();
    assert!(config.status_page().unwrap().is_some());
    for listen in ["127.0.0.1:8450", "0.0.0.0:8450"] {
        let text = MINIMAL.replace("127.0.0.1:8443", listen);
        assert_ne!(text, MINIMAL);
        let config = HostConfig::parse(&text, "f", &large()).unwrap();
        let why = config.status_page().unwrap_err();
        let name = &config.appliances[0].name;
        let expected = format!(
            "127.0.0.1:8450 is {name:?}'s: name another address as listen of [status], or \"off\""
        );
        assert_eq!(why, expected);
    }
}

#[test]
fn defaults_apply_where_nothing_is_said() {
    let config = HostConfig::parse(MINIMAL, "f", &large()).unwrap();
    assert_eq!(config.host.state, Path::new("/var/lib/cocoon"));
    assert_eq!(config.host.memory_reserve_mib, 1024);
    let status = config.status.unwrap();
    assert_eq!(
        (status.web.listen.port(), status.web.tls, status.named),
        (8450, None, false)
    );
    let first = &config.appliances[0];
    assert_eq!(first.tee, TeeMode::Real(Tee::Tdx));
    assert_eq!(
        (first.memory_mib, first.vcpus, first.autostart),
        (1024, 1, true)
    );
    assert_eq!(first.operator, OperatorConfig::default());
    assert_eq!(first.accel, Wanted::Automatic);
}

#[test]
fn every_error_names_the_place_the_key_and_what_is_allowed() {
    let amount = "allowed: an amount such as \"4G\" or \"1536M\"";
    let cases = [
        ("autostrat = true", "9:1: appliance.autostrat: unknown key; allowed: name, image, manifest, memory, vcpus, tee, cpu, gpu, listen, accelerator, autostart, operator, listener, restart, network, placement; did you mean `autostart`?".to_owned()),
        ("autostart = \"yes\"", "9:13: appliance.autostart: found \"yes\"; allowed: true or false".to_owned()),
        ("manifest = \"m.json\"", "9:12: appliance.manifest: found \"m.json\"; allowed: a path that begins with /".to_owned()),
        ("gpu = \"41:0\"", "9:7: appliance.gpu: found \"41:0\"; allowed: the PCI address of a GPU, such as \"0000:41:00.0\"".to_owned()),
        ("accelerator = \"kmv\"", "9:15: appliance.accelerator: found \"kmv\"; allowed: \"auto\", \"kvm\", \"tcg\"; did you mean \"kvm\"?".to_owned()),
        ("restart.policy = \"always\"", "9:18: appliance.restart.policy: found \"always\"; allowed: \"on-failure\", \"never\"".to_owned()),
        ("restart.max_failures = 0", "9:24: appliance.restart.max_failures: found 0; allowed: a number from 1 to 1000".to_owned()),
        ("restart.delay_seconds = 400", "9:25: appliance.restart.delay_seconds: 400 seconds is longer than max_delay_seconds, 300".to_owned()),
        ("restart = 3", "9:11: appliance.restart: found 3; allowed: a table".to_owned()),
        ("listener.connections = -1", "9:24: appliance.listener.connections: found -1; allowed: a number from 1 to 65536".to_owned()),
        ("listener.connections_per_address = 0", "9:36: appliance.listener.connections_per_address: found 0; allowed: a number from 1 to 65536".to_owned()),
        ("operator.name = \"a b\"", "9:17: appliance.operator.name: must be 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned()),
        ("operator.payout_address = \"\"", "9:27: appliance.operator.payout_address: must be a TON address".to_owned()),
        ("operator.max_concurrent_requests = 2000", "9:36: appliance.operator.max_concurrent_requests: found 2000; allowed: a number from 1 to 1024".to_owned()),
        ("operator.price_prompt_million = 1.5", "9:33: appliance.operator.price_prompt_million: found 1.5; allowed: a number from 0 to 9223372036854775807".to_owned()),
        ("[host]\nmemory_reserve = \"4gb\"", format!("10:18: host.memory_reserve: found \"4gb\"; {amount}; did you mean \"4G\"?")),
        ("[host]\nstate = 1979-05-27", "10:9: host.state: found a date; allowed: a path that begins with /".to_owned()),
        ("[web]\nlisten = \"0.0.0.0:1\"", "10:10: web.listen: without certificate and key it must be a loopback address, for a proxy".to_owned()),
        ("[web]\nlisten = \"127.0.0.1:1\"\nkey = \"/key\"", "10:10: web.listen: certificate and key go together".to_owned()),
        ("[web]\nlisten = \"127.0.0.1:8443\"", "10:10: web.listen: 127.0.0.1:8443 is an appliance's, in line 8".to_owned()),
        ("[updates]\nsigners = [\"ab\"]", "10:11: updates.signers: found \"ab\"; allowed: keys as `cocoon-image manifest keygen` prints them, such as [\"64 hexadecimal digits in lower case\"]".to_owned()),
        ("[status]\nlisten = \"0.0.0.0:1\"", "10:10: status.listen: without certificate and key it must be a loopback address, for a proxy".to_owned()),
        ("[status]\nlisten = \"127.0.0.1:8443\"", "10:10: status.listen: 127.0.0.1:8443 is an appliance's, in line 8".to_owned()),
        ("[status]\nlisten = \"of\"", "10:10: status.listen: found \"of\"; allowed: an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\", or \"off\"".to_owned()),
        ("[web]\nlisten = \"127.0.0.1:2\"\n[status]\nlisten = \"127.0.0.1:2\"", "12:10: status.listen: 127.0.0.1:2 is [web]'s, in line 10".to_owned()),
        ("[hots]", "9:2: hots: unknown key; allowed: version, host, web, status, updates, appliance; did you mean `host`?".to_owned()),
    ];
    for (line, expected) in cases {
        assert_eq!(said(line), [format!("f:{expected}")], "{line}");
    }
}

/// An unreachable threshold would otherwise be noticed only at the next update.
#[test]
fn signers_and_their_number_fit() {
    let (one, two) = ("11".repeat(32), "22".repeat(32));
    let both = format!("[updates]\nsigners = [\"{one}\", \"{two}\"]\nthreshold = 2");
    assert_eq!(said(&both), [""; 0]);
    let wrong = said(&both.replace("= 2", "= 3"));
    assert_eq!(
        wrong,
        ["f:11:13: updates.threshold: 3 signatures are demanded of 2 signers"]
    );
    let twice = said(&both.replace(&two, &one));
    assert_eq!(
        twice,
        [format!(
            "f:10:11: updates.signers: {one} stands there twice"
        )]
    );
}

#[test]
fn required_values_are_judged_too() {
    let edited = |from: &str, to: &str| problems(&MINIMAL.replace(from, to), &large());
    let cases = [
        (
            "version = 1",
            "version = 2",
            "1:11: version: found 2; allowed: a number from 1 to 1",
        ),
        (
            "\"first\"",
            "\"../x\"",
            "3:8: appliance.name: found \"../x\"; allowed: 1 to 32 letters, digits, '-', '_' or '.', beginning with a letter",
        ),
        (
            "\"1G\"",
            "\"128M\"",
            "5:10: appliance.memory: found \"128M\"; allowed: \"256M\" to \"16384G\"",
        ),
        (
            "\"1G\"",
            "1024",
            "5:10: appliance.memory: found 1024; allowed: an amount such as \"4G\" or \"1536M\"",
        ),
        (
            "vcpus = 1",
            "vcpus = 256",
            "6:9: appliance.vcpus: found 256; allowed: a number from 1 to 255",
        ),
        (
            "\"tdx\"",
            "\"snp\"",
            "7:7: appliance.tee: found \"snp\"; allowed: \"tdx\", \"sev-snp\", \"simulated-tdx\", \"simulated-sev-snp\"",
        ),
        (
            "\"tdx\"",
            "\"simulate-tdx\"",
            "7:7: appliance.tee: found \"simulate-tdx\"; allowed: \"tdx\", \"sev-snp\", \"simulated-tdx\", \"simulated-sev-snp\"; did you mean \"simulated-tdx\"?",
        ),
        (
            "\"127.0.0.1:8443\"",
            "\"localhost:8443\"",
            "8:10: appliance.listen: found \"localhost:8443\"; allowed: an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\"; did you mean \"127.0.0.1:8443\"?",
        ),
        (
            "\"127.0.0.1:8443\"",
            "\"8443\"",
            "8:10: appliance.listen: found \"8443\"; allowed: an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\"; did you mean \"0.0.0.0:8443\"?",
        ),
        (
            "tee = \"tdx\"",
            "tee = \"tdx\"\naccelerator = \"tcg\"",
            "7:7: appliance.tee: tdx needs KVM, and accelerator is \"tcg\"; did you mean \"simulated-tdx\"?",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(edited(from, to), [format!("f:{expected}")], "{to}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_in_order() {
    let text = "verison = 1\n[[appliance]]\nname = 3\ntee = \"tdx\ngpu = \"x\"\n";
    let expected = [
        "f:1:1: version: missing: add it, such as `version = 1`",
        "f:1:1: verison: unknown key; allowed: version, host, web, status, updates, appliance; did you mean `version`?",
        "f:2:1: appliance.image: missing: add it, such as `image = \"/srv/cocoon/appliance\"`",
        "f:2:1: appliance.memory: missing: add it, such as `memory = \"4G\"`",
        "f:2:1: appliance.vcpus: missing: add it, such as `vcpus = 4`",
        "f:2:1: appliance.listen: missing: add it, such as `listen = \"0.0.0.0:8443\"`",
        "f:3:8: appliance.name: found 3; allowed: text in quotes",
        "f:4:11: invalid basic string, expected `\"`",
        "f:5:7: appliance.gpu: found \"x\"; allowed: the PCI address of a GPU, such as \"0000:41:00.0\"",
    ];
    let found = problems(text, &large());
    for line in expected {
        assert!(
            found.iter().any(|found| found == line),
            "{line}\n{found:#?}"
        );
    }
    assert_eq!(
        problems("version = 1", &large()),
        ["f:1:1: appliance: there is no appliance: begin one with [[appliance]]"]
    );
    let expected = "f:2:13: appliance: found \"x\"; allowed: tables, each begun with [[appliance]]";
    assert_eq!(
        problems("version = 1\nappliance = \"x\"", &large()),
        [expected]
    );
}

/// Two appliances that differ only where they must.
fn second(name: &str, listen: &str, more: &str) -> String {
    let one = MINIMAL
        .replace("version = 1\n", "\n")
        .replace("first", name)
        .replace("127.0.0.1:8443", listen);
    format!("{MINIMAL}{one}{more}\n")
}

#[test]
fn appliances_do_not_stand_in_each_others_way() {
    let fine = second("second", "127.0.0.1:8444", "");
    assert_eq!(problems(&fine, &large()), [""; 0]);
    let case = |name, listen, more| problems(&second(name, listen, more), &large());
    assert_eq!(
        case("FIRST", "127.0.0.1:8444", ""),
        ["f:11:8: appliance.name: FIRST is taken by the appliance whose name is first in line 3"]
    );
    assert_eq!(
        case("second", "0.0.0.0:8443", ""),
        [
            "f:16:10: appliance.listen: 0.0.0.0:8443 is taken by the appliance whose listen is 127.0.0.1:8443 in line 8"
        ]
    );
    let gpus = fine.replace("\n\n", "\ngpu = \"41:00.0\"\n");
    let taken = "0000:41:00.0 is taken by the appliance whose gpu is 0000:41:00.0 in line 9";
    assert_eq!(
        problems(&gpus, &large()),
        [format!("f:17:7: appliance.gpu: {taken}")]
    );
    assert_eq!(case("second", "127.0.0.2:8443", ""), [""; 0]);
}

#[test]
fn a_machine_is_not_asked_for_more_than_it_has() {
    let two = second("second", "127.0.0.1:8444", "");
    let machine = |memory_mib| Machine {
        memory_mib: Some(memory_mib),
        ..large()
    };
    assert_eq!(problems(&two, &machine(3072)), [""; 0]);
    assert_eq!(
        problems(&two, &machine(3071)),
        [
            "f:13:10: appliance.memory: 1024 MiB beside 1024 MiB of the appliances above do not fit: the machine has 3071 MiB, of which host.memory_reserve keeps 1024"
        ]
    );
    let by_hand = second("second", "127.0.0.1:8444", "autostart = false");
    assert_eq!(problems(&by_hand, &machine(2048)), [""; 0]);
    assert_eq!(problems(&by_hand, &machine(2047)).len(), 2);
    let bare = Machine {
        processors: 0,
        nodes: vec![],
        hugepages: |_| None,
        has_folder: |_| false,
        has_file: |_| false,
        memory_mib: None,
    };
    let text = format!("{MINIMAL}manifest = \"/m\"\n[host]\nqemu = \"/q\"\n");
    assert_eq!(
        problems(&text, &bare),
        [
            "f:4:9: appliance.image: there is no folder /image: `cocoon-image build --variant cpu --out FOLDER` makes one",
            "f:6:9: appliance.vcpus: 1 do not fit: the machine has 0 processors",
            "f:9:12: appliance.manifest: there is no file /m",
            "f:11:8: host.qemu: there is no file /q",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.toml");
    let load = || HostConfig::load(&path, &large()).unwrap_err().to_string();
    assert_eq!(
        load(),
        format!("cannot read {path:?}; `cocoon-host config example` prints one to begin with")
    );
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(
        load(),
        format!("{path:?} is not UTF-8 text of at most 1048576 bytes")
    );
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    assert_eq!(
        load(),
        format!("{path:?} is not UTF-8 text of at most 1048576 bytes")
    );
    std::fs::write(&path, "version = 1\n").unwrap();
    assert!(load().starts_with(&format!("{}:1:1: appliance: there is no", path.display())));
}

proptest! {
    /// Parsing any text gives a configuration or problems; it never panics, and messages hold no control characters.
    #[test]
    fn no_text_is_too_strange(text in "(\\PC|[\\n\\t\"'\\[\\]=.#])*", cut in 0..EXAMPLE.len()) {
        let _ = HostConfig::parse(&text, "f", &large());
        if let Some(part) = EXAMPLE.get(..cut) {
            let mixed = format!("{part}{text}{}", &EXAMPLE[cut..]);
            if let Err(problems) = HostConfig::parse(&mixed, "f", &large()) {
                prop_assert!(!problems.list.is_empty());
                for problem in &problems.list {
                    prop_assert!(problem.line <= mixed.lines().count() + 1, "{problem}");
                    prop_assert!(!problem.to_string().chars().any(char::is_control), "{problem}");
                }
            }
        }
    }
}
