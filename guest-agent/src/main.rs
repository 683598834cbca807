//! `/init` of the guest: runs as PID 1 and, under two other names, as the helpers that build the engine's jail.

use std::alloc::System;
use std::process::ExitCode;

use cocoon_guest_agent::boot;
use cocoon_guest_agent::jail::{self, Cell, INNER, JailError, OUTER};
use cocoon_guest_agent::sys::heap::Wiping;

/// Wipes freed memory, because prompts and answers pass through buffers of libraries that do not wipe them.
#[global_allocator]
static HEAP: Wiping = Wiping(System);

fn main() -> ExitCode {
    // PID 1 ignores its arguments: the kernel passes on the command line parameters that it does not know.
    if std::process::id() == 1 && !inside_the_jail() {
        boot::run();
    }
    let mut args = std::env::args_os().skip(1);
    let helper = args.next();
    let outcome = match helper.as_deref().and_then(|name| name.to_str()) {
        Some(OUTER) => Cell::from_args(args).and_then(|cell| jail::outer(&cell)),
        Some(INNER) => Cell::from_args(args).and_then(|cell| Err(jail::inner(&cell))),
        _ => Err(JailError::Usage),
    };
    match outcome {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            // Standard error is /dev/null in the appliance and a terminal elsewhere.
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            eprintln!("cocoon-guest-agent: {error}{cause}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether this process is the inner jail helper, which is also PID 1, but in the engine's PID namespace. A kernel
/// command line that starts with the helper's name would not boot, and the command line is measured.
fn inside_the_jail() -> bool {
    std::env::args_os().nth(1).is_some_and(|name| name == INNER)
}

#[cfg(test)]
mod leftovers;
