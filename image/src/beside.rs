//! Compares the files beside a manifest with the artefacts that it describes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::manifest::Artefact;

use crate::files::{self, FileError};

/// Artefacts whose files are not as the manifest describes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Names of artefacts in whose place there is something else than the manifest describes.
    pub altered: Vec<String>,
    /// Names of artefacts of which there is no file.
    pub absent: Vec<String>,
}

/// Reads all `artefacts` that are in `folder` and compares them with their digests.
///
/// # Errors
/// [`FileError`] when a file exists but cannot be read.
pub fn look(
    folder: &Path,
    artefacts: &BTreeMap<String, Artefact>,
    reporter: &dyn Reporter,
) -> Result<Beside, FileError> {
    let sizes = artefacts.values().map(|artefact| artefact.size);
    let total = sizes.fold(0, u64::saturating_add);
    let task = reporter.start("comparing the image with its manifest", Some(total));
    let (mut beside, mut done) = (Beside::default(), 0_u64);
    for (name, expected) in artefacts {
        let told = |bytes| task.position(done.saturating_add(bytes));
        match read(folder, name, expected, &told)? {
            Found::Same => {}
            Found::Other => beside.altered.push(name.clone()),
            Found::Nothing => beside.absent.push(name.clone()),
        }
        done = done.saturating_add(expected.size);
    }
    task.finish(match (&*beside.altered, &*beside.absent) {
        ([], []) => "the same",
        ([], _) => "the same, as far as they are there",
        _ => "not the same",
    });
    Ok(beside)
}

enum Found {
    Same,
    Nothing,
    /// Another file, or something that is not a file.
    Other,
}

fn read(
    folder: &Path,
    name: &str,
    expected: &Artefact,
    told: &dyn Fn(u64),
) -> Result<Found, FileError> {
    let path = folder.join(name);
    // The manifest may come from anyone, so none of its names may lead out of the image.
    if path.file_name().is_none_or(|file| *file != *name) {
        return Ok(Found::Other);
    }
    match fs::metadata(&path) {
        // A file of another length differs anyway. It is not read, because it may have any length.
        Ok(metadata) if metadata.is_file() && metadata.len() == expected.size => {
            let found = files::artefact_told(&path, expected.size, told)?;
            Ok(if found == *expected {
                Found::Same
            } else {
                Found::Other
            })
        }
        Ok(_) => Ok(Found::Other),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(FileError::read(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use cocoon_inputs::report::{Silent, Task};

    use super::*;

    /// Records the furthest position that was reported.
    #[derive(Clone, Default)]
    struct Far(Arc<AtomicU64>);

    impl Reporter for Far {
        fn start(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
            Box::new(self.clone())
        }

        fn note(&self, _line: &str) {}
    }

    impl Task for Far {
        fn position(&self, bytes: u64) {
            self.0.fetch_max(bytes, Ordering::Relaxed);
        }

        fn say(&self, _line: &str) {}

        fn finish(&self, _outcome: &str) {}
    }

    #[test]
    fn a_file_of_another_length_is_another_unread() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("sparse")).unwrap();
        file.set_len(1 << 24).unwrap();
        let artefacts = [("sparse".to_owned(), files::artefact(b"as it was"))].into();
        let far = Far::default();
        let beside = look(folder.path(), &artefacts, &far).unwrap();
        assert_eq!(beside.altered, ["sparse"]);
        assert_eq!(far.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn each_artefact_is_the_one_another_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::create_dir_all(image.join("a-folder")).unwrap();
        for name in ["same", "altered", "../outside"] {
            fs::write(image.join(name), "as it was").unwrap();
        }
        let artefact = files::artefact(b"as it was");
        let names = ["same", "altered", "absent", "a-folder", "../outside"];
        let artefacts = names.map(|name| (name.to_owned(), artefact.clone())).into();
        fs::write(image.join("altered"), "as it is!").unwrap();
        assert_eq!(
            look(&image, &artefacts, &Silent).unwrap(),
            Beside {
                altered: ["../outside", "a-folder", "altered"]
                    .map(str::to_owned)
                    .into(),
                absent: vec!["absent".to_owned()],
            }
        );
    }
}
