//! Operands of a text command: the appliances and the source of the text.

use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use cocoon_client::messenger::MAX_TEXT_LEN;
use cocoon_client::terminal::say;
use cocoon_client::{Address, AddressError};
use zeroize::Zeroizing;

/// An operand of the command line: a text with `://` is the URL of an appliance, any other a file.
#[derive(Clone, Debug)]
pub enum Operand {
    Appliance(Address),
    File(PathBuf),
}

impl FromStr for Operand {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.contains("://") {
            true => text.parse().map(Self::Appliance),
            false => Ok(Self::File(text.into())),
        }
    }
}

/// Returns the appliances, and the file named after them.
pub fn operands(all: &[Operand]) -> anyhow::Result<(Vec<Address>, Option<PathBuf>)> {
    let mut urls = Vec::new();
    let mut file: Option<&PathBuf> = None;
    for operand in all {
        match (operand, file) {
            (Operand::Appliance(url), None) => urls.push(url.clone()),
            (Operand::Appliance(url), Some(file)) => {
                bail!(
                    "{url} stands after the file {}: name appliances first",
                    file.display()
                )
            }
            (Operand::File(path), None) => file = Some(path),
            (Operand::File(path), Some(file)) => bail!(
                "one text at a time: {} and {} are two files",
                file.display(),
                path.display()
            ),
        }
    }
    ensure!(
        !urls.is_empty(),
        "no appliance is named: write https://HOST:PORT"
    );
    let standard_input = |path: &&PathBuf| path.as_os_str() == "-";
    Ok((urls, file.filter(|path| !standard_input(path)).cloned()))
}

/// Reads the text from the file or from standard input. Reads on a thread of its own, which goes on
/// waiting after Ctrl-C.
pub async fn read(file: Option<PathBuf>) -> anyhow::Result<Zeroizing<String>> {
    if file.is_none() && io::stdin().is_terminal() {
        say("the text from standard input, please; Ctrl-D ends it");
    }
    tokio::task::spawn_blocking(move || match &file {
        Some(path) => {
            let name = path.display().to_string();
            let opened =
                std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
            text(&name, opened)
        }
        None => text("standard input", io::stdin().lock()),
    })
    .await?
}

fn text(name: &str, from: impl Read) -> anyhow::Result<Zeroizing<String>> {
    // Allocated at once: a vector that grows would leave copies behind that are not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TEXT_LEN + 1));
    from.take(MAX_TEXT_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {name}"))?;
    ensure!(
        bytes.len() <= MAX_TEXT_LEN,
        "{name} has more than {MAX_TEXT_LEN} bytes: divide it"
    );
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => bail!(
            "{name} is not text in UTF-8: see byte {}",
            error.valid_up_to()
        ),
    };
    ensure!(!text.trim().is_empty(), "{name} holds no text");
    Ok(Zeroizing::new(text.to_owned()))
}
