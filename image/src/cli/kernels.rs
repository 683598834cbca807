//! Implements `kernels build`, `kernels toolkit` and `engine`.

use std::fmt::Write as _;
use std::path::Path;

use cocoon_image::cuda::{self, Release, engine, toolkit};
use cocoon_image::{build, files};
use cocoon_inputs::{Cache, Fetcher, Options, report};
use serde_json::json;

use super::args::{Origin, Tool};
use super::{Outcome, Output};

pub(super) fn build(
    out: &Path,
    pin: bool,
    release: Release,
    origin: &Origin,
    output: Output,
) -> anyhow::Result<Outcome> {
    let source = origin.source()?;
    let reporter = report::stderr();
    let workshop = cuda::Workshop::open(&fetcher(origin)?, release, &*reporter)?;
    let cubins = workshop.build(&source, out, pin, &*reporter)?;
    let mut text = format!("kernels in {}\n", out.display());
    let mut artefacts = serde_json::Map::new();
    for (name, bytes) in &cubins.files {
        let artefact = files::artefact(bytes);
        writeln!(text, "  {} {:>8}  {name}", artefact.sha256, artefact.size)?;
        artefacts.insert(name.clone(), serde_json::to_value(artefact)?);
    }
    let same = cubins.differences.is_empty();
    if same {
        writeln!(text, "identical to {}/{}", cuda::SOURCES, release.list())?;
    } else {
        writeln!(
            text,
            "NOT what {}/{} lists; when the sources are meant to differ, run this with --pin:",
            cuda::SOURCES,
            release.list()
        )?;
    }
    for difference in &cubins.differences {
        writeln!(text, "  {difference}")?;
    }
    let value = json!({
        "folder": out,
        "cubins": artefacts,
        "identical": same,
        "differences": cubins.differences,
    });
    output.print(&value, text)?;
    Ok(if same {
        Outcome::Done
    } else {
        Outcome::Rejected
    })
}

pub(super) fn unpack(
    out: &Path,
    tools: &[Tool],
    origin: &Origin,
    output: Output,
) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        !out.exists(),
        "{} exists: name a folder that does not, for the tools to be all that is in it",
        out.display()
    );
    let groups: Vec<&str> = tools
        .iter()
        .map(|tool| match tool {
            Tool::Compiler => toolkit::COMPILER,
            Tool::Inspect => toolkit::INSPECT,
            Tool::Sanitizer => toolkit::SANITIZER,
        })
        .collect();
    toolkit::unpack(
        &fetcher(origin)?,
        &groups,
        toolkit::ALL,
        out,
        &*report::stderr(),
    )?;
    let value = json!({ "folder": out, "groups": groups });
    output.print(
        &value,
        format!("{} in {}", groups.join(", "), out.display()),
    )?;
    Ok(Outcome::Done)
}

pub(super) fn engine(out: &Path, origin: &Origin, output: Output) -> anyhow::Result<Outcome> {
    let (source, cache) = (origin.source()?, origin.cache()?);
    let reporter = report::stderr();
    let engine = engine::build(&source, &cache, &fetcher(origin)?, &*reporter)?;
    let (engine, crates) = (engine.bytes, engine.made_of.crates);
    let artefact = files::write_to(out, &engine)?;
    let text = format!(
        "{} {:>8}  {}\nof {} crates; it starts only in the image, beside the driver",
        artefact.sha256,
        artefact.size,
        out.display(),
        crates.len()
    );
    let value = json!({ "engine": out, "artefact": artefact, "crates": crates.len() });
    output.print(&value, text)?;
    Ok(Outcome::Done)
}

fn fetcher(origin: &Origin) -> anyhow::Result<Fetcher> {
    let (lock, _) = build::lock(&origin.source()?)?;
    Ok(Fetcher::new(
        lock,
        Cache::open(origin.cache()?)?,
        build::mirrors(&origin.mirrors)?,
        options(origin),
        report::stderr(),
    ))
}

fn options(origin: &Origin) -> Options {
    Options {
        keyring: origin.keyring(),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use cocoon_inputs::Keyring;

    use super::super::args::{Arguments, Command, KernelsCommand};
    use super::*;

    #[test]
    fn every_command_takes_the_given_keyring() {
        for line in [
            "engine --out o",
            "kernels build --out o",
            "kernels toolkit --out o --tool compiler",
        ] {
            for (more, keyring) in [
                ("", Keyring::debian()),
                (" --keyring k.gpg", Keyring::file("k.gpg")),
            ] {
                let line = format!("cocoon-image {line}{more}");
                let command = Arguments::parse_from(line.split(' ')).command;
                let (Command::Engine { origin, .. }
                | Command::Kernels(
                    KernelsCommand::Build { origin, .. } | KernelsCommand::Toolkit { origin, .. },
                )) = command
                else {
                    panic!("{line}")
                };
                assert_eq!(options(&origin).keyring, keyring, "{line}");
            }
        }
    }
}
