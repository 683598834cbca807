//! The tables and keys of the file, with their defaults and allowed ranges.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cocoon_protocol::config::{ConfigError, OperatorConfig};
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use toml::de::{DeTable, DeValue};

use super::devices::{Devices, devices};
use super::reader::{Report, Table, Wrong};
use super::shown::{StatusSettings, status, web};
use super::values::{self, flag, number, path, text};
use super::{Appliance, DEFAULT_STATE, HostConfig, HostSettings, Restart, TeeMode};
use crate::relay::Limits;
use crate::up::CPU_MODEL;
use crate::update::check::Updates;
use crate::web::WebSettings;

/// Version of the schema.
const VERSION: u16 = 1;
/// Maximum of `life_seconds`, `start_seconds` and `proving_seconds`: one day.
const LIFE_MAX: u64 = 86_400;
/// Maximum of `healthy_seconds`, one year: a longer time is taken for a mistake.
const LONG: u64 = 365 * 86_400;

const FILE: [&str; 6] = ["version", "host", "web", "status", "updates", "appliance"];
const HOST: [&str; 6] = [
    "state",
    "cache",
    "qemu",
    "simulator",
    "development_roots",
    "memory_reserve",
];
const UPDATES: [&str; 7] = [
    "signers",
    "threshold",
    "release_floor",
    "allow_unlocked",
    "policy",
    "start_seconds",
    "proving_seconds",
];
const APPLIANCE: [&str; 16] = [
    "name",
    "image",
    "manifest",
    "memory",
    "vcpus",
    "tee",
    "cpu",
    "gpu",
    "listen",
    "accelerator",
    "autostart",
    "operator",
    "listener",
    "restart",
    "network",
    "placement",
];
const OPERATOR: [&str; 5] = [
    "name",
    "payout_address",
    "price_prompt_million",
    "price_completion_million",
    "max_concurrent_requests",
];
const LISTENER: [&str; 3] = ["connections", "connections_per_address", "life_seconds"];
const RESTART: [&str; 5] = [
    "policy",
    "delay_seconds",
    "max_delay_seconds",
    "max_failures",
    "healthy_seconds",
];

/// A value with its byte offset in the file.
pub(super) type At<T> = (T, usize);

/// The values that could be read, with the positions at which conflicts are reported.
pub(super) struct Located {
    pub(super) host: HostSettings,
    /// Keys that name files, with the files.
    pub(super) files: Vec<(&'static str, At<PathBuf>)>,
    pub(super) web: Option<At<WebSettings>>,
    pub(super) status: Option<At<StatusSettings>>,
    pub(super) updates: Updates,
    pub(super) appliances: Vec<Entry>,
}

/// An `[[appliance]]`. Required values that are missing or wrong are `None`.
pub(super) struct Entry {
    pub(super) name: Option<At<String>>,
    pub(super) image: Option<At<PathBuf>>,
    pub(super) manifest: Option<At<PathBuf>>,
    pub(super) memory_mib: Option<At<u32>>,
    pub(super) vcpus: Option<At<u16>>,
    pub(super) tee: Option<At<TeeMode>>,
    pub(super) cpu: Option<At<String>>,
    pub(super) gpu: Option<At<PciAddress>>,
    pub(super) devices: Devices,
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) accel: Wanted,
    pub(super) autostart: bool,
    pub(super) limits: Limits,
    pub(super) operator: OperatorConfig,
    pub(super) restart: Restart,
}

impl Located {
    /// Returns the configuration, unless something is missing.
    pub(super) fn config(self) -> Option<HostConfig> {
        let appliances = self.appliances.into_iter().map(Entry::appliance);
        Some(HostConfig {
            host: self.host,
            web: self.web.map(|(web, _)| web),
            status: self.status.map(|(status, _)| status),
            updates: self.updates,
            appliances: appliances.collect::<Option<_>>()?,
            warnings: vec![],
        })
    }
}

impl Entry {
    fn appliance(self) -> Option<Appliance> {
        Some(Appliance {
            name: self.name?.0,
            image: self.image?.0,
            manifest: self.manifest.map(|(path, _)| path),
            memory_mib: self.memory_mib?.0,
            vcpus: self.vcpus?.0,
            tee: self.tee?.0,
            cpu: self
                .cpu
                .map_or_else(|| CPU_MODEL.to_owned(), |(cpu, _)| cpu),
            listen: self.listen?.0,
            gpu: self.gpu.map(|(gpu, _)| gpu),
            network: self.devices.network.0,
            placement: self.devices.placement,
            accel: self.accel,
            autostart: self.autostart,
            limits: self.limits,
            operator: self.operator,
            restart: self.restart,
        })
    }
}

/// Reads the whole file.
pub(super) fn read(text: &str, report: &mut Report<'_>) -> Located {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        report.add(at, "", Wrong::because(error.message()));
    }
    let file = Table::open(report, "", document.get_ref(), 0, &FILE);
    file.required(report, "version", "1", number(VERSION..=VERSION));
    let (host, mut files) = host(&file, report);
    let web = web(&file, report, &mut files);
    let status = status(&file, report, &mut files);
    let updates = updates(&file, report, &mut files);
    let entries = file.tables(report, "appliance");
    if entries.is_empty() && !file.has("appliance") {
        let wrong = Wrong::because("there is no appliance: begin one with [[appliance]]");
        file.wrong(report, "appliance", wrong);
    }
    let entries = entries.into_iter();
    let appliances = entries.map(|(table, at)| appliance(table, at, report));
    Located {
        host,
        files,
        web,
        status,
        updates,
        appliances: appliances.collect(),
    }
}

fn host(
    file: &Table<'_, '_>,
    report: &mut Report<'_>,
) -> (HostSettings, Vec<(&'static str, At<PathBuf>)>) {
    let host = file.table(report, "host", &HOST);
    let reserve = host.optional(report, "memory_reserve", values::memory);
    let mut named = |key| host.optional(report, key, path);
    let (qemu, simulator) = (named("qemu"), named("simulator"));
    let plain = |found: &Option<At<PathBuf>>| found.as_ref().map(|(path, _)| path.clone());
    let settings = HostSettings {
        state: plain(&named("state")).unwrap_or_else(|| DEFAULT_STATE.into()),
        cache: plain(&named("cache")),
        qemu: plain(&qemu),
        simulator: plain(&simulator),
        development_roots: plain(&named("development_roots")),
        memory_reserve_mib: reserve.map_or(1024, |(mib, _)| mib),
    };
    let files = [("host.qemu", qemu), ("host.simulator", simulator)];
    let files = files
        .into_iter()
        .filter_map(|(key, file)| Some((key, file?)));
    (settings, files.collect())
}

fn updates(
    file: &Table<'_, '_>,
    report: &mut Report<'_>,
    files: &mut Vec<(&'static str, At<PathBuf>)>,
) -> Updates {
    let table = file.table(report, "updates", &UPDATES);
    let usual = Updates::default();
    let signers = table.optional(report, "signers", values::signers);
    let threshold = table.optional(report, "threshold", number(1..=64_u32));
    let release_floor =
        table.optional(report, "release_floor", number(0..=i64::MAX.unsigned_abs()));
    let unlocked = table.optional(report, "allow_unlocked", flag);
    let policy = table.optional(report, "policy", path);
    if let Some(policy) = &policy {
        files.push(("updates.policy", policy.clone()));
    }
    let updates = Updates {
        signers: signers.map_or(usual.signers, |(signers, _)| signers),
        threshold: threshold
            .and_then(|(threshold, _)| usize::try_from(threshold).ok())
            .unwrap_or(usual.threshold),
        release_floor: release_floor.map_or(usual.release_floor, |(floor, _)| floor),
        allow_unlocked: unlocked.map_or(usual.allow_unlocked, |(allow, _)| allow),
        policy: policy.map(|(policy, _)| policy),
        limits: crate::update::Limits {
            starting: seconds(
                &table,
                report,
                "start_seconds",
                1..=LIFE_MAX,
                usual.limits.starting,
            ),
            proving: seconds(
                &table,
                report,
                "proving_seconds",
                1..=LIFE_MAX,
                usual.limits.proving,
            ),
            ..usual.limits
        },
    };
    let count = updates.signers.len();
    if count > 0 && updates.threshold > count {
        let words = format!(
            "{} signatures are demanded of {count} signers",
            updates.threshold
        );
        table.wrong(report, "threshold", Wrong::because(words));
    }
    updates
}

fn appliance(table: &DeTable<'_>, at: usize, report: &mut Report<'_>) -> Entry {
    let table = Table::open(report, "appliance", table, at, &APPLIANCE);
    let gpu = table.optional(report, "gpu", values::gpu);
    Entry {
        name: table.required(report, "name", "\"first\"", values::name),
        image: table.required(report, "image", "\"/srv/cocoon/appliance\"", path),
        manifest: table.optional(report, "manifest", path),
        memory_mib: table.required(report, "memory", "\"4G\"", guest_memory),
        vcpus: table.required(report, "vcpus", "4", number(1..=255)),
        tee: table.required(report, "tee", "\"tdx\"", values::tee),
        cpu: table.optional(report, "cpu", values::cpu),
        gpu,
        devices: devices(&table, report),
        listen: table.required(report, "listen", "\"0.0.0.0:8443\"", values::address),
        accel: table
            .optional(report, "accelerator", values::accelerator)
            .map_or(Wanted::Automatic, |(accel, _)| accel),
        autostart: table
            .optional(report, "autostart", flag)
            .is_none_or(|(autostart, _)| autostart),
        limits: listener(&table, report),
        operator: operator(&table, report),
        restart: restart(&table, report),
    }
}

fn guest_memory(value: &DeValue<'_>) -> Result<u32, Wrong> {
    let mib = values::memory(value)?;
    if (256..=16 << 20).contains(&mib) {
        Ok(mib)
    } else {
        Err(Wrong::found(
            &super::reader::described(value),
            "\"256M\" to \"16384G\"",
        ))
    }
}

fn operator(appliance: &Table<'_, '_>, report: &mut Report<'_>) -> OperatorConfig {
    let table = appliance.table(report, "operator", &OPERATOR);
    let usual = OperatorConfig::default();
    let name = table.optional(report, "name", text);
    let payout = table.optional(report, "payout_address", text);
    let mut price = |key| {
        // TOML integers end at 2^63 - 1.
        let price = table.optional(report, key, number(0..=i64::MAX.unsigned_abs()));
        price.map_or(0, |(price, _)| price)
    };
    let config = OperatorConfig {
        price_prompt_million: price("price_prompt_million"),
        price_completion_million: price("price_completion_million"),
        max_concurrent_requests: table
            .optional(report, "max_concurrent_requests", number(1..=1024))
            .map_or(usual.max_concurrent_requests, |(most, _)| most),
        name: name.map_or(usual.name, |(name, _)| name),
        payout_address: payout.map(|(address, _)| address),
        version: usual.version,
    };
    // The protocol crate validates the measured configuration; this function only adds the position.
    if let Err(ConfigError::Field { field, problem }) = config.validate() {
        table.wrong(report, field, Wrong::because(problem));
    }
    config
}

fn listener(appliance: &Table<'_, '_>, report: &mut Report<'_>) -> Limits {
    let table = appliance.table(report, "listener", &LISTENER);
    let usual = Limits::default();
    let mut most = |key| {
        let most = table.optional(report, key, number(1..=65_536_u32));
        most.and_then(|(most, _)| usize::try_from(most).ok())
    };
    Limits {
        connections: most("connections").unwrap_or(usual.connections),
        per_address: most("connections_per_address"),
        life: seconds(&table, report, "life_seconds", 1..=LIFE_MAX, usual.life),
        ..usual
    }
}

fn restart(appliance: &Table<'_, '_>, report: &mut Report<'_>) -> Restart {
    let table = appliance.table(report, "restart", &RESTART);
    let usual = Restart::default();
    let policy = table.optional(report, "policy", values::restart);
    let failures = table.optional(report, "max_failures", number(1..=1000));
    let restart = Restart {
        policy: policy.map_or(usual.policy, |(policy, _)| policy),
        delay: seconds(&table, report, "delay_seconds", 0..=86_400, usual.delay),
        max_delay: seconds(
            &table,
            report,
            "max_delay_seconds",
            0..=86_400,
            usual.max_delay,
        ),
        max_failures: failures.map_or(usual.max_failures, |(most, _)| most),
        healthy: seconds(&table, report, "healthy_seconds", 1..=LONG, usual.healthy),
    };
    if restart.delay > restart.max_delay {
        let wrong = Wrong::because(format!(
            "{} seconds is longer than max_delay_seconds, {}",
            restart.delay.as_secs(),
            restart.max_delay.as_secs()
        ));
        table.wrong(report, "delay_seconds", wrong);
    }
    restart
}

fn seconds(
    table: &Table<'_, '_>,
    report: &mut Report<'_>,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
    usual: Duration,
) -> Duration {
    table
        .optional(report, key, number(range))
        .map_or(usual, |(seconds, _)| Duration::from_secs(seconds))
}
