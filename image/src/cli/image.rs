//! Implements `build`, `verify` and `model add`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use cocoon_image::add_model;
use cocoon_image::assemble::name;
use cocoon_image::build::{self, Build, Life, Spent};
use cocoon_image::foreign::DEFAULT_MODEL;
use cocoon_image::model::Source;
use cocoon_image::provenance;
use cocoon_image::shown::printable;
use cocoon_image::variant::Variant;
use cocoon_image::verify as rebuild;
use cocoon_inputs::{Policy, report};
use cocoon_protocol::manifest::{Manifest, manifest_id};
use serde_json::json;

use super::args::{BuildArguments, Dates, Making, VerifyArguments};
use super::{Outcome, Output};

const DAY: u64 = 24 * 60 * 60;
/// Release number of an image for which none was given.
const FIRST_RELEASE: u64 = 1;

pub(super) fn build(arguments: &BuildArguments, output: Output) -> anyhow::Result<Outcome> {
    let life = arguments.dates.life(FIRST_RELEASE)?;
    let mut what = arguments.making.build()?;
    what.variant = arguments.variant;
    what.model.clone_from(&arguments.model);
    what.model_id.clone_from(&arguments.model_id);
    let (manifest, spent) = build::build_timed(&what, &life, &arguments.out, &report::stderr())?;
    print(&manifest, &arguments.out, Some(spent), output)
}

pub(super) fn verify(arguments: &VerifyArguments, output: Output) -> anyhow::Result<Outcome> {
    let manifest = add_model::read_manifest(&arguments.manifest)?;
    let mut what = arguments.making.build()?;
    what.model.clone_from(&arguments.model);
    let given = manifest.model.id != DEFAULT_MODEL;
    anyhow::ensure!(
        !given || what.model.is_some(),
        "the manifest's model is {}, which is not the locked one: name it with --model PATH",
        printable(&manifest.model.id)
    );
    let rebuilt = rebuild::verify(&manifest, &arguments.manifest, &what, &report::stderr())?;
    output.print(&rebuilt, &rebuilt)?;
    Ok(if rebuilt.identical {
        Outcome::Done
    } else {
        Outcome::Rejected
    })
}

/// Arguments of `model add`.
pub(super) struct Addition<'a> {
    pub(super) image: &'a Path,
    pub(super) model: &'a Path,
    pub(super) model_id: Option<&'a str>,
    pub(super) out: &'a Path,
    /// Workspace whose sources show whether this program is of the image's revision.
    pub(super) source: Option<PathBuf>,
    pub(super) jobs: Option<NonZeroUsize>,
}

pub(super) fn add_model(
    what: &Addition<'_>,
    dates: &Dates,
    output: Output,
) -> anyhow::Result<Outcome> {
    let model = Source::open(what.model, what.model_id)?;
    let old = add_model::read_manifest(&what.image.join(name::MANIFEST))?;
    let source = what.source.as_deref();
    let reporter = report::stderr();
    let manifest = add_model::add_model_with(
        what.image,
        &model,
        &dates.life(old.release)?,
        provenance::mark_of_model(source, &old.source_revision, &old.unlocked, &*reporter),
        what.out,
        threads(what.jobs),
        &*reporter,
    )?;
    print(&manifest, what.out, None, output)
}

fn print(
    manifest: &Manifest,
    folder: &Path,
    spent: Option<Spent>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let id = manifest_id(&manifest.to_json());
    let mut text = format!(
        "image in {}, release {}, model {}\n",
        folder.display(),
        manifest.release,
        printable(&manifest.model.id)
    );
    for (name, artefact) in &manifest.artefacts {
        let (sha256, size) = (artefact.sha256, artefact.size);
        writeln!(text, "  {sha256} {size:>12}  {}", printable(name))?;
    }
    writeln!(text, "manifest {id}")?;
    for input in &manifest.unlocked {
        let input = printable(input);
        writeln!(text, "UNLOCKED {input}: every verdict will say so")?;
    }
    if let Some(spent) = spent {
        let [compiling, assembling] = seconds(spent);
        writeln!(
            text,
            "assembled in {assembling:.1} s, and {compiling:.1} s for the executables"
        )?;
    }
    let mut value = json!({
        "folder": folder,
        "manifest_id": id,
        "manifest": folder.join(name::MANIFEST),
        "release": manifest.release,
        "model": manifest.model.id,
        "not_before": manifest.not_before,
        "not_after": manifest.not_after,
        "source_revision": manifest.source_revision,
        "unlocked": manifest.unlocked,
        "artefacts": manifest.artefacts,
    });
    if let Some(spent) = spent {
        let [compiling, assembling] = seconds(spent);
        value["seconds"] = json!({ "compiling": compiling, "assembling": assembling });
    }
    output.print(&value, text)?;
    Ok(Outcome::Done)
}

/// Returns the seconds spent on compiling and on assembling.
fn seconds(spent: Spent) -> [f64; 2] {
    [spent.compiling, spent.assembling].map(|time| time.as_secs_f64())
}

impl Dates {
    /// Returns release number and validity. This is the only place that reads the clock, and only if no time was given.
    fn life(&self, release: u64) -> anyhow::Result<Life> {
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|since| since.as_secs())
        };
        let not_before = match self.not_before {
            Some(time) => time,
            None => now().context(
                "the clock stands before 1970: set it, or name a time with --not-before",
            )?,
        };
        let not_after = not_before
            .checked_add(self.days * DAY)
            .context("--not-before is too large")?;
        Ok(Life {
            release: self.release.unwrap_or(release),
            not_before,
            not_after,
        })
    }
}

impl Making {
    fn build(&self) -> anyhow::Result<Build> {
        let policy = if self.allow_newest {
            Policy::AllowNewest
        } else {
            Policy::Release
        };
        Ok(Build {
            variant: Variant::default(),
            source: self.origin.source()?,
            cache: self.origin.cache()?,
            mirrors: self.origin.mirrors.clone(),
            keyring: self.origin.keyring(),
            policy,
            model: None,
            model_id: None,
            binaries: self.guest_binaries.clone(),
            jobs: threads(self.jobs),
        })
    }
}

fn threads(jobs: Option<NonZeroUsize>) -> usize {
    jobs.or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
}
