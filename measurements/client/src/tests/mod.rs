//! Tests of the client against misbehaving servers. The judge of evidence is replaced here, inside
//! the crate and in tests only; the real one has its own tests in `cocoon-measurements`.

mod collateral;
mod connecting;
mod conversing;
mod deciding;
mod double;
mod failing;
mod judging;
mod messaging;
mod receipting;
mod receipts;
mod refusing;
mod renewing;
mod serving;
mod stapling;
