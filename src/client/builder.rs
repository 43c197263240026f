//! Making a client: how to reach a cluster, and what to do about trouble.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::ClusterId;

use super::driver::{Driver, Late, ORDERS_MAX, Order, Settings};
use super::{Client, Error, Recovery, Shared, net};
use crate::resource::{Failure, Reply};
use crate::tls::Tls;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    tls: Option<Tls>,
    cluster: ClusterId,
    timeout: Duration,
    session_timeout: Duration,
    connect_timeout: Duration,
    silence: Duration,
    backoff: (Duration, Duration),
    recovery: Recovery,
    selection: Selection,
}

/// The node a session begins with. One that only reads sequentially stays there; commands and
/// linearizable reads are for the leader, wherever a session begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Selection {
    /// Any of them: many clients spread over the nodes.
    #[default]
    Any,
    /// The first that was named which answers; then the next.
    InOrder,
    /// The one that accepted a connection first when the client was made; then the next.
    Nearest,
}

impl Builder {
    /// Addresses of nodes, `host:port` or `host` for port 5150. One is enough to begin with; more
    /// are better.
    #[must_use]
    pub fn endpoints<A: Into<String>>(mut self, endpoints: impl IntoIterator<Item = A>) -> Builder {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// How long an operation may take, and connecting. Default 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// How long the cluster waits for a client it does not hear of before it releases what that
    /// holds. Default 10 s; 1 to 300 s.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Builder {
        self.session_timeout = timeout;
        self
    }

    /// An attempt to connect to a node takes no longer than this. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// A node from which an answer is due and nothing at all was heard for this long is given up
    /// for another. Default 2 s; well below the session time-out.
    #[must_use]
    pub fn silence(mut self, silence: Duration) -> Builder {
        self.silence = silence;
        self
    }

    /// Pauses between attempts after all nodes have failed: from the first to the longest, twice as
    /// long each time. Default 20 to 100 ms. How long is tried at all is each operation's time-out.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Builder {
        self.backoff = (first, longest.max(first));
        self
    }

    /// What comes after a session that has expired. Default: a new one.
    #[must_use]
    pub fn recovery(mut self, recovery: Recovery) -> Builder {
        self.recovery = recovery;
        self
    }

    /// The node to begin with. Default: any.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Builder {
        self.selection = selection;
        self
    }

    /// Who this client is and whom it trusts: its connections are encrypted then. The files are
    /// read again for each connection, so that they may be replaced.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// As whoever runs the cluster in this process.
    #[cfg(feature = "server")]
    pub(crate) fn tls_if(self, tls: Option<Tls>) -> Builder {
        Builder { tls, ..self }
    }

    /// Refuses to talk to any other cluster than this one.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterId) -> Builder {
        self.cluster = cluster;
        self
    }

    /// The same as [`Builder::connect`] for futures: blocks a thread of its own instead. Dropping
    /// the reply drops the client.
    pub fn connecting(self) -> Reply<Client> {
        let (completer, connected) = Reply::channel();
        let connect = move || completer.complete(self.connect().map_err(Failure::from));
        match thread::Builder::new().name("margay-connect".to_owned()).spawn(connect) {
            Ok(_) => connected,
            Err(error) => Reply::ready(Err(Error::from(error).into())),
        }
    }

    /// Starts the client's thread and waits until a node has answered. Blocks the thread: among
    /// futures use [`Builder::connecting`].
    ///
    /// # Errors
    /// When there is no endpoint, none answers within the time-out, all say that they take
    /// encrypted connections only or belong to another cluster, or no thread can be had.
    pub fn connect(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let mut random = [0; 24];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (key, seed) = random.split_at(16);
        let endpoints = match self.selection {
            Selection::Nearest => net::nearest_first(self.endpoints, self.connect_timeout),
            Selection::Any | Selection::InOrder => self.endpoints,
        };
        let settings = Settings {
            endpoints: endpoints.clone(),
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            silence: self.silence,
            backoff: self.backoff,
            recovery: self.recovery,
            in_order: self.selection != Selection::Any,
            cluster: self.cluster,
            session_timeout: self.session_timeout,
            key: std::array::from_fn(|n| key[n]),
            seed: u64::from_le_bytes(std::array::from_fn(|n| seed[n])),
        };
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let late = Late::default();
        let driver = Driver::new(settings, inbox, Late::clone(&late), orders.clone());
        thread::Builder::new().name("margay-client".to_owned()).spawn(move || driver.run())?;
        let shared = Shared { orders, late, endpoints, tls: self.tls, unique: AtomicU64::new(0) };

        let (completer, met) = Reply::channel();
        let begun = Instant::now();
        shared.leave(Order::Meet { deadline: net::from_now(self.timeout), completer });
        match met.wait() {
            Ok((cluster, groups)) => {
                let (shared, timeout) = (Arc::new(shared), self.timeout);
                Ok(Client { shared, cluster, groups, timeout })
            }
            Err(failure) => {
                let after = self.timeout.min(begun.elapsed());
                Err(Error::Unreachable { after, tried: failure.text })
            }
        }
    }
}

impl Client {
    /// Begins with the defaults and no address.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            endpoints: Vec::new(),
            tls: None,
            cluster: ClusterId(0),
            timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            silence: Duration::from_secs(2),
            backoff: (Duration::from_millis(20), Duration::from_millis(100)),
            recovery: Recovery::NewSession,
            selection: Selection::Any,
        }
    }
}
