//! Why a server does not start, or stops. One line each: what, where, and what helps.

#[cfg(feature = "server")]
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// See the module's text. [`Error::exit_code`] is what the process should end with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be, alone or with the others.
    #[error("{0}")]
    Config(String),

    /// A public address, and nothing that authenticates anybody.
    #[error(
        "{0} can be reached from other machines and nothing authenticates who connects; say --tls, \
         listen on 127.0.0.1, or say --unsafe-no-auth if the network is trusted"
    )]
    PublicBind(SocketAddr),

    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: String,
    },

    /// A name that does not resolve.
    #[error("cannot resolve {address} of node {name}: {cause}; check --peers")]
    Resolve {
        /// Whose address.
        name: String,
        /// The address as given.
        address: String,
        /// What the resolver said.
        cause: String,
    },

    /// This machine cannot run a server; the text says why and what helps.
    #[error("{0}")]
    Preflight(String),

    /// The data directory.
    #[error("{what} {path}: {cause}", path = path.display())]
    Data {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },

    /// Another process has the data directory.
    #[error(
        "{path} is in use by process {pid}; stop it, or use another --data", path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its number, 0 where that is not known.
        pid: u32,
    },

    /// A directory that others could write to, or that is not what it seems.
    #[error("{path}: {why}", path = path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and the remedy.
        why: &'static str,
    },

    /// A file of the data directory that is not as this program left it.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },

    /// The directory was made for something else than it is started for.
    #[error("{0}")]
    Mismatch(String),

    /// The founders do not agree.
    #[error("{0}")]
    Forming(String),

    /// Stopped before the cluster was founded, or this node had joined it.
    #[error("stopped while waiting for the other nodes")]
    Interrupted,

    /// A group's log cannot be opened.
    #[error("group {group}: {cause}")]
    Log {
        /// The group.
        group: u32,
        /// What the log says.
        cause: String,
    },

    /// An executor does not start, or a ring does not work.
    #[error("{0}")]
    Shard(String),

    /// A group that must not go on: its log is poisoned or differs from the cluster's.
    #[error("{0}; the node stops, restart it to recover from its disk and its peers")]
    Fatal(String),
}

impl Error {
    /// What the process should end with: 2 for what the operator has to change, 6 for storage that
    /// must not be trusted, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::PublicBind(_) => 2,
            Error::Fatal(_) | Error::Damaged { .. } | Error::Log { .. } => 6,
            _ => 1,
        }
    }
}

#[cfg(feature = "server")]
impl Error {
    pub(crate) fn data(what: &'static str, path: impl Into<PathBuf>, cause: io::Error) -> Error {
        Error::Data { what, path: path.into(), cause }
    }

    /// What else helps a node that has lost something of its disk. A wiped directory is no remedy:
    /// the node would have forgotten whom it voted for, and is refused.
    pub(crate) const REJOIN: &str = "or, if others have its data, remove the node from the cluster \
                                     and use --join with an empty --data";

    /// A file that cannot be done without; `why` ends with how to get it back.
    pub(crate) fn lost(path: impl Into<PathBuf>, why: &str) -> Error {
        Error::Damaged { path: path.into(), why: format!("{why}, {}", Error::REJOIN) }
    }

    pub(crate) fn executor(cause: &dyn Display) -> Error {
        Error::Shard(format!("an executor does not start: {cause}; raise ulimit -l and ulimit -n"))
    }

    pub(crate) fn ring(shard: usize, cause: &io::Error) -> Error {
        Error::Shard(format!("shard {shard}: io_uring does not work: {cause}; restart the node"))
    }

    pub(crate) fn fatal(cause: &dyn Display) -> Error {
        Error::Fatal(cause.to_string())
    }
}
