//! Prints the result of a rebuild.

use std::fmt::{Display, Formatter, Result};

use super::Rebuilt;
use crate::assemble::name;
use crate::sbom;
use crate::shown::printable;

impl Display for Rebuilt {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.verdict(f)?;
        // Reference values follow from the artefacts, so the first few differences explain the others.
        for difference in self.differences.iter().take(12) {
            writeln!(f, "  {difference}")?;
        }
        if let Some(more) = self.differences.len().checked_sub(13) {
            writeln!(f, "  and {} more", more + 1)?;
        }
        for name in &self.altered {
            writeln!(
                f,
                "DIFFERENT: {} beside the manifest is not the file that it describes",
                printable(name)
            )?;
        }
        if !self.absent.is_empty() {
            let names: Vec<_> = self.absent.iter().map(|name| printable(name)).collect();
            writeln!(f, "note: not beside the manifest: {}", names.join(", "))?;
        }
        if let Some((claimed, at_hand)) = &self.other_revision {
            writeln!(
                f,
                "note: the manifest names revision {}, the sources at hand are {}",
                printable(claimed),
                printable(at_hand)
            )?;
        }
        for name in &self.pinned {
            writeln!(
                f,
                "note: machine shape {:?}: its ACPI and SMBIOS tables are pinned by the signers, not recomputed; its other events follow from the firmware",
                printable(name)
            )?;
        }
        self.explanation(f)
    }
}

impl Rebuilt {
    fn verdict(&self, f: &mut Formatter<'_>) -> Result {
        match (self.differences.is_empty(), self.first_different) {
            (true, _) if self.identical => writeln!(
                f,
                "identical: the sources at hand give every artefact and every reference value"
            ),
            (true, _) => writeln!(
                f,
                "DIFFERENT: the sources at hand give what the manifest describes, and that is not what lies beside it"
            ),
            (false, Some(name)) => writeln!(
                f,
                "DIFFERENT: {name} is the first artefact that differs{}",
                match self.first_different_byte {
                    Some(offset) => format!(", from byte {offset} on"),
                    None => String::new(),
                }
            ),
            (false, None) => writeln!(
                f,
                "DIFFERENT: the artefacts are the same, the manifest says something else of them"
            ),
        }
    }

    /// Explains why executables may differ.
    fn explanation(&self, f: &mut Formatter<'_>) -> Result {
        let (what, with) = match self.first_different {
            Some(name::INITRD) => (
                "The initrd holds the compiled agent and engine",
                format!(
                    "the versions of gcc and libc6-dev that the published {} lists",
                    name::SBOM
                ),
            ),
            // The SBOM of an image with this volume lists no libraries of the build machine.
            Some(name::RUNTIME) => (
                "The runtime volume holds the compiled engine and collector",
                "the same gcc, g++ and libc6-dev".to_owned(),
            ),
            _ => return Ok(()),
        };
        match self.other_libraries.as_deref() {
            Some([]) => writeln!(
                f,
                "{what}. {} names the same libraries for both images: compare the versions of what it does not list, such as g++, binutils and, for GPUs, gcc and libc6-dev.",
                name::SBOM
            ),
            Some(others) => {
                writeln!(
                    f,
                    "{what}, linked by the machine that built them; libraries that were others there, says {}:",
                    name::SBOM
                )?;
                others.iter().try_for_each(|other| line(f, other))?;
                writeln!(f, "Compare with these versions of gcc and libc6-dev.")
            }
            None => writeln!(
                f,
                "{what}: the C compiler and libraries of their builder are in it, so compare on the same Debian release, with {with}."
            ),
        }
    }
}

fn line(f: &mut Formatter<'_>, other: &sbom::Other) -> Result {
    let [first, second] = [&other.first, &other.second].map(|version| {
        let version = version.as_deref().map(printable);
        version.unwrap_or_else(|| "(absent)".to_owned())
    });
    writeln!(f, "  {}: {first} → {second}", printable(&other.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_a_list_without_what_is_compared() {
        let told = |first| {
            let rebuilt = Rebuilt {
                identical: false,
                first_different: Some(first),
                first_different_byte: None,
                differences: vec![],
                altered: vec![],
                absent: vec![],
                other_libraries: None,
                other_revision: None,
                pinned: vec![],
            };
            rebuilt.to_string()
        };
        assert!(told(name::INITRD).contains(name::SBOM));
        let runtime = told(name::RUNTIME);
        let end = "with the same gcc, g++ and libc6-dev.\n";
        assert!(runtime.ends_with(end), "{runtime}");
        assert!(!runtime.contains(name::SBOM), "{runtime}");
    }
}
