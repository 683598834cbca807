//! SEV-SNP machines of every generation, with the chip's key and a provider's, and the session document of a guest on them.

use std::sync::LazyLock;

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_simulator::launch::Launched;
use cocoon_simulator::snp::report::REPORT_LEN;
use cocoon_simulator::snp::{
    AmdIdentity, Generation, Provider, SigningKey, SnpReport, SnpSimulator,
};

use crate::collateral::DAY;
use crate::machine::{Machine, NOW, ROOTS, judge, policy};

/// A chip of one generation, and a provider's key on it.
pub struct Chip {
    pub identity: AmdIdentity,
    pub provider: Provider,
}

static CHIPS: LazyLock<[Chip; 3]> = LazyLock::new(|| {
    Generation::ALL.map(|generation| {
        let identity = ROOTS.amd.of(generation).unwrap();
        let provider = identity.provider().unwrap();
        Chip { identity, provider }
    })
});

impl Chip {
    pub fn of(generation: Generation) -> &'static Self {
        let mut all = CHIPS.iter();
        let found = all.find(|chip| chip.identity.generation == generation);
        found.unwrap()
    }

    pub fn platform(&self, key: SigningKey) -> SnpSimulator<'_> {
        match key {
            SigningKey::Vcek => SnpSimulator::new(&self.identity),
            SigningKey::Vlek => SnpSimulator::of_provider(&self.identity, &self.provider),
        }
    }

    fn policy(&self) -> Policy {
        let mut policy = policy();
        let root = self.identity.ark.certificate.clone();
        policy.development_roots.push(root);
        policy
    }
}

/// A session document that is not signed yet.
pub struct Shown {
    pub chip: &'static Chip,
    pub key: SigningKey,
    pub report: SnpReport,
    /// Certificates used in place of the good ones: VEK, intermediate, root.
    pub certificates: Option<Vec<Vec<u8>>>,
    pub crl: Option<Vec<u8>>,
    /// Changes the report's bytes before they are signed.
    pub bytes: fn(&mut [u8; REPORT_LEN]),
    pub policy: Policy,
}

impl Shown {
    pub fn good(generation: Generation, version: u32, key: SigningKey) -> Self {
        let chip = Chip::of(generation);
        let vm = Machine::good(Tee::SevSnp);
        let Launched::Snp { report, .. } = &vm.vm else {
            panic!("an SNP guest was launched")
        };
        let (measurement, host_data) = (report.measurement, report.host_data);
        let report = SnpReport {
            signing_key: key,
            report_data: binding::report_data(&binding::session(&vm.claims, &vm.fresh)).0,
            ..SnpReport::of(generation, version, measurement, host_data)
        };
        Self {
            chip,
            key,
            report,
            certificates: None,
            crl: None,
            bytes: |_| (),
            policy: chip.policy(),
        }
    }

    pub fn signed(&self) -> Vec<u8> {
        let mut bytes = self.report.to_bytes();
        (self.bytes)(&mut bytes);
        self.chip.platform(self.key).signed(bytes).unwrap()
    }

    pub fn verdict(&self) -> Verdict {
        let platform = self.chip.platform(self.key);
        let mut document = Machine::good(Tee::SevSnp).document();
        let Evidence::SevSnp {
            report,
            certificates,
        } = &mut document.evidence
        else {
            panic!("SNP evidence was made")
        };
        *report = self.signed().into();
        certificates.clear();
        let chain = self.certificates.clone();
        let chain = chain.unwrap_or_else(|| platform.certificates());
        let crl = self.crl.clone();
        let crl = crl.unwrap_or_else(|| platform.crl(NOW - DAY, NOW + DAY).unwrap());
        document.collateral = Some(Collateral::SevSnp {
            certificates: chain.into_iter().map(Into::into).collect(),
            crl: Some(crl.into()),
        });
        judge(&document, &self.policy)
    }
}
