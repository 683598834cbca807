//! Reads artefacts into memory. Large ones take seconds to read and to measure, so a progress bar
//! shows the reading, and a message the measuring.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use cocoon_client::terminal::Waiting;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::Artefacts;

/// Largest artefact, in bytes.
const MAX_ARTEFACT: u64 = 4 * 1024 * 1024 * 1024;
/// Size from which reading and measuring takes more than a second, in bytes.
const LONG: u64 = 256 * 1024 * 1024;
/// Bytes read at once.
const PIECE: u64 = 8 * 1024 * 1024;

pub struct Loaded {
    pub firmware: Vec<u8>,
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
    /// Progress of the measuring; it must be dropped before anything else is printed.
    pub measuring: Option<Waiting>,
}

impl Loaded {
    pub fn read(artefacts: &Artefacts) -> anyhow::Result<Self> {
        let paths = [Some(&artefacts.firmware), Some(&artefacts.kernel)];
        let mut total = 0;
        for path in paths.into_iter().chain([artefacts.initrd.as_ref()]) {
            total += path.map(|path| length(path)).transpose()?.unwrap_or(0);
        }
        let long = total > LONG;
        let measuring = || Waiting::new(format!("measuring {}", HumanBytes(total)));
        let bar = if long {
            bar(total)
        } else {
            ProgressBar::hidden()
        };
        // Without a terminal, dots show both reading and measuring.
        let dots = (long && bar.is_hidden()).then(measuring);
        let firmware = read_shown(&artefacts.firmware, &bar)?;
        let kernel = read_shown(&artefacts.kernel, &bar)?;
        let initrd = artefacts.initrd.as_deref();
        let initrd = initrd.map(|path| read_shown(path, &bar)).transpose()?;
        bar.finish_and_clear();
        Ok(Self {
            firmware,
            kernel,
            initrd,
            measuring: dots.or_else(|| long.then(measuring)),
        })
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    // The template is a valid constant; the default style would also do.
    let template = "reading {bar:40} {bytes} of {total_bytes}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Reads a file of at most [`MAX_ARTEFACT`] bytes.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_shown(path, &ProgressBar::hidden())
}

fn length(path: &Path) -> anyhow::Result<u64> {
    let found = std::fs::metadata(path);
    let length = found.with_context(|| unreadable(path))?.len();
    if length > MAX_ARTEFACT {
        bail!(
            "{} has {length} bytes, more than any kernel, firmware or initrd",
            path.display()
        );
    }
    Ok(length)
}

fn read_shown(path: &Path, bar: &ProgressBar) -> anyhow::Result<Vec<u8>> {
    let room = usize::try_from(length(path)?).with_context(|| unreadable(path))?;
    let mut file = File::open(path).with_context(|| unreadable(path))?;
    let mut bytes = Vec::with_capacity(room);
    loop {
        let piece = (&mut file).take(PIECE).read_to_end(&mut bytes);
        let read = piece.with_context(|| unreadable(path))?;
        // The length may have changed, and a pipe has none.
        if bytes.len() as u64 > MAX_ARTEFACT {
            bail!(
                "{} has more bytes than any kernel, firmware or initrd",
                path.display()
            );
        }
        if read == 0 {
            return Ok(bytes);
        }
        bar.inc(read as u64);
    }
}

fn unreadable(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
