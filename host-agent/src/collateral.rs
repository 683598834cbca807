//! The vendors' endorsements of this machine's evidence: fetched from Intel, AMD and NVIDIA, kept, renewed before they
//! expire, and handed to guests, which staple them.
//!
//! Clients and guests do not trust this code: all collateral is signed by its vendor, and they verify it. The checks here
//! find what they would refuse, so that the operator hears it first.
//!
//! | module | contents |
//! |---|---|
//! | [`want`] | the items of collateral that evidence needs |
//! | [`services`] | the addresses of the vendors' services |
//! | [`http`] | one bounded HTTP request |
//! | `intel`, `amd`, `nvidia` | each vendor's requests, and checks of the answers |
//! | [`store`] | kept answers and failures, in a folder |
//! | [`schedule`] | when to request an item again, a pure function |
//! | `unkept` | answers and failures that the store could not write |
//! | [`keeper`] | requests, checks and keeps items |
//! | [`guest`] | supplies one guest as long as it lives |
//! | [`bundle`] | the whole store in one file, for machines without a network |
//!
//! **No request has ever been sent to a vendor's own service.** Tests use stand-ins.

mod amd;
pub mod bundle;
pub mod guest;
pub mod http;
mod intel;
pub mod keeper;
mod nvidia;
pub mod schedule;
pub mod services;
pub mod store;
mod unkept;
pub mod want;

pub use keeper::{Gathered, Keeper};
pub use services::Services;
pub use store::{Entry, Store};
pub use want::Want;

/// The validity period of an item, Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dates {
    /// When the vendor issued the item; 0 if it does not say.
    pub made: u64,
    /// Last second in which the item is valid.
    pub due: u64,
}

/// Why an item cannot be had, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// The request failed.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The vendor has no such item.
    #[error("{vendor} has none: {url} answers 404; {advice}")]
    None {
        /// Name of the vendor.
        vendor: &'static str,
        /// Address that was requested.
        url: String,
        /// What that means, and what to do.
        advice: &'static str,
    },
    /// The answer is not the requested item.
    #[error("{what} from {vendor} is not what it should be: {why}")]
    Wrong {
        /// What was requested.
        what: &'static str,
        /// Name of the vendor.
        vendor: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
    /// The item has expired or is not valid yet.
    #[error(
        "{what} from {vendor} is good from {made} to {due} (Unix time), and it is {now}: check this machine's clock, or ask again later"
    )]
    Dates {
        /// What was requested.
        what: &'static str,
        /// Name of the vendor.
        vendor: &'static str,
        /// Start of validity, Unix time.
        made: u64,
        /// End of validity, Unix time.
        due: u64,
        /// This machine's clock, Unix time.
        now: u64,
    },
    /// The item cannot be requested, for the given reason.
    #[error("{0}")]
    Unasked(&'static str),
}

impl Dates {
    /// Fails with [`CollateralError::Dates`] if `now` is outside this period.
    fn hold(
        self,
        what: &'static str,
        vendor: &'static str,
        now: u64,
    ) -> Result<Self, CollateralError> {
        let Self { made, due } = self;
        if (made..=due).contains(&now) {
            return Ok(self);
        }
        Err(CollateralError::Dates {
            what,
            vendor,
            made,
            due,
            now,
        })
    }
}

fn wrong(what: &'static str, vendor: &'static str) -> impl Fn(String) -> CollateralError {
    move |why| CollateralError::Wrong { what, vendor, why }
}
