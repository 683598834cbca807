//! The store in one file: for machines that reach no vendor, filled on one that does.

use cocoon_protocol::bytes::Blob;
use serde::{Deserialize, Serialize};

use super::Want;
use super::keeper::{FetchError, Keeper};

/// Version of the form.
const VERSION: u16 = 1;
/// The largest bundle read, in bytes.
pub const MAX_BUNDLE: usize = 64 << 20;
/// Most things in a bundle.
const MAX_ITEMS: usize = 4096;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    version: u16,
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    want: Want,
    /// When it was fetched, Unix time; absent with the bytes where it is only asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fetched: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Blob>,
}

/// Why a file is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not what `export` writes.
    #[error("this is no bundle of collateral: {0}")]
    Malformed(String),
    /// Written by another release.
    #[error(
        "this bundle has version {0}, this release reads version {VERSION}: export it again with the same release"
    )]
    Version(u16),
    /// More than any.
    #[error("this bundle has {0} items, at most {MAX_ITEMS} are read")]
    TooMany(usize),
}

impl Bundle {
    /// Everything that is kept, and, without bytes, what was asked for in vain.
    #[must_use]
    pub fn of(keeper: &Keeper) -> Self {
        let store = &keeper.store;
        let kept = store.entries().into_iter().filter_map(|entry| {
            let (entry, bytes) = store.get(&entry.want)?;
            Some(Item {
                want: entry.want,
                fetched: Some(entry.fetched),
                bytes: Some(Blob(bytes)),
            })
        });
        let mut items: Vec<Item> = kept.collect();
        for failure in store.failures() {
            if !items.iter().any(|item| item.want == failure.want) {
                items.push(Item {
                    want: failure.want,
                    fetched: None,
                    bytes: None,
                });
            }
        }
        Self {
            version: VERSION,
            items,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let malformed = |why: String| BundleError::Malformed(why);
        let bundle: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if bundle.version != VERSION {
            return Err(BundleError::Version(bundle.version));
        }
        if bundle.items.len() > MAX_ITEMS {
            return Err(BundleError::TooMany(bundle.items.len()));
        }
        match bundle.items.iter().find(|item| !item.want.is_wellformed()) {
            Some(item) => Err(malformed(format!(
                "{} cannot be asked for",
                item.want.title()
            ))),
            None => Ok(bundle),
        }
    }

    /// As a file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Names, numbers and bytes: serialisation cannot fail.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// What it is about.
    pub fn wants(&self) -> impl Iterator<Item = &Want> {
        self.items.iter().map(|item| &item.want)
    }

    /// How many of them it brings.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.items
            .iter()
            .filter(|item| item.bytes.is_some())
            .count()
    }

    /// Keeps what it brings, each after the same checks as an answer of the vendor's, unless what is kept is newer; says for
    /// each what became of it.
    pub fn import(self, keeper: &Keeper, now: u64) -> Vec<(Want, Result<Imported, FetchError>)> {
        let brought = self.items.into_iter().filter_map(|item| {
            let bytes = item.bytes?;
            let fetched = item.fetched.unwrap_or(0).min(now);
            let outcome = import(keeper, &item.want, &bytes.0, fetched, now);
            Some((item.want, outcome))
        });
        brought.collect()
    }
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is kept.
    Kept,
    /// What was kept is as new or newer.
    Older,
}

fn import(
    keeper: &Keeper,
    want: &Want,
    bytes: &[u8],
    fetched: u64,
    now: u64,
) -> Result<Imported, FetchError> {
    let dates = keeper.check(want, bytes, now)?;
    if let Some((kept, _)) = keeper.store.get(want)
        && kept.fetched >= fetched
        && now <= kept.dates.due
    {
        return Ok(Imported::Older);
    }
    keeper.store.put(want, bytes, dates, fetched)?;
    Ok(Imported::Kept)
}
