//! Why a client cannot do what it was asked.

use std::io;
use std::time::Duration;

use crate::machine::{Code, Outcome};
use crate::resource::Failure;

/// See each case for what to do. Operations on resources fail with a [`Failure`], which converts
/// into this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The builder was given no address. Name at least one node.
    #[error("no endpoints: name at least one node, as in 127.0.0.1:5150")]
    NoEndpoints,
    /// No node answered. Check the addresses, and that nodes run there.
    #[error("no node answered after {:.1}s ({tried})", after.as_secs_f64())]
    Unreachable {
        /// How long was tried.
        after: Duration,
        /// What came of each address.
        tried: String,
    },
    /// The name ends in `@` and the number of a group that does not exist.
    #[error("{} names a group this cluster does not have: it has {groups}", name.escape_debug())]
    NoSuchGroup {
        /// The name.
        name: String,
        /// Groups of the cluster.
        groups: u32,
    },
    /// One node could not be asked.
    #[error("{endpoint}: {reason}")]
    Node {
        /// Its address.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The operating system would not give a thread or random bytes.
    #[error("cannot start the client: {0}")]
    Start(#[from] io::Error),
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] Failure),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Operation(failure) => failure,
            _ => Failure::with_outcome(error.code(), error.outcome(), error.to_string()),
        }
    }
}

impl Error {
    /// Stable number of what went wrong.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Error::Operation(failure) => failure.code,
            Error::NoSuchGroup { .. } => Code::NO_SUCH_GROUP,
            Error::NoEndpoints | Error::Start(_) => Code::CLIENT_CLOSED,
            Error::Unreachable { .. } | Error::Node { .. } => Code::NO_LEADER,
        }
    }

    /// Whether the operation took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Operation(failure) => failure.outcome(),
            _ => Outcome::NotApplied,
        }
    }

    /// Whether the same call may succeed if it is made again, and making it again is safe.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let passing = matches!(
            self.code(),
            Code::NOT_LEADER
                | Code::NO_LEADER
                | Code::NOT_READY
                | Code::TIMEOUT
                | Code::OVERLOADED
                | Code::TOO_MANY_CONNECTIONS
                | Code::TOO_MANY_SESSIONS
                | Code::TOO_MANY_WAITERS
                | Code::SESSION_EXPIRED
                | Code::DISK_FULL
        );
        passing && self.outcome() == Outcome::NotApplied
    }
}
