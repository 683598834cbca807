//! The right reference manifest for a version, verified once however many GPUs ask for it.

use std::collections::BTreeMap;

use super::{
    certificate::{CertificateError, Links},
    revocation::Revocations,
    rim::{Reference, Rim, RimError},
    root::{self, Authority},
};
use crate::{
    policy::Policy,
    roots::{RootClass, ValidityError},
    verdict::{Check, chain},
};

/// Of what a manifest is.
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

    /// As rows call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Vbios => "VBIOS",
        }
    }
}

/// Verifies one manifest on its own, without a report that asks for it: under NVIDIA's root, or a development root that
/// `policy` names. Whether its certificates are revoked is not looked at.
///
/// # Errors
/// [`RimError`] says what is refused.
pub fn verify_manifest(bytes: &[u8], policy: &Policy, now: u64) -> Result<Reference, RimError> {
    let rim = Rim::parse(bytes)?;
    if let Some(root) = rim.chain().last() {
        root::judge(Authority::Manifests, root, policy, now).map_err(|row| RimError::Root {
            reason: row.cause.unwrap_or_default(),
        })?;
    }
    Links::default().check_path(rim.chain(), now)?;
    rim.verify()
}

/// A manifest that counts, and under whose root.
pub(super) type Verified = (Reference, RootClass);

/// What all GPUs and manifests of one appraisal have in common.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub revocations: Revocations<'a>,
    pub links: Links,
}

/// The manifests at hand.
#[derive(Debug)]
pub(super) struct Manifests<'a> {
    files: Vec<Rim>,
    /// What a version's manifest came to; nothing when it does not count.
    judged: BTreeMap<(Part, String), Option<Verified>>,
    policy: &'a Policy,
    now: u64,
    lapses: usize,
}

impl<'a> Manifests<'a> {
    /// Reads the files; a row for each that is no manifest.
    pub(super) fn new(files: &[&[u8]], policy: &'a Policy, now: u64) -> (Self, Vec<Check>) {
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
            lapses: 0,
        };
        (manifests, checks)
    }

    /// How many rows failed only because a manifest is absent, or its certificates have ended.
    pub(super) fn lapses(&self) -> usize {
        self.lapses
    }

    /// The manifest of this version of `part`, if it counts, which NVIDIA keeps under `name`. Rows come with the first
    /// question.
    pub(super) fn of(
        &mut self,
        part: Part,
        (version, name): (&str, &str),
        shared: &mut Shared<'_>,
    ) -> (Option<&Verified>, Vec<Check>) {
        let key = (part, version.to_owned());
        let mut checks = Vec::new();
        if !self.judged.contains_key(&key) {
            let found = self.judge(part, (version, name), shared, &mut checks);
            self.judged.insert(key.clone(), found);
        }
        (self.judged.get(&key).and_then(Option::as_ref), checks)
    }

    fn judge(
        &mut self,
        part: Part,
        (version, name): (&str, &str),
        shared: &mut Shared<'_>,
        checks: &mut Vec<Check>,
    ) -> Option<Verified> {
        let title = format!("reference manifest of the {}", part.name());
        let fits = |rim: &&Rim| rim.claimed_version().eq_ignore_ascii_case(version);
        let Some(rim) = self.files.iter().find(fits) else {
            let found: Vec<&str> = self.files.iter().map(Rim::claimed_version).collect();
            let found = match &found[..] {
                [] => "no manifest".to_owned(),
                some => format!("manifests of {}", some.join(", ")),
            };
            let expected = format!("{version} ({name})");
            let row = Check::fail(part.id(), title, ABSENT, FETCH).expected(expected);
            checks.push(row.found(found));
            self.lapses += 1;
            return None;
        };
        let path = rim.chain();
        let root = match root::judge(Authority::Manifests, path.last()?, self.policy, self.now) {
            Ok((class, row)) => {
                checks.push(row);
                class
            }
            Err(row) => {
                checks.push(*row);
                return None;
            }
        };
        let verified = shared.links.check_path(path, self.now);
        if let Err(CertificateError::Validity(ValidityError::Expired { .. })) = &verified {
            self.lapses += 1;
        }
        let verified = verified.map_err(|error| chain(&error));
        match verified.and_then(|()| rim.verify().map_err(|error| chain(&error))) {
            Ok(reference)
                if !reference
                    .product
                    .eq_ignore_ascii_case(super::device::HOPPER) =>
            {
                let row = Check::fail(part.id(), title, OTHER_CHIP, FETCH);
                checks.push(row.expected(super::device::HOPPER).found(reference.product));
                None
            }
            Ok(reference) => {
                let active = reference.measurements.len();
                let found = format!("{}, {active} measurements", reference.version);
                checks.push(Check::pass(part.id(), title, found).expected(version));
                checks.extend(shared.revocations.of(path, 0));
                Some((reference, root))
            }
            Err(cause) => {
                checks.push(Check::fail(part.id(), title, cause, FETCH));
                None
            }
        }
    }
}

const ABSENT: &str =
    "no reference manifest of this version was presented, so nothing tells what it should measure";
const OTHER_CHIP: &str = "the manifest is for another chip";
const FETCH: &str = "the operator fetches NVIDIA's manifests for this driver and VBIOS, under the names that are shown; for a version without a manifest there is nothing to compare with, and it cannot be used";
