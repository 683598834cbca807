//! The vendors' word on this machine's evidence: fetched from Intel, AMD and NVIDIA, kept, renewed before it ends, and
//! handed to guests, which staple it.
//!
//! Nothing here is trusted: everything vouches for itself, and guests and clients judge it. What is checked here is what
//! they would refuse, so that an operator hears it from this program and not from clients.
//!
//! | module | does |
//! |---|---|
//! | [`want`] | what evidence asks for |
//! | [`services`] | where it is asked for |
//! | [`http`] | one bounded question |
//! | `intel`, `amd`, `nvidia` | each vendor's questions, and whether the answers are any |
//! | [`store`] | what was answered, and what was not |
//! | [`schedule`] | when to ask again: pure |
//! | `unkept` | what the store did not take |
//! | [`keeper`] | all of it together |
//! | [`guest`] | one guest's wishes as long as it lives |
//! | [`bundle`] | the store in one file, for machines without a network |
//!
//! What has never run: a question to a vendor's own service, from where this was written. Tests answer in their place.

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

/// From when to when something is good, Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dates {
    /// When the vendor made it, as far as it says so.
    pub made: u64,
    /// When it ends.
    pub due: u64,
}

/// Why something is not to be had, or not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// The service.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The vendor says that there is none.
    #[error("{vendor} has none: {url} answers 404; {advice}")]
    None {
        /// Who.
        vendor: &'static str,
        /// Where.
        url: String,
        /// What that means.
        advice: &'static str,
    },
    /// An answer that is none.
    #[error("{what} from {vendor} is not what it should be: {why}")]
    Wrong {
        /// What was asked for.
        what: &'static str,
        /// Of whom.
        vendor: &'static str,
        /// What is wrong, in our words or those of a decoder.
        why: String,
    },
    /// It has ended, or has not begun.
    #[error(
        "{what} from {vendor} is good from {made} to {due} (Unix time), and it is {now}: check this machine's clock, or ask again later"
    )]
    Dates {
        /// What was asked for.
        what: &'static str,
        /// Of whom.
        vendor: &'static str,
        /// When it begins.
        made: u64,
        /// When it ends.
        due: u64,
        /// Now.
        now: u64,
    },
    /// Nobody can be asked for this.
    #[error("{0}")]
    Unasked(&'static str),
}

impl Dates {
    /// Errors with [`CollateralError::Dates`] outside of them.
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
