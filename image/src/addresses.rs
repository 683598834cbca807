//! Programs that have the same addresses in every run.
//!
//! NVIDIA's `cicc` walks tables that are ordered by addresses: with the kernel's randomisation of them (ASLR) two runs over one
//! source differ now and then, and so did one kernel of some sixty in two builds of the engine for GPUs. Nothing that a build
//! runs has a secret that the randomisation would protect.

use std::io;

use nix::sys::personality::{self, Persona};

/// Calls `start`, which starts programs on this thread: they and whatever they run have fixed addresses, where this process may
/// ask for that.
pub(crate) fn fixed<T>(start: impl FnOnce() -> T) -> T {
    // A setting of the thread, which what it starts inherits.
    let before = personality::get().and_then(|persona| {
        personality::set(persona | Persona::ADDR_NO_RANDOMIZE)?;
        Ok(persona)
    });
    let started = start();
    if let Ok(persona) = before {
        // What could be set can be set back; if not, the next programs have fixed addresses, too.
        let _ = personality::set(persona);
    }
    started
}

/// Whether programs can have fixed addresses: containers may forbid it.
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
