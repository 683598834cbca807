//! An Intel platform whose certificates, quoting enclave, quotes and collateral a test can change, all signed again
//! with the simulator's keys, and the verdict on a good trust domain of it.

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::document::{Collateral, Document, Evidence};
use cocoon_simulator::launch::Launched;
use cocoon_simulator::tdx::{
    CollateralDates, IntelIdentity, Later, QuoteVersion, QuotingEnclave, TcbStatus, TdReport,
    TdxSimulator,
};
use cocoon_simulator::x509::{self, Identity, KeyKind, PrivateKey, Role};
use p256::ecdsa::signature::Signer as _;
use serde_json::Value;

use crate::machine::{Machine, NOW, ROOTS, judge, policy};

/// A quote's layout: its version, and the additional fields of TDX 1.5, if any.
pub type Layout = (QuoteVersion, Option<Later>);

pub struct Platform {
    pub identity: IntelIdentity,
    pub enclave: QuotingEnclave,
    pub layout: Layout,
    /// Changes the report of the TDX module before it is quoted.
    pub report: fn(&mut TdReport),
}

impl Platform {
    /// Returns the simulator's own platform, with quotes of version 4.
    pub fn good() -> Self {
        let own = &ROOTS.intel;
        Self {
            identity: IntelIdentity {
                root: copy(&own.root),
                pck_ca: copy(&own.pck_ca),
                pck: copy(&own.pck),
                tcb_signing: copy(&own.tcb_signing),
            },
            enclave: QuotingEnclave::good(),
            layout: (QuoteVersion::V4, None),
            report: |_| (),
        }
    }

    /// Returns the session document of a good trust domain of this platform, with collateral changed by `edit`.
    pub fn document(&self, edit: impl FnOnce(&mut Value)) -> Document {
        let platform = TdxSimulator::with_enclave(&self.identity, self.enclave.clone());
        let vm = Machine::good(Tee::Tdx);
        let Launched::Tdx { report, .. } = &vm.vm else {
            panic!("a trust domain was launched")
        };
        let mut report = TdReport::clone(report);
        report.report_data = binding::report_data(&binding::session(&vm.claims, &vm.fresh)).0;
        (self.report)(&mut report);
        let mut document = vm.document();
        let Evidence::Tdx { quote, .. } = &mut document.evidence else {
            panic!("TDX evidence was made")
        };
        *quote = quoted(&platform, &report, &self.layout).into();
        let json = platform.collateral(CollateralDates::around(NOW), TcbStatus::UpToDate);
        let mut json = serde_json::from_slice(&json.unwrap()).unwrap();
        edit(&mut json);
        document.collateral = Some(Collateral::Tdx {
            json: json.to_string().into_bytes().into(),
        });
        document
    }

    /// Returns the default policy with this platform's root as the only development root.
    pub fn named(&self) -> Policy {
        Policy {
            development_roots: vec![self.identity.root.certificate.clone()],
            ..policy()
        }
    }

    pub fn verdict_on(&self, edit: impl FnOnce(&mut Value)) -> Verdict {
        judge(&self.document(edit), &self.named())
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict_on(|_| ())
    }
}

pub fn quoted(platform: &TdxSimulator<'_>, report: &TdReport, layout: &Layout) -> Vec<u8> {
    let (version, later) = layout;
    let body = match later {
        None => report.to_bytes(),
        Some(later) => report.to_bytes_15(later),
    };
    platform.signed(*version, &body).unwrap()
}

/// Changes a member of the collateral with `edit`, and signs it again with `signer`.
pub fn restate(
    collateral: &mut Value,
    member: &str,
    signer: &PrivateKey,
    edit: impl FnOnce(&mut Value),
) {
    let mut statement = serde_json::from_str(collateral[member].as_str().unwrap()).unwrap();
    edit(&mut statement);
    let text = statement.to_string();
    let PrivateKey::P256(key) = signer else {
        panic!("Intel signs on P-256")
    };
    let signature: p256::ecdsa::Signature = key.sign(text.as_bytes());
    collateral[format!("{member}_signature")] = hex::encode(signature.to_bytes()).into();
    collateral[member] = text.into();
}

/// Issues a signer for QE identities that is not the signer of TCB information.
pub fn qe_signer(identity: &IntelIdentity) -> Identity {
    let key = PrivateKey::generate(KeyKind::P256).unwrap();
    let name = "CN=QE identity signing,O=Cocoon Simulator";
    let certificate = x509::issue(&key, name, Role::Leaf, Some(&identity.root), vec![]).unwrap();
    Identity { key, certificate }
}

/// Signs the QE identity with `signer`, and attaches the signer's own chain.
pub fn sign_qe_identity(collateral: &mut Value, signer: &Identity, identity: &IntelIdentity) {
    restate(collateral, "qe_identity", &signer.key, |_| ());
    let chain = x509::pem(&[&signer.certificate, &identity.root.certificate]);
    collateral["qe_identity_issuer_chain"] = chain.unwrap().into();
}

/// Returns the text of a refusal that is due to Intel's chains, signatures or TCB.
pub fn unverified(reason: &str) -> String {
    format!("TDX quote does not verify with its collateral under the development root: {reason}")
}

fn copy(identity: &Identity) -> Identity {
    Identity {
        key: PrivateKey::from_pem(KeyKind::P256, &identity.key.to_pem().unwrap()).unwrap(),
        certificate: identity.certificate.clone(),
    }
}
