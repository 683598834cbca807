//! Origin of the release floor that refuses a manifest: this program, a file, or the memory of
//! releases. Each needs other advice.

use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::{ManifestRefusal, RELEASE_FLOOR};

/// The greatest release floor in a file, and that file.
#[derive(Debug, Default)]
pub(super) struct Floors {
    stated: u64,
    by: Option<(&'static str, PathBuf)>,
}

impl Floors {
    /// Adds the floor of a file; the greatest one counts.
    pub(super) fn state(&mut self, what: &'static str, path: &Path, floor: u64) {
        if floor > self.stated {
            *self = Self {
                stated: floor,
                by: Some((what, path.to_owned())),
            };
        }
    }

    /// Returns advice about a rollback; `None` for any other refusal. Advises to forget a
    /// remembered release only if that helps: not if this program or a file refuses the release as
    /// well.
    pub(super) fn advice(
        &self,
        refusal: &ManifestRefusal,
        memory: Option<&Path>,
    ) -> Option<Box<str>> {
        let ManifestRefusal::ReleaseFloor { release, .. } = refusal else {
            return None;
        };
        let origin = if *release < RELEASE_FLOOR {
            format!("this program accepts none below {RELEASE_FLOOR}, whatever the settings")
        } else if let Some((what, path)) = self.by.as_ref().filter(|_| *release < self.stated) {
            let stated = self.stated;
            let path = path.display();
            format!("release_floor = {stated} in the {what} {path} refuses this one")
        } else {
            // Only the memory is left, and without a path there is none.
            let path = memory?.display();
            format!(
                "{path} remembers a newer one of its signers; only if they announced that they withdrew it, cocoon's \
                 --reset-release-floor forgets it"
            )
        };
        Some(format!("ask the operator to run the current release: {origin}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::file::{POLICY_FILE, TRUST_FILE};
    use cocoon_protocol::bytes::Hex32;

    fn advice(floors: &Floors, release: u64) -> Option<Box<str>> {
        let refusal = ManifestRefusal::ReleaseFloor {
            id: Hex32::ZERO,
            release,
            floor: 9,
        };
        floors.advice(&refusal, Some(Path::new("/home/a/trust.releases.toml")))
    }

    #[test]
    fn each_floor_is_named_and_only_a_remembered_one_is_to_be_forgotten() {
        const ASK: &str = "ask the operator to run the current release: ";
        let remembered = "/home/a/trust.releases.toml remembers a newer one of its signers; only if they announced that \
             they withdrew it, cocoon's --reset-release-floor forgets it";
        let mut floors = Floors::default();
        let told = |floors: &Floors, release, text: &str| {
            assert_eq!(advice(floors, release), Some(format!("{ASK}{text}").into()));
        };
        told(&floors, 1, remembered);
        told(
            &floors,
            0,
            "this program accepts none below 1, whatever the settings",
        );
        floors.state(TRUST_FILE, Path::new("/t"), 5);
        told(
            &floors,
            4,
            "release_floor = 5 in the trust file /t refuses this one",
        );
        told(&floors, 5, remembered);
        floors.state(POLICY_FILE, Path::new("/p"), 5);
        told(
            &floors,
            4,
            "release_floor = 5 in the trust file /t refuses this one",
        );
        floors.state(POLICY_FILE, Path::new("/p"), 6);
        told(
            &floors,
            5,
            "release_floor = 6 in the policy file /p refuses this one",
        );
        let other = ManifestRefusal::Unsigned { id: Hex32::ZERO };
        assert_eq!(floors.advice(&other, None), None);
    }
}
