//! Made-up moments of a machine: a busy, a crowded and a hostile one, with their events.

use std::net::SocketAddr;

use cocoon_host_agent::daemon::api::{Entry, View};
use cocoon_host_agent::lifecycle::{Lifecycle, Stage, State};
use cocoon_host_agent::relay::DoorState;
use cocoon_host_agent::supervisor::{Report, VERSION};
use cocoon_host_agent::timings::Step;
use cocoon_host_agent::update::Deployment;
use cocoon_host_agent::watch::{GpuUse, HostUse, ProcessUse, Rates, Watch, Watched};
use cocoon_protocol::control::Metrics;
use cocoon_protocol::engine::{Crossings, GpuCounts};

/// Time of every moment here, in milliseconds since 1970.
pub const NOW: u64 = 1_760_000_000_000;

/// Steps of a boot under KVM, in milliseconds after the start of QEMU.
const STEPS: [(&str, u64); 10] = [
    ("hello", 1_850),
    ("mounts", 1_851),
    ("modules", 1_870),
    ("platform", 1_900),
    ("configuration", 1_950),
    ("model", 1_980),
    ("keys", 4_310),
    ("evidence", 4_330),
    ("engine", 4_420),
    ("serving", 5_790),
];

pub fn steps(count: usize) -> Vec<Step> {
    let steps = STEPS.iter().take(count).map(|(name, host_ms)| Step {
        name: (*name).to_owned(),
        host_ms: *host_ms,
        guest_ms: None,
    });
    steps.collect()
}

fn view(name: &str, state: State, since: u64) -> View {
    let listen: SocketAddr = "0.0.0.0:8443".parse().unwrap();
    View {
        name: name.to_owned(),
        image: "/srv/cocoon/appliance".into(),
        listen,
        tee: "tdx".to_owned(),
        memory_mib: 98_304,
        vcpus: 32,
        autostart: true,
        outdated: false,
        folder: format!("/var/lib/cocoon/vms/{name}").into(),
        deployment: Deployment {
            image: "/srv/cocoon/appliance".into(),
            manifest: None,
            manifest_id: None,
            release: Some(7),
            not_after: Some(NOW / 1000 + 29 * 86_400),
        },
        previous: None,
        runs: 3,
        life: Lifecycle {
            state,
            since,
            run: 1,
            failures: 0,
            refusals: 0,
            last_failure: None,
        },
        report: None,
        update: None,
    }
}

fn report(stage: Stage, doing: &str, steps: Vec<Step>) -> Report {
    Report {
        version: VERSION,
        run: 1,
        pid: 4_100,
        qemu_pid: Some(4_102),
        stage,
        doing: doing.to_owned(),
        endpoint: None,
        guest: None,
        door: DoorState::Open,
        not_taken: None,
        manifest_id: Some("5f".repeat(32)),
        trust_root: None,
        steps,
        metrics: None,
        gpus: vec![],
        engine_restarts: 0,
        halted: None,
        ended: None,
    }
}

/// Returns an appliance that serves, with a GPU.
pub fn serving(name: &str) -> Watched {
    let mut view = view(name, State::Serving, NOW - 7_260_000);
    let mut report = report(Stage::Serving, "serving", steps(STEPS.len()));
    report.endpoint = Some(view.listen);
    report.metrics = Some(Metrics {
        connections: 1_204,
        attestations: 1_198,
        requests: 5_432,
        errors: 3,
        prompt_tokens: 9_007_199_254_740_993,
        completion_tokens: 812_345,
        engine_restarts: 1,
        gpu: Some(GpuCounts {
            to_device: Crossings {
                bytes: 16_107_000_000,
                calls: 10_560_778,
            },
            to_host: Crossings {
                bytes: 416_783_000_000,
                calls: 812_345,
            },
            scrubbed_bytes: 277_132_083_200,
            residue_bytes: 0,
        }),
    });
    view.report = Some(report);
    let rates = Rates {
        completion_tokens: 412.6,
        prompt_tokens: 1_930.0,
        requests: 2.25,
        seconds: 60.0,
    };
    let qemu = ProcessUse {
        cpu_seconds: 5_000.25,
        resident_bytes: 99 << 30,
    };
    Watched::new(view, Some(rates), Some(qemu), vec![told()])
}

/// Returns a GPU whose guest reports all of its values.
fn told() -> GpuUse {
    GpuUse {
        memory_bytes: Some(81_559 << 20),
        memory_used_bytes: Some(61_952 << 20),
        temperature_celsius: Some(64.0),
        ..silent()
    }
}

/// Returns a GPU whose driver reports nothing to its guest.
pub fn silent() -> GpuUse {
    GpuUse {
        address: "0000:17:00.0".to_owned(),
        model: Some("H100 SXM5 80 GB".to_owned()),
        driver: Some("vfio-pci".to_owned()),
        memory_bytes: None,
        memory_used_bytes: None,
        temperature_celsius: None,
    }
}

fn booting() -> Watched {
    let mut view = view("llama-70b", State::Booting, NOW - 3_000);
    view.tee = "sev-snp".to_owned();
    view.report = Some(report(Stage::Booting, "in phase model", steps(6)));
    Watched::new(view, None, None, vec![])
}

fn failed() -> Watched {
    let reason = "the guest failed in phase model: the volume's root differs".to_owned();
    let mut view = view("mixtral", State::Failed { reason }, NOW - 86_400_000);
    view.life.run = 5;
    view.life.failures = 5;
    view.outdated = true;
    Watched::new(view, None, None, vec![])
}

fn simulated() -> Watched {
    let mut one = serving("try-out");
    one.view.tee = "simulated-tdx".to_owned();
    one.view.memory_mib = 1024;
    one.view.vcpus = 2;
    Watched::new(one.view, None, one.qemu, vec![])
}

/// Returns a moment with these appliances.
pub fn watch(appliances: Vec<Watched>) -> Watch {
    Watch {
        time: NOW,
        version: "0.1.0".to_owned(),
        file: "/etc/cocoon/host.toml".into(),
        events: 57,
        host: HostUse {
            processors: Some(128),
            load1: Some(3.25),
            memory_bytes: Some(512 << 30),
            memory_available_bytes: Some(120 << 30),
        },
        daemon: ProcessUse {
            cpu_seconds: 4.5,
            resident_bytes: 9 << 20,
        },
        appliances,
    }
}

/// Returns a moment with appliances in different states.
pub fn busy() -> Watch {
    watch(vec![serving("llama-8b"), simulated(), booting(), failed()])
}

/// Returns a moment with more appliances than fit on a screen.
pub fn crowded() -> Watch {
    let mut all: Vec<Watched> = (1..=8)
        .map(|number| serving(&format!("llama-{number}")))
        .collect();
    all.extend([simulated(), booting(), failed()]);
    watch(all)
}

/// Returns a moment with names and texts that no honest guest would send: as long as possible, without a place for a line
/// break, and with markup in every foreign text.
pub fn hostile() -> Watch {
    let script = "<script>window.stolen = 1</script><img src=x onerror='window.stolen=1'>";
    let long = "W".repeat(300);
    let mut one = failed();
    one.view.name = "w".repeat(32);
    one.view.life.state = State::Failed {
        reason: format!("{script}\u{202e}\u{1b}[2J{long}"),
    };
    let mut other = serving("\"><b onclick=alert(1)>");
    other.view.listen = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
        .parse()
        .unwrap();
    let report = other.view.report.as_mut().unwrap();
    report.metrics = Some(Metrics {
        connections: u64::MAX,
        attestations: u64::MAX,
        requests: u64::MAX,
        errors: u64::MAX,
        prompt_tokens: u64::MAX,
        completion_tokens: u64::MAX,
        engine_restarts: u64::MAX,
        gpu: None,
    });
    report.halted = Some(format!("{script}{long}"));
    other.rates = Some(Rates {
        completion_tokens: 1e18,
        prompt_tokens: 1e18,
        requests: 1e18,
        seconds: 60.0,
    });
    if let Some(gpu) = other.gpus.first_mut() {
        gpu.model = Some(long.clone());
        gpu.temperature_celsius = Some(f64::MAX);
        gpu.memory_bytes = Some(u64::MAX);
    }
    let mut watch = watch(vec![one, other, booting()]);
    watch.file = format!("/{long}").into();
    watch.host.load1 = Some(12_345.67);
    watch.host.memory_bytes = Some(24 << 40);
    watch.host.memory_available_bytes = Some(2_304 << 30);
    watch
}

fn entry(seq: u64, ago: f64, appliance: Option<&str>, state: &str, text: &str) -> Entry {
    Entry {
        seq,
        time: NOW as f64 / 1000.0 - ago,
        appliance: appliance.map(str::to_owned),
        state: state.to_owned(),
        text: text.to_owned(),
    }
}

/// Returns events, newest first.
pub fn events() -> Vec<Entry> {
    let llama = Some("llama-70b");
    let mixtral = Some("mixtral");
    let first = Some("llama-8b");
    let reason = "given up: the guest failed in phase model: the volume's root differs";
    let again = "failed (number 4 in a row) and is started again in 8.0 s: the guest failed in phase model: the volume's root differs";
    vec![
        entry(57, 3.0, llama, "booting", "booting"),
        entry(56, 3.4, llama, "preparing", "preparing"),
        entry(
            55,
            610.0,
            Some("try-out"),
            "note",
            "the engine died and was started again (time 1)",
        ),
        entry(
            54,
            7_260.0,
            first,
            "serving",
            "serving on https://0.0.0.0:8443",
        ),
        entry(53, 7_261.0, first, "attesting", "attesting"),
        entry(52, 7_266.0, first, "booting", "booting"),
        entry(51, 7_266.2, first, "preparing", "preparing"),
        entry(
            50,
            80_000.0,
            None,
            "unknown",
            "it runs and is not in the file any more: `cocoon-host down old` stops it",
        ),
        entry(49, 86_400.0, mixtral, "failed", reason),
        entry(48, 86_408.0, mixtral, "preparing", again),
        entry(47, 86_500.0, Some("spare"), "stopped", "stopped"),
    ]
}

pub fn hostile_events() -> Vec<Entry> {
    let script = "<script>window.stolen = 1</script>";
    let long = "W".repeat(300);
    (0..60)
        .map(|number| {
            entry(
                60 - number,
                f64::NAN,
                Some(&long[..32]),
                script,
                &format!("{script}{long}"),
            )
        })
        .collect()
}
