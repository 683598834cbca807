//! TLS 1.3 as an appliance speaks it, and what is checked inside the handshake.
//!
//! The certificate chains to nobody: the boot document in it is judged early, so that a wrong
//! appliance is refused before anything is sent, and CertificateVerify proves that the other side
//! holds the key. Neither authorises a prompt: see [`connect`](crate::Verifier::connect).

use std::sync::{Arc, Mutex, PoisonError};

use cocoon_measurements::appraise::Presented;
use cocoon_protocol::document::Kind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{DigitallySignedStruct, NamedGroup, PeerIncompatible, SignatureScheme};

use crate::address::Address;
use crate::certificate::Leaf;
use crate::error::{ConnectError, Stage};
use crate::verifier::Verifier;

/// What the handshake found, for the code behind it.
#[derive(Default)]
pub(crate) struct Found {
    /// The leaf, once it was accepted.
    pub(crate) leaf: Option<Leaf>,
    /// Why it was refused: TLS errors cannot carry it as it is.
    pub(crate) refusal: Option<ConnectError>,
}

/// Judges the certificate of one handshake.
pub(crate) struct Handshake {
    address: Address,
    verifier: Verifier,
    algorithms: WebPkiSupportedAlgorithms,
    found: Mutex<Found>,
}

/// rustls on graviola, cut down to the key exchanges that the appliance has: the hybrid
/// post-quantum one first.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = rustls_graviola::default_provider();
    let wanted = [NamedGroup::X25519MLKEM768, NamedGroup::X25519];
    provider
        .kx_groups
        .retain(|group| wanted.contains(&group.name()));
    provider
        .kx_groups
        .sort_by_key(|group| wanted.iter().position(|name| *name == group.name()));
    provider
}

/// A configuration for one connection: nothing is remembered from one to the next.
pub(crate) fn config(
    handshake: Arc<Handshake>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(handshake)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl Handshake {
    pub(crate) fn new(address: Address, verifier: Verifier, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self {
            address,
            verifier,
            algorithms,
            found: Mutex::default(),
        }
    }

    /// What was found, once.
    pub(crate) fn take(&self) -> Found {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self, der: &[u8]) -> Result<Leaf, ConnectError> {
        let leaf = Leaf::parse(der).map_err(|source| ConnectError::Certificate {
            address: self.address.clone(),
            source,
        })?;
        check_kind_and_key(&self.address, &leaf, &leaf.document, Kind::Boot)?;
        let presented = Presented {
            document: &leaf.document,
            leaf_spki_sha256: leaf.spki_sha256,
            fresh: None,
            handshake_gpus: None,
        };
        // Good enough to go on, and nothing more: the verdict that counts is the session's.
        let _early = self.verifier.accept(
            &self.address,
            Stage::Handshake,
            self.verifier.judge_boot(der, &presented),
        )?;
        Ok(leaf)
    }

    fn refuse(&self, refusal: ConnectError) -> rustls::Error {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.refusal.get_or_insert(refusal);
        rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
    }
}

/// What must hold of a document before anybody judges it, in both places where one is shown.
pub(crate) fn check_kind_and_key(
    address: &Address,
    leaf: &Leaf,
    document: &cocoon_protocol::document::Document,
    expected: Kind,
) -> Result<(), ConnectError> {
    let address = || address.clone();
    if document.kind != expected {
        return Err(ConnectError::WrongKind {
            address: address(),
            expected,
            found: document.kind,
        });
    }
    let named = document.claims.leaf_spki_sha256;
    if named != leaf.spki_sha256 {
        return Err(ConnectError::OtherKey {
            address: address(),
            document: named,
            certificate: leaf.spki_sha256,
        });
    }
    Ok(())
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Handshake {
    // The name, the dates and further certificates are ignored on purpose: the first two are constants in
    // every appliance, and nobody has signed the key but the CPU.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = self
            .check(end_entity)
            .map_err(|refusal| self.refuse(refusal))?;
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leaf = Some(leaf);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    // By the bare key: the ready-made check parses the certificate once more and refuses our critical extension.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leaf
            .as_ref()
            .map(|leaf| leaf.spki.clone());
        let spki = spki.ok_or(rustls::Error::HandshakeNotComplete)?;
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(spki),
            dss,
            &self.algorithms,
        )
        .map_err(|_| {
            self.refuse(ConnectError::KeyNotHeld {
                address: self.address.clone(),
            })
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
