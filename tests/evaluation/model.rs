//! Selects the model whose translations are scored.

use clap::Parser;

use crate::appliance::Setup;

#[path = "../performance/subject.rs"]
#[expect(dead_code, reason = "the measurements of speed use more of it")]
mod subject;

/// Environment variable that names a GGUF file to use instead of the default model.
const VARIABLE: &str = "COCOON_TEST_MODEL";

#[derive(Parser)]
struct Wanted {
    #[command(flatten)]
    subject: subject::Options,
}

/// Returns engine and model as the appliance would serve them, with one answer at a time.
pub async fn setup() -> anyhow::Result<Setup> {
    let model = std::env::var(VARIABLE).ok();
    let given = model.iter().flat_map(|path| ["--model", path]);
    let wanted = Wanted::try_parse_from(["evaluation"].into_iter().chain(given))?;
    Ok(subject::Subject::find(&wanted.subject).await?.setup(1))
}
