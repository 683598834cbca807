//! Real VMs: they boot as specified, or end with one line that gives the reason.
//!
//! | module | what its tests show |
//! |---|---|
//! | `served` | phases in order, a detached disk, a quiet console, an answer, and nothing left behind |
//! | `edited` | the verdict names an edited command line, and an edited model volume ends the boot |
//! | `disks` | disks that are missing, duplicated, truncated or swapped |
//! | `hosts` | a host that sends garbage, too much, or nothing |
//! | `gpus` | the image for real GPUs reports that there is none |
//! | `simulated` | a simulated GPU proves its state to guest and client |
//! | `turned_away` | what the host agent refuses before it starts anything |

use std::path::Path;

mod disks;
mod edited;
mod gpus;
mod hosts;
mod served;
mod simulated;
#[path = "../attestation/stranger.rs"]
#[expect(dead_code, reason = "the tests of connections use more of it")]
mod stranger;
mod turned_away;

/// Returns the executable that plays the simulator.
fn demo() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demo"))
}
