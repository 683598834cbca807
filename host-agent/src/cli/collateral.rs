//! `cocoon-host collateral`: fetches, lists, exports and imports the vendors' endorsements that guests staple.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cocoon_host_agent::collateral::bundle::{Bundle, Imported, MAX_BUNDLE};
use cocoon_host_agent::collateral::http::Client;
use cocoon_host_agent::collateral::keeper::clock;
use cocoon_host_agent::collateral::{Keeper, Services, Store, Want, schedule, want};
use cocoon_host_agent::text::chain;
use cocoon_protocol::document::Evidence;
use cocoon_protocol::gpu::{CollateralRequest, GpuNeeds, rim_name};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(super) struct Collateral {
    /// Folder that keeps the collateral [default: `collateral` in the cache]
    ///
    /// The cache is COCOON_CACHE or that of the user who runs the command, who is seldom the daemon's user. To use the daemon's
    /// collateral, name its folder: /var/cache/cocoon/collateral as packaged, or `collateral` in its host.cache.
    #[arg(long, global = true)]
    store: Option<PathBuf>,
    /// TOML file with addresses to use instead of the vendors' own
    #[arg(long, env = "COCOON_SERVICES", global = true)]
    services: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Fetch the collateral that is due, and what the options name, from the vendors
    ///
    /// Exits with 1 if something could not be fetched.
    Fetch(Fetch),
    /// List the kept collateral, how long it is valid, and failed requests
    ///
    /// Exits with 1 if something is missing.
    Show(Show),
    /// Write all collateral to one file, which also names what is missing
    Export {
        /// File to write
        file: PathBuf,
    },
    /// Import all collateral from a file that `export` wrote
    ///
    /// Each item is checked as if its vendor had sent it. Exits with 1 if something was refused.
    Import {
        /// File to read
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Fetch {
    /// TDX quote whose platform's collateral to fetch from Intel
    #[arg(long)]
    quote: Option<PathBuf>,
    /// SNP report whose chip's collateral to fetch from AMD
    #[arg(long, conflicts_with = "quote")]
    report: Option<PathBuf>,
    /// GPU certificates, PEM, whose revocation status to fetch from NVIDIA; needs --driver-rim and --vbios-rim
    #[arg(long, requires = "driver_rim", requires = "vbios_rim")]
    chain: Option<PathBuf>,
    /// Name of a driver's reference manifest to fetch, such as NV_GPU_DRIVER_GH100_550.144.03
    #[arg(long)]
    driver_rim: Option<String>,
    /// Name of a VBIOS's reference manifest to fetch, such as NV_GPU_VBIOS_1010_0200_882_96005E0001
    #[arg(long)]
    vbios_rim: Option<String>,
    /// File that `export` wrote; everything that it names is fetched
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Also fetch what is not due yet
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// VBIOS version to look up in the kept list of NVIDIA's reference manifests
    #[arg(long)]
    vbios: Option<String>,
    /// Driver version for Hopper GPUs to look up in the kept list of NVIDIA's reference manifests
    #[arg(long)]
    driver: Option<String>,
}

pub(super) fn run(wanted: &Collateral, json: bool) -> anyhow::Result<ExitCode> {
    let services = match &wanted.services {
        Some(path) => Services::read(path)?,
        None => Services::default(),
    };
    let root = match &wanted.store {
        Some(root) => root.clone(),
        None => Store::default_root()?,
    };
    let store = match wanted.action {
        // Reading commands create no folders.
        Action::Show(_) | Action::Export { .. } => Store::reading(&root),
        Action::Fetch(_) | Action::Import { .. } => Store::open(&root)?,
    };
    let keeper = Keeper::new(store, services, Client::default(), Default::default());
    let good = match &wanted.action {
        Action::Fetch(fetch) => self::fetch(&keeper, fetch, json)?,
        Action::Show(show) => self::show(&keeper, show, json)?,
        Action::Export { file } => export(&keeper, file, json)?,
        Action::Import { file } => import(&keeper, file, json)?,
    };
    Ok(ExitCode::from(u8::from(!good)))
}

/// One row of the output: an item of collateral and its state.
struct Row {
    want: Want,
    good: bool,
    state: String,
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    if json {
        let rows = rows.iter().map(|row| {
            json!({
                "vendor": row.want.vendor(),
                "title": row.want.title(),
                "good": row.good,
                "state": row.state,
            })
        });
        writeln!(out, "{}", json!(rows.collect::<Vec<_>>()))?;
    } else {
        for row in rows {
            let mark = if row.good { "ok     " } else { "MISSING" };
            writeln!(out, "{mark} {}: {}", row.want.title(), row.state)?;
        }
    }
    Ok(rows.iter().all(|row| row.good))
}

fn fetch(keeper: &Keeper, fetch: &Fetch, json: bool) -> anyhow::Result<bool> {
    let now = clock();
    let (mut named, requested) = named(fetch)?;
    let mut known: Vec<Want> = vec![Want::RimNames];
    known.extend(keeper.store.entries().into_iter().map(|entry| entry.want));
    known.extend(
        keeper
            .store
            .failures()
            .into_iter()
            .map(|failure| failure.want),
    );
    if !fetch.all {
        known.retain(|want| schedule::next(want, keeper.store.known(want), now) <= now);
    }
    named.extend(known);
    named.sort();
    named.dedup();
    let mut rows = Vec::new();
    let mut place = 0;
    while let Some(want) = named.get(place).cloned() {
        place += 1;
        let fetched = keeper.fetch(&want, now);
        if requested && fetched.is_ok() && matches!(want, Want::Rim { .. }) {
            // The manifest's own certificates can be revoked too, so their status is fetched as well.
            let manifest = keeper.store.get(&want).map(|(_, bytes)| bytes);
            let more = want::of_manifest(&manifest.unwrap_or_default());
            let new: Vec<Want> = more
                .into_iter()
                .filter(|want| !named.contains(want))
                .collect();
            named.extend(new);
        }
        rows.push(match fetched {
            Ok(entry) => Row {
                state: good_for(entry.dates.due, now),
                good: true,
                want,
            },
            Err(error) => Row {
                state: chain(&error),
                good: false,
                want,
            },
        });
    }
    keeper.store.prune(now)?;
    if rows.is_empty() && !json {
        writeln!(std::io::stdout(), "nothing is due")?;
    }
    print(&rows, json)
}

/// Returns what the options name, and whether they name anything.
fn named(fetch: &Fetch) -> anyhow::Result<(Vec<Want>, bool)> {
    let evidence = match (&fetch.quote, &fetch.report) {
        (Some(path), _) => Some(Evidence::Tdx {
            quote: read(path)?.into(),
            event_log: Vec::new().into(),
        }),
        (None, Some(path)) => Some(Evidence::SevSnp {
            report: read(path)?.into(),
            certificates: Vec::new(),
        }),
        (None, None) => None,
    };
    let mut wants = Vec::new();
    let mut gpus = Vec::new();
    for (option, name) in [
        ("--driver-rim", &fetch.driver_rim),
        ("--vbios-rim", &fetch.vbios_rim),
    ] {
        if let Some(name) = name {
            rim_name("characters of the name", name).with_context(|| option.to_owned())?;
            wants.push(Want::Rim { name: name.clone() });
        }
    }
    if let (Some(chain), Some(driver_rim), Some(vbios_rim)) =
        (&fetch.chain, &fetch.driver_rim, &fetch.vbios_rim)
    {
        let chain = String::from_utf8(read(chain)?).context("--chain is no PEM")?;
        gpus.push(GpuNeeds {
            driver_rim: driver_rim.clone(),
            vbios_rim: vbios_rim.clone(),
            chain,
        });
    }
    wants.extend(want::of(&CollateralRequest { evidence, gpus })?);
    if let Some(path) = &fetch.bundle {
        wants.extend(Bundle::parse(&read(path)?)?.wants().cloned());
    }
    let some = !wants.is_empty();
    Ok((wants, some))
}

fn show(keeper: &Keeper, show: &Show, json: bool) -> anyhow::Result<bool> {
    let now = clock();
    if show.vbios.is_some() || show.driver.is_some() {
        return names(keeper, show, json);
    }
    let store = &keeper.store;
    let mut rows: Vec<Row> = (store.entries().into_iter())
        .map(|entry| {
            let due = entry.dates.due;
            let whole = store.get(&entry.want).is_some();
            let good = whole && now <= due;
            let mut state = match (whole, good) {
                (false, _) => "damaged".to_owned(),
                (true, false) => format!("ended {} ago", span(now - due)),
                (true, true) => good_for(due, now),
            };
            let age = span(now.saturating_sub(entry.fetched));
            state.push_str(&format!(", fetched {age} ago"));
            if let Some(failure) = store.failure(&entry.want) {
                let (times, why) = (failure.times, failure.why);
                state.push_str(&format!("; renewal failed {times} times: {why}"));
            }
            Row {
                want: entry.want,
                good,
                state,
            }
        })
        .collect();
    for failure in store.failures() {
        if !rows.iter().any(|row| row.want == failure.want) {
            let ago = span(now.saturating_sub(failure.at));
            rows.push(Row {
                state: format!("asked {} times, {ago} ago: {}", failure.times, failure.why),
                good: false,
                want: failure.want,
            });
        }
    }
    if rows.is_empty() && !json {
        let root = store.root().display();
        writeln!(std::io::stdout(), "nothing is kept in {root}")?;
    }
    print(&rows, json)
}

/// Prints whether NVIDIA has reference manifests of the given versions. Returns false if any is missing.
fn names(keeper: &Keeper, show: &Show, json: bool) -> anyhow::Result<bool> {
    let (_, list) = keeper
        .store
        .get(&Want::RimNames)
        .context("the names of NVIDIA's manifests are not kept: `cocoon-host collateral fetch` asks for them")?;
    let list = String::from_utf8_lossy(&list);
    let found = want::names_of(&list, show.driver.as_deref(), show.vbios.as_deref());
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!(found))?;
        return Ok(found.iter().all(|(_, names)| !names.is_empty()));
    }
    for (what, names) in &found {
        match &names[..] {
            [] => writeln!(
                out,
                "MISSING {what}: NVIDIA has no reference manifest of it"
            )?,
            some => writeln!(out, "ok      {what}: {}", some.join(", "))?,
        }
    }
    Ok(found.iter().all(|(_, names)| !names.is_empty()))
}

fn export(keeper: &Keeper, file: &Path, json: bool) -> anyhow::Result<bool> {
    let bundle = Bundle::of(keeper);
    let path = || format!("cannot write {}", file.display());
    std::fs::write(file, bundle.to_json()).with_context(path)?;
    let (filled, all) = (bundle.filled(), bundle.wants().count());
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(
            out,
            "{}",
            json!({ "kept": filled, "missing": all - filled })
        )?,
        false => writeln!(out, "{filled} of {all} written to {}", file.display())?,
    }
    Ok(true)
}

fn import(keeper: &Keeper, file: &Path, json: bool) -> anyhow::Result<bool> {
    let bundle = Bundle::parse(&read(file)?)?;
    let rows = bundle.import(keeper, clock()).into_iter();
    let rows: Vec<Row> = rows
        .map(|(want, outcome)| Row {
            good: outcome.is_ok(),
            state: match outcome {
                Ok(Imported::Kept) => "taken".to_owned(),
                Ok(Imported::Older) => "what is kept is as new".to_owned(),
                Err(error) => chain(&error),
            },
            want,
        })
        .collect();
    print(&rows, json)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(name)?.len();
    anyhow::ensure!(
        usize::try_from(length).is_ok_and(|length| length <= MAX_BUNDLE),
        "{} has {length} bytes, at most {MAX_BUNDLE} are read",
        path.display()
    );
    std::fs::read(path).with_context(name)
}

fn good_for(due: u64, now: u64) -> String {
    format!("good for {}", span(due.saturating_sub(now)))
}

/// Formats a duration in one unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
