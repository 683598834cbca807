//! Reference manifests by driver or VBIOS version, each verified once for all GPUs.
//!
//! A manifest names a version and no board. There may be several for one version, because boards differ or because NVIDIA
//! published it again. A report is compared with all that count. One that does not count is ignored beside one that does.

use std::collections::BTreeMap;

use super::{
    certificate::check_path,
    known::Known,
    revocation::Revocations,
    rim::{Reference, Rim, RimError},
    root::{self, Authority},
};
use crate::{
    policy::Policy,
    roots::RootClass,
    verdict::{Check, chain},
};

/// The component that a manifest describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Driver,
    Vbios,
}

impl Part {
    const fn id(self) -> &'static str {
        match self {
            Self::Driver => "gpu.rim.driver",
            Self::Vbios => "gpu.rim.vbios",
        }
    }

    /// Name of the component in the rows.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Vbios => "VBIOS",
        }
    }
}

/// Verifies one manifest without a report, under NVIDIA's root or a development root that `policy` names. Does not check
/// the revocation of its certificates.
///
/// # Errors
/// [`RimError`] if the manifest, its signature, its certificates or its root is refused.
pub fn verify_manifest(bytes: &[u8], policy: &Policy, now: u64) -> Result<Reference, RimError> {
    let rim = Rim::parse(bytes)?;
    if let Some(root) = rim.chain().last() {
        root::judge(Authority::Manifests, root, policy, now).map_err(|row| RimError::Root {
            reason: row.cause.unwrap_or_default(),
        })?;
    }
    let known = Known::default();
    check_path(rim.chain(), now, &known)?;
    rim.verify(&known)
}

/// A manifest that counts, with the class of its root.
pub(super) type Verified = (Reference, RootClass);

/// The presented manifests.
#[derive(Debug)]
pub(super) struct Manifests<'a> {
    files: Vec<Rim>,
    /// The manifests that count, by component and version.
    judged: BTreeMap<(Part, String), Vec<Verified>>,
    policy: &'a Policy,
    now: u64,
    known: &'a Known,
}

impl<'a> Manifests<'a> {
    /// Parses the files, and returns a failed row for each that is not a manifest.
    pub(super) fn new(
        files: &[&[u8]],
        policy: &'a Policy,
        now: u64,
        known: &'a Known,
    ) -> (Self, Vec<Check>) {
        let mut read = Vec::new();
        let mut checks = Vec::new();
        for (place, bytes) in files.iter().enumerate() {
            match Rim::parse(bytes) {
                Ok(rim) => read.push(rim),
                Err(error) => {
                    let title = format!("reference manifest {place}");
                    checks.push(Check::fail("gpu.rim", title, chain(&error), FETCH));
                }
            }
        }
        let manifests = Self {
            files: read,
            judged: BTreeMap::new(),
            policy,
            now,
            known,
        };
        (manifests, checks)
    }

    /// Returns the manifests of this version of `part` that count. Rows are returned by the first call for a version only.
    /// `name` is the identifier under which NVIDIA publishes the manifest.
    pub(super) fn of(
        &mut self,
        part: Part,
        (version, name): (&str, &str),
        revocations: &mut Revocations<'_>,
    ) -> (&[Verified], Vec<Check>) {
        let key = (part, version.to_owned());
        let mut checks = Vec::new();
        if !self.judged.contains_key(&key) {
            let found = self.judge(part, (version, name), revocations, &mut checks);
            self.judged.insert(key.clone(), found);
        }
        let found = self.judged.get(&key).map_or(&[][..], Vec::as_slice);
        (found, checks)
    }

    fn judge(
        &mut self,
        part: Part,
        (version, name): (&str, &str),
        revocations: &mut Revocations<'_>,
        checks: &mut Vec<Check>,
    ) -> Vec<Verified> {
        let fits = |rim: &&Rim| rim.claimed_version().eq_ignore_ascii_case(version);
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for rim in self.files.iter().filter(fits) {
            match self.candidate(part, version, rim, revocations) {
                Ok((verified, rows)) => {
                    good.push(verified);
                    checks.extend(rows);
                }
                Err(refusal) => refused.push(*refusal),
            }
        }
        if good.is_empty() && refused.is_empty() {
            refused.push(self.absent(part, version, name));
        }
        for row in refused {
            if good.is_empty() {
                checks.push(row);
            } else {
                let cause = row.cause.unwrap_or_default();
                let cause = format!("{BESIDE}: {cause}");
                checks.push(Check::note(row.id, row.title, cause));
            }
        }
        good
    }

    /// Judges one manifest of the right version, and returns it with its rows, or the row that refuses it.
    fn candidate(
        &self,
        part: Part,
        version: &str,
        rim: &Rim,
        revocations: &mut Revocations<'_>,
    ) -> Result<(Verified, Vec<Check>), Box<Check>> {
        let failed = |cause: String| Box::new(Check::fail(part.id(), title(part), cause, FETCH));
        let path = rim.chain();
        let anchor = path.last();
        let anchor = anchor.ok_or_else(|| failed(ABSENT.to_owned()))?;
        let (class, root) = root::judge(Authority::Manifests, anchor, self.policy, self.now)?;
        check_path(path, self.now, self.known).map_err(|error| failed(chain(&error)))?;
        let reference = rim.verify(self.known);
        let reference = reference.map_err(|error| failed(chain(&error)))?;
        let chip = super::device::HOPPER;
        if !reference.product.eq_ignore_ascii_case(chip) {
            let row = failed(OTHER_CHIP.to_owned());
            return Err(Box::new(row.expected(chip).found(reference.product)));
        }
        let active = reference.measurements.len();
        let found = format!("{}, {active} measurements", reference.version);
        let row = Check::pass(part.id(), title(part), found).expected(version);
        let mut rows = vec![root, row];
        rows.extend(revocations.of(path, 0));
        Ok(((reference, class), rows))
    }

    fn absent(&self, part: Part, version: &str, name: &str) -> Check {
        let found: Vec<&str> = self.files.iter().map(Rim::claimed_version).collect();
        let found = match &found[..] {
            [] => "no manifest".to_owned(),
            some => format!("manifests of {}", some.join(", ")),
        };
        Check::fail(part.id(), title(part), ABSENT, FETCH)
            .expected(format!("{version} ({name})"))
            .found(found)
    }
}

fn title(part: Part) -> String {
    format!("reference manifest of the {}", part.name())
}

const ABSENT: &str =
    "no reference manifest of this version was presented, so nothing tells what it should measure";
const OTHER_CHIP: &str = "the manifest is for another chip";
const BESIDE: &str = "not used, because another manifest of this version counts";
const FETCH: &str = "the operator fetches NVIDIA's manifests for this driver and VBIOS, under the names that are shown; for a version without a manifest there is nothing to compare with, and it cannot be used";
