//! The folder in which somebody's certificate, key and authority are, and what is made of it.
//!
//! Files may be replaced while it is in use: [`Tls::refresh`] takes what is there then, if all of
//! it is right; connections that exist stay as they are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};

use super::secure::{self, Secure};
use super::{Role, TlsError};

/// Certificates of whom to trust.
const CA: &str = "ca.pem";
/// The own certificate, and those between it and the authority, if any.
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
/// Certificates that the authority has taken back; need not be there.
const REVOKED: &str = "crl.pem";

/// Who somebody is and whom he trusts: the files `ca.pem`, `cert.pem`, `key.pem` and, where there
/// are certificates that must not be trusted any more, `crl.pem`, in one folder.
#[derive(Clone)]
pub struct Tls {
    folder: Arc<PathBuf>,
    current: Arc<Mutex<Current>>,
    /// Held while the folder is read: who began earlier must not bring back what was there then.
    /// Nobody who only uses what was read waits for a disk.
    reading: Arc<Mutex<()>>,
}

/// What was read last.
struct Current {
    text: Text,
    role: Role,
    chain: Vec<CertificateDer<'static>>,
    guard: Arc<dyn ClientCertVerifier>,
    dials: Arc<ClientConfig>,
    accepts: Arc<ServerConfig>,
}

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Text {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    revoked: Option<Vec<u8>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a folder.
    ///
    /// # Errors
    /// A file is missing or is not what it should be; the key is not the certificate's; the
    /// certificate is not the authority's, not valid today, or gives no [`Role`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Tls, TlsError> {
        let folder = folder.as_ref();
        let current = Current::new(folder, Text::read(folder)?)?;
        let (folder, current) = (Arc::new(folder.to_owned()), Arc::new(Mutex::new(current)));
        Ok(Tls { folder, current, reading: Arc::default() })
    }

    /// The role that the certificate gives.
    #[must_use]
    pub fn role(&self) -> Role {
        self.with(|current| current.role)
    }

    /// Reads the folder again. Says whether something has changed. Blocks.
    ///
    /// # Errors
    /// As [`Tls::open`]; what was read before stays in use.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let text = Text::read(&self.folder)?;
        if self.with(|current| current.text == text) {
            return Ok(false);
        }
        let next = Current::new(&self.folder, text)?;
        self.with(|current| *current = next);
        Ok(true)
    }

    /// Whether others will take the own certificate after some time, as far as can be known.
    #[must_use]
    pub fn is_good_in(&self, time: Duration) -> bool {
        let at = Duration::from_secs(UnixTime::now().as_secs()) + time;
        let at = UnixTime::since_unix_epoch(at);
        self.with(|current| {
            let (own, between) = (&current.chain[0], &current.chain[1..]);
            current.guard.verify_client_cert(own, between, at).is_ok()
        })
    }

    /// This side of a connection to a node.
    pub fn dial(&self) -> Secure {
        Secure::dial(self.with(|current| Arc::clone(&current.dials)))
    }

    /// This side of a connection that somebody has made.
    pub fn accept(&self) -> Secure {
        Secure::accept(self.with(|current| Arc::clone(&current.accepts)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Current) -> T) -> T {
        // What is there is replaced whole or not at all.
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Text {
    fn read(folder: &Path) -> Result<Text, TlsError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| TlsError::Read { path, error })
        };
        let revoked = match read(REVOKED) {
            Err(TlsError::Read { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                None
            }
            read => Some(read?),
        };
        Ok(Text { ca: read(CA)?, certificate: read(CERTIFICATE)?, key: read(KEY)?, revoked })
    }
}

impl Current {
    fn new(folder: &Path, text: Text) -> Result<Current, TlsError> {
        let unusable =
            |name: &str, why: String| TlsError::Unusable { path: folder.join(name), why };
        let roots = roots(&text.ca).map_err(|why| unusable(CA, why))?;
        let chain = certificates(&text.certificate).map_err(|why| unusable(CERTIFICATE, why))?;
        let key = PrivateKeyDer::from_pem_slice(&text.key)
            .map_err(|error| unusable(KEY, format!("no private key in PEM: {error}")))?;
        let revoked = revoked(text.revoked.as_deref()).map_err(|why| unusable(REVOKED, why))?;
        let roots = Arc::new(roots);
        let guard = guard(&roots, revoked.clone()).map_err(|why| unusable(REVOKED, why))?;
        guard
            .verify_client_cert(&chain[0], &chain[1..], UnixTime::now())
            .map_err(|error| unusable(CERTIFICATE, secure::words(&error)))?;
        let Some(role) = secure::role_of(&chain[0]) else {
            let names = Role::ALL.map(Role::name).join(", ");
            return Err(unusable(CERTIFICATE, format!("it is for none of {names}")));
        };
        let bad_key = |error: rustls::Error| unusable(KEY, secure::words(&error));
        let verifier = secure::verifier(roots, revoked).map_err(|why| unusable(REVOKED, why))?;
        let provider = || Arc::new(crypto::ring::default_provider());
        let mut dials = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad_key)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(bad_key)?;
        // Connections live long: nothing is gained by resuming one.
        dials.resumption = Resumption::disabled();
        let mut accepts = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad_key)?
            .with_client_cert_verifier(Arc::clone(&guard))
            .with_single_cert(chain.clone(), key)
            .map_err(bad_key)?;
        accepts.send_tls13_tickets = 0;
        let (dials, accepts) = (Arc::new(dials), Arc::new(accepts));
        Ok(Current { text, role, chain, guard, dials, accepts })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("not in PEM: {error}"))?;
    if all.is_empty() { Err("no certificate in PEM".to_owned()) } else { Ok(all) }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| secure::words(&error))?;
    }
    Ok(roots)
}

type Revoked = Vec<CertificateRevocationListDer<'static>>;

fn revoked(pem: Option<&[u8]>) -> Result<Revoked, String> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    let all: Result<Revoked, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("not in PEM: {error}"))?;
    if all.is_empty() { Err("no revocation list in PEM".to_owned()) } else { Ok(all) }
}

/// Looks at the certificates of those who connect.
fn guard(
    roots: &Arc<RootCertStore>,
    revoked: Revoked,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider);
    // A list need not speak of all authorities that are trusted.
    let builder = builder.with_crls(revoked).allow_unknown_revocation_status();
    builder.build().map_err(|error| error.to_string())
}
