//! What operators see: metrics, `cocoon-host top` and the status page, for made-up moments of a machine.

mod browser;
mod chromium;
mod metrics;
mod moments;
mod page;
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod top;
