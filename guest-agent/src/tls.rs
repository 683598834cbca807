//! The attested TLS listener: TLS 1.3 only, without tickets, resumption or early data.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CipherSuite, NamedGroup};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::attester::BootEvidence;
use crate::certificate;
use crate::keys::{KeyError, Keys};

/// Why the listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The evidence commits to another TLS key than that of the certificate.
    #[error("boot evidence commits to another TLS key")]
    OtherKey,
    /// A key could not be encoded.
    #[error("cannot hand the leaf key to the TLS library")]
    Key(#[from] KeyError),
    /// The certificate could not be encoded.
    #[error("cannot assemble the leaf certificate: {0}")]
    Certificate(x509_cert::der::Error),
    /// The TLS library rejected the configuration.
    #[error("cannot configure TLS")]
    Configure(#[from] rustls::Error),
    /// The port is in use, or the address is not one of this machine.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address of the listener.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// An open port whose certificate carries evidence for its own key. There is no other way to serve.
pub struct AttestedListener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: TlsAcceptor,
}

impl AttestedListener {
    /// Opens the port.
    pub async fn bind(
        address: SocketAddr,
        keys: &Keys,
        boot: &BootEvidence,
    ) -> Result<Self, TlsError> {
        let config = server_config(keys, boot)?;
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|source| TlsError::Listen { address, source })?;
        Ok(Self {
            tcp,
            tls: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Returns the listener's address, for tests that let the kernel choose a port.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn server_config(keys: &Keys, boot: &BootEvidence) -> Result<ServerConfig, TlsError> {
    if boot.leaf_spki_sha256() != keys.leaf_spki_sha256() {
        return Err(TlsError::OtherKey);
    }
    let certificate =
        certificate::self_signed(keys, boot.document()).map_err(TlsError::Certificate)?;
    let mut provider = rustls_graviola::default_provider();
    // The post-quantum hybrid group comes first: prompts recorded today could otherwise be decrypted in twenty years.
    provider
        .kx_groups
        .sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS13_AES_128_GCM_SHA256
        )
    });
    let der = keys.leaf_pkcs8()?;
    let key = provider
        .key_provider
        .load_private_key(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec())))?;
    // Not `with_single_cert`, which parses the certificate and rejects the critical extension that only our verifier knows.
    let certified = CertifiedKey::new(vec![CertificateDer::from(certificate)], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    // A resumed session would carry no evidence of its own.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
