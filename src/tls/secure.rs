//! One end of an encrypted connection, as bytes in and bytes out; and what its errors mean.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error,
    InvalidMessage, RootCertStore, ServerConfig, ServerConnection, crypto,
};
use webpki::EndEntityCert;

use super::{Broken, Role};

/// One end of an encrypted connection, without its socket: what arrives there is
/// [fed](Secure::feed) to it, and what it has to say is [drained](Secure::drain) and sent.
#[derive(Debug)]
pub struct Secure {
    connection: Connection,
    role: Option<Role>,
}

impl Secure {
    pub(super) fn dial(config: Arc<ClientConfig>) -> Secure {
        let connection = ClientConnection::new(config, name_of(Role::Node));
        Secure::of(connection.expect("the configuration was right when it was made").into())
    }

    pub(super) fn accept(config: Arc<ServerConfig>) -> Secure {
        let connection = ServerConnection::new(config);
        Secure::of(connection.expect("the configuration was right when it was made").into())
    }

    fn of(mut connection: Connection) -> Secure {
        // What is put is bounded by whoever puts it.
        connection.set_buffer_limit(None);
        Secure { connection, role: None }
    }

    /// Takes what has arrived, and appends what was said to `plain`. What is to be sent because of
    /// it, the reason of a failure included, is there to [drain](Secure::drain) afterwards.
    ///
    /// # Errors
    /// The connection is no good any more.
    pub fn feed(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>) -> Result<(), Broken> {
        while !cipher.is_empty() {
            // A piece at a time, each of which leaves the buffers as empty as it found them.
            let taken = self.connection.read_tls(&mut cipher).map_err(|e| Broken(e.to_string()))?;
            let state = self.connection.process_new_packets().map_err(|e| Broken(words(&e)))?;
            if taken == 0 {
                // Whatever comes behind the other side's last word.
                return Ok(());
            }
            let length = plain.len();
            plain.resize(length + state.plaintext_bytes_to_read(), 0);
            let read = self.connection.reader().read_exact(&mut plain[length..]);
            read.map_err(|e| Broken(e.to_string()))?;
        }
        if self.role.is_none() && !self.connection.is_handshaking() {
            let chain = self.connection.peer_certificates();
            self.role = chain.and_then(|chain| role_of(chain.first()?));
        }
        Ok(())
    }

    /// Says something; until the handshake is over, it waits here.
    pub fn put(&mut self, plain: &[u8]) {
        // Without a limit everything is taken.
        let _ = self.connection.writer().write_all(plain);
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Appends what is to be sent.
    pub fn drain(&mut self, cipher: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // A vector takes everything.
            let _ = self.connection.write_tls(cipher);
        }
    }

    /// Whether the handshake is not over yet.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// What the other side may do, once that is known.
    pub fn role(&self) -> Option<Role> {
        self.role
    }
}

fn name_of(role: Role) -> ServerName<'static> {
    ServerName::try_from(role.name()).expect("the names of roles are names")
}

/// The mightiest role that a certificate gives.
pub(super) fn role_of(certificate: &CertificateDer<'_>) -> Option<Role> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let is = |role: &Role| certificate.verify_is_valid_for_subject_name(&name_of(*role)).is_ok();
    Role::ALL.into_iter().find(is)
}

/// Looks at the certificates of nodes that are dialled.
pub(super) fn verifier(
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = WebPkiServerVerifier::builder_with_provider(roots, provider);
    let builder = builder.with_crls(revoked).allow_unknown_revocation_status();
    builder.build().map_err(|error| error.to_string())
}

/// An error in words that say what to do.
pub(super) fn words(error: &Error) -> String {
    use AlertDescription as Alert;
    let text = match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate is not from an authority in ca.pem"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet: is a clock wrong?"
            }
            CertificateError::Revoked => "the certificate has been revoked",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is not a node's"
            }
            _ => return error.to_string(),
        },
        Error::NoCertificatesPresented => "no certificate was shown",
        Error::InconsistentKeys(_) => "it is not the key of cert.pem",
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "the other side speaks no TLS",
        Error::AlertReceived(alert) => match alert {
            Alert::ProtocolVersion => "the other side speaks no TLS 1.3; serves it without --tls?",
            Alert::UnknownCA | Alert::DecryptError | Alert::BadCertificate => {
                "the other side does not know the authority of this certificate"
            }
            Alert::CertificateExpired => "the other side says that this certificate has expired",
            Alert::CertificateRevoked => "the other side says that this certificate is revoked",
            Alert::CertificateRequired => "the other side asks for a certificate",
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    text.to_owned()
}
