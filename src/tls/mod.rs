//! Encrypted connections, and certificates that say who is at both ends: TLS 1.3 with rustls.
//!
//! Both sides show a certificate of an authority that the other one trusts. What its holder may do
//! stands in it as a name ([`Role`]), not where it is: nodes move, and a node is known by its
//! authority, not by its address. [`Tls`] reads the files; [`Secure`] is one end of a connection
//! without its socket, [`Stream`] one with it, for blocking calls.
//!
//! Without the feature `tls` there is no way to make a [`Tls`], and so no [`Secure`] either: what
//! is done with them cannot be reached then.
#![cfg_attr(not(feature = "tls"), allow(unreachable_code))]

#[cfg(feature = "tls")]
mod files;
#[cfg(not(feature = "tls"))]
mod none;
#[cfg(feature = "tls")]
mod secure;
pub(crate) mod stream;
#[cfg(all(test, feature = "tls"))]
mod tests;

use std::path::PathBuf;

#[cfg(feature = "tls")]
pub use files::Tls;
#[cfg(not(feature = "tls"))]
pub use none::Secure;
#[cfg(not(feature = "tls"))]
pub use none::Tls;
#[cfg(feature = "tls")]
pub use secure::Secure;
pub use stream::Stream;

/// What the holder of a certificate may do. Certificates are for one of these names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Use resources.
    Client,
    /// That, and change who belongs to the cluster and who leads.
    Operator,
    /// All of it, and be a node of the cluster.
    Node,
}

impl Role {
    /// Every role, the mightiest first.
    pub const ALL: [Role; 3] = [Role::Node, Role::Operator, Role::Client];

    /// The DNS name that a certificate has among its alternative names. No public authority may
    /// give out names under `internal`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Node => "node.margay.internal",
            Role::Operator => "operator.margay.internal",
            Role::Client => "client.margay.internal",
        }
    }
}

/// What is wrong with one's own files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a connection is given up, in words for whoever is at this end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub struct Broken(String);
