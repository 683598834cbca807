//! What a client or verifier of the Cocoon appliance links or installs.
//!
//! A [`Verifier`] holds what the client believes in: a manifest that counts and a policy. Its
//! [`connect`](Verifier::connect) opens TLS 1.3 to an appliance, judges the boot document in the
//! certificate, sends a fresh nonce, judges the evidence that answers it over this very TLS session,
//! and only then gives an [`AttestedConnection`], the only type from which a prompt can be sent.
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
//! | [`Verifier`], [`AttestedConnection`] | a connection, verified |
//! | [`CollateralCache`] | what vendors say of machines, kept between connections |
//! | [`Upstreams`] | several appliances, with fail-over and reuse |
//! | [`Conversation`] | questions and streamed answers |
//! | [`Endpoint`] | the local OpenAI-compatible endpoint |
//! | [`messenger`] | translations, summaries and replies, of long texts too |
//! | [`receipts`] | what answers cost and what they were about, signed, checked and kept |
//! | [`trust`] | manifest, signers and floors as files and flags name them |
//! | [`terminal`] | conversations on a terminal, and what to show while waiting |
//! | [`transcript`] | conversations as lines of JSON |
//! | [`table()`] | a verdict for people |
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
