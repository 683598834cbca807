//! Answers and failures that the store could not write. Guests still get the answers, and vendors are not asked again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::schedule::Known;
use super::store::{Store, StoreError};
use super::{Dates, Want};
use crate::text::chain;

/// Answers and failures that could not be written, kept for the life of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Unkept(Arc<Mutex<BTreeMap<Want, Item>>>);

#[derive(Debug, Default)]
struct Item {
    /// Time of the fetch, validity period and bytes.
    answer: Option<(u64, Dates, Vec<u8>)>,
    /// As in [`Known`]; `refused` is the reason.
    failed: Option<(u64, u32)>,
    refused: Option<String>,
    /// What is wrong with the store.
    why: String,
}

impl Unkept {
    /// Holds an answer that the store could not take.
    pub(super) fn answered(&self, want: &Want, answer: (u64, Dates, Vec<u8>), error: &StoreError) {
        let item = Item {
            answer: Some(answer),
            failed: None,
            refused: None,
            why: chain(error),
        };
        self.lock().insert(want.clone(), item);
    }

    /// Counts a failure that the store could not take; `before` is what was known until then.
    pub(super) fn failed(
        &self,
        want: &Want,
        before: Known,
        failure: (u64, String),
        error: &StoreError,
    ) {
        let (now, refused) = failure;
        let times = before.failed.map_or(0, |(_, times)| times);
        let mut items = self.lock();
        let item = items.entry(want.clone()).or_default();
        item.failed = Some((now, times.saturating_add(1)));
        item.refused = Some(refused);
        item.why = chain(error);
    }

    /// Drops a held failure, since the store has taken a newer one.
    pub(super) fn counted(&self, want: &Want) {
        let mut items = self.lock();
        if let Some(item) = items.get_mut(want) {
            (item.failed, item.refused) = (None, None);
            if item.answer.is_none() {
                items.remove(want);
            }
        }
    }

    /// Drops everything held for `want`, since the store has taken a newer answer.
    pub(super) fn forget(&self, want: &Want) {
        self.lock().remove(want);
    }

    /// Returns what is known of `want`; `stored` is what the store knows.
    pub(super) fn known(&self, want: &Want, stored: Known) -> Known {
        let items = self.lock();
        let Some(item) = items.get(want) else {
            return stored;
        };
        match &item.answer {
            // An answer ends the failures before it.
            Some((at, dates, _)) => Known {
                fetched: Some((*at, *dates)),
                failed: item
                    .failed
                    .or(stored.failed.filter(|(failed, _)| failed > at)),
            },
            None => Known {
                failed: item.failed.or(stored.failed),
                ..stored
            },
        }
    }

    /// Returns the answer held for `want`, if it is valid at `now`.
    pub(super) fn get(&self, want: &Want, now: u64) -> Option<Vec<u8>> {
        let items = self.lock();
        let (_, dates, bytes) = items.get(want)?.answer.as_ref()?;
        (now <= dates.due).then(|| bytes.clone())
    }

    /// Returns why the last request for `want` failed, if that is held.
    pub(super) fn refused(&self, want: &Want) -> Option<String> {
        self.lock().get(want)?.refused.clone()
    }

    /// Tries again to write the held answers to `store`, except where it has a newer one. Returns what is wrong with the
    /// store if something is still held.
    pub(super) fn settle(&self, store: &Store) -> Option<String> {
        let mut items = self.lock();
        items.retain(|want, item| {
            let Some((at, dates, bytes)) = &item.answer else {
                return true;
            };
            let newer = store
                .known(want)
                .fetched
                .is_some_and(|(kept, _)| kept > *at);
            if newer {
                return false;
            }
            let kept = store.put(want, bytes, *dates, *at);
            kept.map_err(|error| item.why = chain(&error)).is_err()
        });
        items.values().next().map(|item| item.why.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Want, Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
