//! The whole store in one file, for machines that cannot reach the vendors.

use cocoon_protocol::bytes::Blob;
use serde::{Deserialize, Serialize};

use super::Want;
use super::keeper::{FetchError, Keeper};

/// Version of the file format.
const VERSION: u16 = 1;
/// Maximum length of a bundle in bytes.
pub const MAX_BUNDLE: usize = 64 << 20;
/// Maximum number of items in a bundle.
const MAX_ITEMS: usize = 4096;

/// The contents of a bundle: items of collateral, and items that are missing.
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
    /// When the item was fetched, Unix time. Absent, like the bytes, if the item is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fetched: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Blob>,
}

/// Why a file is not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file does not have the form that `export` writes.
    #[error("this is no bundle of collateral: {0}")]
    Malformed(String),
    /// The file was written by another release.
    #[error(
        "this bundle has version {0}, this release reads version {VERSION}: export it again with the same release"
    )]
    Version(u16),
    /// The file has too many items.
    #[error("this bundle has {0} items, at most {MAX_ITEMS} are read")]
    TooMany(usize),
}

impl Bundle {
    /// Collects everything that is kept, and, without bytes, everything that could not be fetched.
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

    /// Parses a file.
    ///
    /// # Errors
    /// Fails with [`BundleError`] if the file is malformed, has too many items, or is of another version.
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

    /// Serialises the bundle.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Serialisation of names, numbers and bytes cannot fail.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The items that the bundle names, with or without bytes.
    pub fn wants(&self) -> impl Iterator<Item = &Want> {
        self.items.iter().map(|item| &item.want)
    }

    /// Number of items with bytes.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.items
            .iter()
            .filter(|item| item.bytes.is_some())
            .count()
    }

    /// Stores the items with bytes, unless what is kept is as new. Each passes the same checks as a vendor's answer. Returns
    /// the outcome for each.
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

/// The outcome for an imported item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The item is stored.
    Kept,
    /// The store has the item, just as new or newer.
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
