//! Renewal of the settings of a running program, from the files and URLs that they came from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cocoon_measurements::verdict::Class;

use super::Settings;
use crate::address::Address;
use crate::beliefs::Source;
use crate::error::chain;
use crate::judge::now;
use crate::verifier::Verifier;

/// Current settings, and a callback for notes about changes and failures.
pub(crate) struct Renewal {
    state: Mutex<State>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

struct State {
    settings: Arc<Settings>,
    /// The manifest is no longer trusted, and there is no other one.
    withdrawn: bool,
    /// The last failure that was reported; it is not reported again.
    told: Option<String>,
}

impl Renewal {
    pub(crate) fn new(
        settings: Arc<Settings>,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            settings,
            withdrawn: false,
            told: None,
        };
        Self {
            state: Mutex::new(state),
            tell: Box::new(tell),
        }
    }

    fn complain(&self, text: String) {
        let mut state = self.state();
        if state.told.as_ref() != Some(&text) {
            (self.tell)(&text);
            state.told = Some(text);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Renewal {
    /// If the settings cannot be read, the current ones stay. If they refuse a manifest, the one in
    /// use is no longer trusted either if it is the same one, or if its release is below the same
    /// floor.
    fn read(&self, held: &Verifier) -> Option<Verifier> {
        let before = Arc::clone(&self.state().settings);
        let error = match before.again(now()) {
            Ok(settings) => {
                let settings = Arc::new(settings);
                let verifier = settings.verifier().remembering(held);
                let mut state = self.state();
                state.settings = Arc::clone(&settings);
                state.told = None;
                let withdrawn = std::mem::take(&mut state.withdrawn);
                if !withdrawn && settings.demands_the_same(&before) {
                    return None;
                }
                let release = settings.manifest().release;
                (self.tell)(&format!(
                    "note: the settings changed, and count from now on: release {release}"
                ));
                if let Some(error) = settings.unkept() {
                    (self.tell)(&format!("note: {}", chain(error)));
                }
                return Some(verifier);
            }
            Err(error) => error,
        };
        let Some(verdict) = error.refusal_of(before.manifest()) else {
            self.complain(format!(
                "note: the settings cannot be read again, and stay as they were: {}",
                chain(&error)
            ));
            return None;
        };
        self.complain(format!(
            "note: no appliance is used until there is a manifest that counts: {}",
            chain(&error)
        ));
        let known = std::mem::replace(&mut self.state().withdrawn, true);
        (!known).then(|| held.refusing(verdict))
    }

    fn accepted(&self, appliance: &Address, class: Class) {
        let settings = Arc::clone(&self.state().settings);
        if let Err(error) = settings.remember_as(&appliance.authority(), class) {
            (self.tell)(&format!("note: {}", chain(&error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cocoon_measurements::manifest::{public_key, sign};
    use cocoon_protocol::bytes::{Hex, Hex32, Hex48};
    use cocoon_protocol::manifest::{Manifest, Model, SnpReference, TdxReference};

    use super::*;
    use crate::trust::{TrustFile, TrustOptions};

    const SECRET: [u8; 32] = [5; 32];

    /// Writes a signed manifest that is valid now.
    fn put(folder: &Path, release: u64) {
        let manifest = Manifest {
            version: 1,
            release,
            variant: "cpu".into(),
            source_revision: "0".repeat(40),
            not_before: now() - 60,
            not_after: now() + 3600,
            inputs_lock: Hex32::ZERO,
            unlocked: vec![],
            aml_guard: false,
            gpu: None,
            artefacts: [].into(),
            cmdline: String::new(),
            model: Model {
                id: "m".into(),
                verity_root: Hex32::ZERO,
                verity_salt: Hex32::ZERO,
                verity_data_blocks: 1,
                files: [].into(),
            },
            tdx: TdxReference {
                mrtd: Hex48::ZERO,
                rtmr1: Hex48::ZERO,
                rtmr2: Hex48::ZERO,
                platforms: vec![],
            },
            snp: SnpReference {
                guest_features: 1,
                launch: vec![],
            },
        };
        let bytes = manifest.to_json();
        let envelope = sign(&bytes, &SECRET).unwrap();
        std::fs::write(folder.join("manifest.json"), bytes).unwrap();
        std::fs::write(folder.join("manifest.json.dsse"), envelope).unwrap();
    }

    #[test]
    fn what_changes_counts_and_what_fails_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let trust_file = at("trust.toml");
        let options = TrustOptions {
            manifest: at("manifest.json"),
            signers: vec![Hex(public_key(&SECRET)).to_string()],
            trust_file: Some(trust_file.clone()),
            reset_release_floor: true,
            ..TrustOptions::default()
        };
        put(folder.path(), 2);
        let settings = Arc::new(Settings::load(&options, now()).unwrap());
        let first = settings.verifier();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let renewal = Renewal::new(settings, move |text| {
            heard.lock().unwrap().push(text.to_owned());
        });
        let told = || std::mem::take(&mut *told.lock().unwrap());
        let stays = |held: &Verifier| assert!(renewal.read(held).is_none());
        let counts = |release| {
            format!("note: the settings changed, and count from now on: release {release}")
        };
        stays(&first);
        put(folder.path(), 3);
        let second = renewal.read(&first).unwrap();
        assert_eq!(told(), [counts(3)]);

        // If the manifest cannot be read, or is an older release, the settings stay. The reset is
        // not repeated.
        std::fs::remove_file(at("manifest.json")).unwrap();
        stays(&second);
        stays(&second);
        let said = told();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("note: the settings cannot be read again, and stay as they were: "),
            "{said:?}"
        );
        put(folder.path(), 2);
        stays(&second);
        let said = told();
        assert!(said[0].contains("of release 2, older than"), "{said:?}");

        // With a raised floor, no manifest is trusted.
        std::fs::write(&trust_file, "release_floor = 4\n").unwrap();
        let third = renewal.read(&second).unwrap();
        stays(&third);
        let said = told();
        assert_eq!(said.len(), 1, "{said:?}");
        let none = "note: no appliance is used until there is a manifest that counts: ";
        assert!(said[0].starts_with(none), "{said:?}");
        put(folder.path(), 4);
        let fourth = renewal.read(&third).unwrap();
        assert_eq!(told(), [counts(4)]);
        stays(&fourth);

        // Signatures that were seen still count if the file is removed or damaged.
        let signatures = at("manifest.json.dsse");
        std::fs::remove_file(&signatures).unwrap();
        stays(&fourth);
        std::fs::write(&signatures, "{").unwrap();
        stays(&fourth);
        assert_eq!(told(), [""; 0]);

        // A removed trust file does not count as an empty one.
        std::fs::remove_file(&trust_file).unwrap();
        stays(&fourth);
        let said = told();
        assert!(
            said[0].contains("stay as they were: cannot read trust file"),
            "{said:?}"
        );

        // With more signers required, the manifest in use is no longer trusted.
        std::fs::write(&trust_file, "threshold = 2\n").unwrap();
        assert!(renewal.read(&fourth).is_some());
        assert!(told()[0].starts_with(none));
    }

    /// Neither a pinned manifest nor one with other inputs than the locked ones is written to the
    /// memory that was reset.
    #[test]
    fn a_floor_that_was_reset_stays_so_while_the_program_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = TrustOptions {
            manifest: folder.path().join("manifest.json"),
            signers: vec![Hex(public_key(&SECRET)).to_string()],
            trust_file: Some(folder.path().join("trust.toml")),
            ..TrustOptions::default()
        };
        put(folder.path(), 5);
        Settings::load(&options, now()).unwrap();
        put(folder.path(), 3);
        assert!(Settings::load(&options, now()).is_err());
        let bytes = std::fs::read(&options.manifest).unwrap();
        options.reset_release_floor = true;
        options.pinned = vec![Hex32::sha256(&bytes)];
        let settings = Settings::load(&options, now()).unwrap();
        let again = settings.again(now()).unwrap();
        assert_eq!(again.again(now()).unwrap().manifest().release, 3);
        put(folder.path(), 6);
        let again = again.again(now()).unwrap();
        put(folder.path(), 5);
        assert!(again.again(now()).is_err(), "newer ones count as ever");
    }

    #[test]
    fn appliances_are_remembered_in_the_file_and_failures_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let trust_file = folder.path().join("kept/trust.toml");
        put(folder.path(), 2);
        let options = TrustOptions {
            manifest: folder.path().join("manifest.json"),
            signers: vec![Hex(public_key(&SECRET)).to_string()],
            trust_file: Some(trust_file.clone()),
            ..TrustOptions::default()
        };
        let settings = Arc::new(Settings::load(&options, now()).unwrap());
        let told = Arc::new(Mutex::new(0));
        let heard = Arc::clone(&told);
        let renewal = Renewal::new(settings, move |_| *heard.lock().unwrap() += 1);
        let appliance = |name: &str| format!("https://{name}.example:1").parse().unwrap();
        renewal.accepted(&appliance("a"), Class::Simulated);
        assert!(!trust_file.exists());
        renewal.accepted(&appliance("a"), Class::Confidential);
        renewal.accepted(&appliance("b"), Class::Confidential);
        let known = TrustFile::load(&trust_file).unwrap().known_hosts;
        assert!(known.keys().eq(["a.example:1", "b.example:1"]), "{known:?}");
        assert_eq!(*told.lock().unwrap(), 0);
        std::fs::write(&trust_file, "nonsense").unwrap();
        for _ in 0..2 {
            renewal.accepted(&appliance("c"), Class::Confidential);
        }
        assert_eq!(*told.lock().unwrap(), 1);
    }
}
