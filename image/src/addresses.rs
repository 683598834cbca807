//! Starts programs without address space layout randomisation (ASLR), so that their addresses are the same in every run.
//!
//! NVIDIA's `cicc` walks tables that are ordered by address. With ASLR, two runs over the same source sometimes give different
//! code: in two builds of the engine for GPUs, one kernel of some sixty differed. No program that a build runs holds a secret
//! that ASLR would protect.

use std::io;

use nix::sys::personality::{self, Persona};

/// Calls `start`, which starts programs on this thread. They and their descendants have fixed addresses, if this process is
/// allowed to request that.
pub(crate) fn fixed<T>(start: impl FnOnce() -> T) -> T {
    // The persona belongs to the thread, and programs that the thread starts inherit it.
    let before = personality::get().and_then(|persona| {
        personality::set(persona | Persona::ADDR_NO_RANDOMIZE)?;
        Ok(persona)
    });
    let started = start();
    if let Ok(persona) = before {
        // Restoring it should not fail after setting it succeeded. If it fails, later programs have fixed addresses, too.
        let _ = personality::set(persona);
    }
    started
}

/// Checks that programs can have fixed addresses, which containers may forbid.
pub(crate) fn check() -> io::Result<()> {
    let set = fixed(personality::get)?;
    match set.contains(Persona::ADDR_NO_RANDOMIZE) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn mapped() -> String {
        let output = Command::new("cat").arg("/proc/self/maps").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn programs_and_theirs_have_the_same_addresses_each_time() {
        let persona = personality::get().unwrap();
        check().unwrap();
        let direct = fixed(mapped);
        assert_eq!(fixed(mapped), direct);
        let below = || {
            let mut shell = Command::new("sh");
            let output = shell.args(["-c", "cat /proc/self/maps | cat"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        assert_eq!(fixed(below), fixed(below));
        assert_eq!(
            personality::get().unwrap(),
            persona,
            "and this one keeps its own"
        );
    }
}
