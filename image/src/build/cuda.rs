//! Makes the additional ingredients of an image for real GPUs: driver, GPU firmware, and the programs with their libraries.

use std::collections::BTreeSet;

use cocoon_inputs::Fetcher;
use cocoon_inputs::report::Reporter;

use super::{AGENT, Build, BuildError};
use crate::assemble::Gpu;
use crate::cuda::engine;
use crate::driver::Ingredients;
use crate::foreign::{Foreign, GPU_FIRMWARE};
use crate::guest::{self, Binaries};
use crate::kernel::Kernel;
use crate::runtime::{self, COLLECTOR, ENGINE};

/// Makes all additional ingredients, and records in `foreign` the packages that they contain or were made with.
pub(super) fn make(
    what: &Build,
    fetcher: &Fetcher,
    foreign: &mut Foreign<'_>,
    kernel: &Kernel,
    reporter: &dyn Reporter,
) -> Result<(Gpu, Binaries), BuildError> {
    let ingredients = Ingredients::fetch(fetcher, &kernel.release)?;
    foreign.contains(ingredients.source());
    ingredients
        .tools()
        .iter()
        .for_each(|package| foreign.uses(package));
    let cache = fetcher.cache().root();
    let driver = ingredients.compile(cache, reporter)?;
    let (binaries, collector, engine) = programs(what, fetcher, foreign, reporter)?;
    let packages = foreign.group(runtime::GROUP)?;
    let programs = [(COLLECTOR, collector), (ENGINE, engine)];
    let mut files = runtime::select(programs, &packages, &driver.version, reporter)?;
    let used: BTreeSet<&str> = runtime::CATALOGUE
        .iter()
        .filter(|library| files.contains_key(&library.name(&driver.version)))
        .map(|library| library.package)
        .collect();
    packages
        .iter()
        .filter(|package| used.contains(package.entry.name.as_str()))
        .for_each(|package| foreign.contains(package));
    files.insert(
        GPU_FIRMWARE.to_owned(),
        foreign.gpu_firmware(&driver.version)?,
    );
    let gpu = Gpu {
        driver,
        runtime: files,
    };
    Ok((gpu, binaries))
}

/// Returns the agent, the collector and the engine, and records in `foreign` the packages that the engine was made with.
fn programs(
    what: &Build,
    fetcher: &Fetcher,
    foreign: &mut Foreign<'_>,
    reporter: &dyn Reporter,
) -> Result<(Binaries, Vec<u8>, Vec<u8>), BuildError> {
    if let Some(folder) = &what.binaries {
        return Ok((
            Binaries::read_agent(&folder.join(AGENT))?,
            guest::read_program(&folder.join(COLLECTOR))?,
            guest::read_program(&folder.join(ENGINE))?,
        ));
    }
    let cache = fetcher.cache().root();
    let (mut binaries, collector) = guest::build_with_collector(&what.source, cache, reporter)?;
    let engine = engine::build(&what.source, cache, fetcher, reporter)?;
    let tools = engine.packages.iter();
    tools.for_each(|package| foreign.uses(package));
    let made_of = binaries.made_of.take();
    binaries.made_of = made_of.map(|made_of| made_of.and(engine.made_of));
    Ok((binaries, collector, engine.bytes))
}
