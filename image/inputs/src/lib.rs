//! Locks, fetches, verifies, caches and unpacks every foreign input: Debian packages, the model, the private QEMU.
//!
//! ```no_run
//! use cocoon_inputs::{Cache, Fetcher, Lock, Mirrors, Options, Policy, report};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lock = Lock::parse(&std::fs::read_to_string("image/inputs.lock")?)?;
//! let cache = Cache::open(Cache::default_root()?)?;
//! let options = Options { policy: Policy::Release, ..Options::default() };
//! let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, report::stderr());
//! for fetched in fetcher.fetch_group("kernel")? {
//!     println!("{} {}", fetched.entry.name, fetched.path.display());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This crate does not know what the inputs are for, and runs no maintainer script. Every file it returns has the
//! locked SHA-256 or, if the caller allows the newest version instead, a hash signed by Debian's archive key.

mod archive;
mod archive_error;
mod cache;
mod canonical;
mod date;
mod digest;
mod fetch;
mod fetch_error;
mod http;
mod lock;
mod lock_error;
mod mirror;
mod names;
mod openpgp;
mod options;
mod packages;
mod pip;
mod programs;
pub mod report;
mod resolve;
#[cfg(test)]
mod testing;
pub mod unpack;
mod version;

pub use archive::{Archive, Keyring};
pub use archive_error::ArchiveError;
pub use cache::{Cache, CacheError, CacheGuard, Collected};
pub use digest::{Digest, DigestError};
pub use fetch::{Fetched, Fetcher};
pub use fetch_error::FetchError;
pub use http::{Http, HttpError, tls};
pub use lock::{Entry, Kind, Lock, MAX_INPUT_BYTES, Release, Request, Take};
pub use lock_error::LockError;
pub use mirror::{MirrorError, Mirrors};
pub use openpgp::SignatureError;
pub use options::{Options, Policy};
pub use packages::PackagesError;
pub use pip::PipError;
pub use programs::end_all;
pub use resolve::{ResolveError, resolve};
pub use version::compare as compare_versions;
