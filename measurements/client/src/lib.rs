//! Library for clients and verifiers of the Cocoon appliance.
//!
//! A [`Verifier`] holds a trusted manifest and a policy. Its [`connect`](Verifier::connect) opens a
//! TLS 1.3 connection to an appliance, appraises the boot document in the certificate, sends a
//! fresh nonce and appraises the session document that answers it over the same TLS session. Only
//! then does it return an [`AttestedConnection`], the only type from which a prompt can be sent.
//!
//! ```no_run
//! use cocoon_client::{Address, ChatOptions, Conversation, Upstreams, Verifier};
//! use cocoon_measurements::manifest::{ManifestTrust, trust};
//! use cocoon_measurements::policy::Policy;
//!
//! # async fn example(signer: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let manifest = std::fs::read("manifest.json")?;
//! let envelope = std::fs::read("manifest.json.dsse")?;
//! let believed = ManifestTrust { signers: vec![signer], threshold: 1, ..ManifestTrust::default() };
//! let manifest = trust(&manifest, Some(&envelope), &believed, cocoon_client::now())?;
//! let model = manifest.model.id.clone();
//!
//! let verifier = Verifier::new(manifest, Policy::default());
//! let address: Address = "https://appliance.example:8443".parse()?;
//! let connection = verifier.connect(&address).await?;
//! println!("{}", cocoon_client::table(connection.verdict(), Default::default()));
//!
//! let upstreams = Upstreams::new(verifier, vec![address]);
//! let options = ChatOptions { model, ..ChatOptions::default() };
//! let mut conversation = Conversation::new(upstreams, options, None);
//! conversation.ask("Good morning!", |piece| print!("{piece}")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | provides |
//! |---|---|
//! | [`Verifier`], [`AttestedConnection`] | verified connections |
//! | [`CollateralCache`] | the vendors' collateral, cached between connections |
//! | [`Upstreams`] | several appliances, with fail-over and connection reuse |
//! | [`Conversation`] | questions and streamed answers |
//! | [`Endpoint`] | the local OpenAI-compatible endpoint |
//! | [`messenger`] | translations, summaries and replies, also of long texts |
//! | [`receipts`] | signed receipts for answers, checked and kept |
//! | [`trust`] | manifest, signers and release floors from files and flags |
//! | [`terminal`] | conversations on a terminal, and progress while waiting |
//! | [`transcript`] | conversations as lines of JSON |
//! | [`table()`] | a verdict as a table for people |
#![forbid(unsafe_code)]

mod address;
mod attested;
mod beliefs;
mod boot_verdicts;
mod certificate;
mod chat;
mod collateral;
mod connect;
mod dial;
mod endpoint;
mod error;
mod judge;
pub mod messenger;
mod moment;
mod padding;
pub mod receipts;
mod sse;
mod table;
pub mod terminal;
#[cfg(test)]
mod tests;
mod tls;
pub mod transcript;
pub mod trust;
mod upstreams;
mod verifier;
mod wiped;

pub use address::{Address, AddressError};
pub use attested::{AttestedConnection, MAX_CONNECTION_AGE, SendError};
pub use certificate::{CertificateError, Leaf, MAX_CERTIFICATE_LEN};
pub use chat::{Appliance, ChatError, ChatOptions, Conversation, Ending};
pub use collateral::{
    CacheError, CollateralCache, CollateralUse, MAX_CACHED_BYTES, MAX_CACHED_PIECES, MAX_UNUSED,
};
pub use endpoint::{Endpoint, EndpointError, EndpointOptions, LocalPort, Token, TokenError};
pub use error::{ConnectError, Stage, chain, printable};
pub use judge::now;
pub use padding::{MAX_BODY_LEN, MIN_BODY_LEN, PaddingError, padded, padded_object};
pub use table::{TableStyle, check_table, summary, table};
pub use upstreams::{Answer, UpstreamError, Upstreams};
pub use verifier::{Deadlines, Verifier};
