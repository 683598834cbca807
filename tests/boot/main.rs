//! Real VMs: they boot as promised, or end with the one line that says why.
//!
//! | module | promises |
//! |---|---|
//! | `served` | phases in order, a detached disk, a quiet console, an answer, and nothing left behind |
//! | `edited` | another command line is told by the verdict, another model volume ends the boot |
//! | `disks` | disks that are missing, doubled, cut short, swapped |
//! | `hosts` | a host that says garbage, too much, or nothing |
//! | `gpus` | the image for real GPUs says that there is none |
//! | `simulated` | a simulated GPU proves itself to guest and client |
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

/// The executable that plays the simulator.
fn demo() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demo"))
}
