//! TLS 1.3 with an appliance, and the checks inside the handshake.
//!
//! The certificate chains to no authority. The boot document in it is appraised early, so that an
//! untrusted appliance is refused before anything is sent. CertificateVerify proves that the other
//! side holds the key. Neither authorises a prompt: see [`connect`](crate::Verifier::connect).

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

/// Result of the checks in the handshake.
#[derive(Default)]
pub(crate) struct Found {
    /// The leaf certificate, if it was accepted.
    pub(crate) leaf: Option<Leaf>,
    /// Reason of a refusal, which TLS errors cannot carry.
    pub(crate) refusal: Option<ConnectError>,
}

/// Checks the certificate of one handshake.
pub(crate) struct Handshake {
    address: Address,
    verifier: Verifier,
    algorithms: WebPkiSupportedAlgorithms,
    found: Mutex<Found>,
}

/// Returns rustls' provider based on graviola, limited to the key exchanges of the appliance; the
/// hybrid post-quantum one comes first.
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

/// Makes the configuration for one connection: without resumption or any other state of earlier
/// ones.
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

    /// Takes the result of the checks; a second call returns an empty one.
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
        // This only lets the handshake go on: the verdict on the session document decides.
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

/// Checks the kind and the key of a document before it is appraised. Applies to both documents.
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
    // The name, the dates and further certificates are ignored on purpose: name and dates are
    // constants in every appliance, and only the CPU's evidence vouches for the key.
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

    // Uses the raw key, because rustls' own check would parse the certificate again and refuse its
    // critical extension.
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
