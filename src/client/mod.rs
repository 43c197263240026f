//! Talks to a cluster: typed handles for threads and for futures of any runtime, and the parts they
//! are made of.
//!
//! A [`Client`] has one thread of its own and, for each group in use, a session with one
//! connection. The session is a state machine without I/O ([`session`]), so that load generators
//! and the simulator drive the same code. Handles come from the client by name:
//!
//! ```no_run
//! # fn main() -> Result<(), margay::client::Error> {
//! let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
//! let users = client.map("users").wait()?;
//! # drop(users);
//! client.close()
//! # }
//! ```
//!
//! Safe time is counted on the monotonic clock, which on Linux stands still while the machine is
//! suspended. What a lock protects should check the lock's token, after a suspension as at any
//! other time.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use margay_log::id::{ClusterId, GroupId};

use crate::machine::{Code, Outcome};
use crate::resource::{Completer, Failure, Reply};
use crate::tls::Tls;
use driver::{Late, ORDERS_MAX, Order, take_late};
use session::SessionState;

pub mod admin;
mod ask;
mod backoff;
mod builder;
mod calls;
mod config;
mod driver;
mod endpoints;
mod error;
mod exchange;
mod group;
mod holdings;
mod manage;
mod net;
mod open;
mod routing;
pub mod session;
mod states;
mod status;
mod stream;
mod subscriptions;
mod verify;

pub use builder::{Builder, Selection};
pub use config::Recovery;
pub use error::Error;
pub use group::Group;
pub use manage::{Found, Listing};
pub use routing::route;
pub use states::{StateChange, StateChanges};
pub use status::{NodeStatus, status, status_of_all};
pub use verify::{Comparison, chain, compare};

/// States a watcher may be behind before it misses some.
const STATES_MAX: usize = 1_024;

/// A cluster, from outside. Clones share the thread and the sessions; the last one dropped ends
/// them.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    cluster: ClusterId,
    groups: u32,
    timeout: Duration,
}

/// What all clones share: the way to the thread.
struct Shared {
    orders: SyncSender<Order>,
    late: Late,
    endpoints: Vec<String>,
    tls: Option<Tls>,
    unique: AtomicU64,
}

impl Client {
    /// The same client with another time limit for each operation.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// The cluster it talks to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many groups that has.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// One of the groups.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Group {
        Group { shared: self.shared.clone(), group, timeout: self.timeout, lasts: false }
    }

    /// The group a name lives in; see [`route`].
    ///
    /// # Errors
    /// When the name ends in `@` and the number of a group there is not.
    pub fn group_of(&self, name: &str) -> Result<Group, Error> {
        let group = route(name, self.groups);
        let group = group.ok_or(Error::NoSuchGroup { name: name.to_owned(), groups: self.groups });
        group.map(|group| self.group(group))
    }

    /// Asks every endpoint how it is, at the same time; waits for each no longer than an operation
    /// may take.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        status(&self.shared.endpoints, self.shared.tls.as_ref(), self.timeout)
    }

    /// What its sessions can rely on, from now on. A receiver that does not read misses states.
    #[must_use]
    pub fn session_states(&self) -> Receiver<(GroupId, SessionState)> {
        let (sender, receiver) = sync_channel(STATES_MAX);
        self.shared.leave(Order::Watch(sender));
        receiver
    }

    /// What its sessions can rely on, from now on, and with each expired one what it has lost. Slow
    /// readers miss the oldest changes.
    #[must_use]
    pub fn state_changes(&self) -> StateChanges {
        let (feed, changes) = states::changes();
        self.shared.leave(Order::Follow(feed));
        changes
    }

    /// Ends all sessions: the cluster releases what they hold. Calls under way fail. Returns when
    /// all groups know, or when the time to connect is over. A group that is not reachable just now
    /// learns of it by the silence, after the session's time-out. Dropping the last clone does the
    /// same and does not wait: a program that ends right after it may be too fast.
    ///
    /// # Errors
    /// When the client's thread is no more.
    pub fn close(&self) -> Result<(), Error> {
        Ok(self.closing().wait()?)
    }

    /// The same as [`Client::close`] for futures.
    pub fn closing(&self) -> Reply<()> {
        let closed = self.shared.ask_surely(|completer| Order::Close(Some(completer)));
        closed.map(|closed| match closed {
            // Its thread has ended: it was closed before.
            Err(failure) if failure.code == Code::CLIENT_CLOSED => Ok(()),
            other => other,
        })
    }
}

impl Shared {
    /// Does not wait: where the thread is too far behind, the order comes back.
    fn try_order(&self, order: Order) -> Result<(), (Order, Failure)> {
        let failure = |code, text| Failure::with_outcome(code, Outcome::NotApplied, text);
        self.orders.try_send(order).map_err(|refused| match refused {
            TrySendError::Full(order) => {
                let text = format!("{ORDERS_MAX} calls wait for the client's thread");
                (order, failure(Code::OVERLOADED, text))
            }
            TrySendError::Disconnected(order) => {
                (order, failure(Code::CLIENT_CLOSED, String::new()))
            }
        })
    }

    /// Orders something that is answered.
    fn ask<T>(&self, order: impl FnOnce(Completer<T>) -> Order) -> Reply<T> {
        let (completer, reply) = Reply::channel();
        match self.try_order(order(completer)) {
            Ok(()) => reply,
            Err((order, failure)) => {
                // The completer inside would answer "unknown"; nothing was sent.
                drop(order);
                Reply::ready(Err(failure))
            }
        }
    }

    /// Orders what is answered and must not be lost.
    fn ask_surely<T>(&self, order: impl FnOnce(Completer<T>) -> Order) -> Reply<T> {
        let (completer, reply) = Reply::channel();
        self.leave(order(completer));
        reply
    }

    /// Orders what must not be lost. Whoever drops something must not wait: where there is no place
    /// in the queue, the thread finds it beside. False if there is no thread any more.
    fn leave(&self, order: Order) -> bool {
        let order = match self.orders.try_send(order) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(order)) => order,
        };
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        // It looks there whenever it takes something out of the queue, which may be empty by now;
        // where that is full again, it will.
        let is_gone =
            matches!(self.orders.try_send(Order::Late), Err(TrySendError::Disconnected(_)));
        if is_gone {
            // It may have looked for the last time before that: whoever waits is told here.
            drop(take_late(&self.late));
        }
        !is_gone
    }
}

/// The thread ends with the last client. It must not wait for itself: waking a task may drop that,
/// and with it the client.
impl Drop for Shared {
    fn drop(&mut self) {
        self.leave(Order::Close(None));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use super::driver::{Driver, Settings};
    use super::*;

    /// With a queue of one place.
    fn shared() -> (Shared, Receiver<Order>, Late) {
        let (orders, inbox) = sync_channel(1);
        let (late, endpoints, unique) = (Late::default(), Vec::new(), AtomicU64::new(0));
        (Shared { orders, late: Late::clone(&late), endpoints, tls: None, unique }, inbox, late)
    }

    /// The last client may be dropped on an executor's thread.
    #[test]
    fn who_drops_the_last_client_does_not_wait() {
        let (shared, inbox, late) = shared();
        let _first = shared.ask_surely(|completer| Order::Close(Some(completer)));
        let (sender, ended) = sync_channel(1);
        std::thread::spawn(move || {
            drop(shared);
            sender.send(()).expect("waited for");
        });
        ended.recv_timeout(Duration::from_secs(30)).expect("it does not wait for a place");
        assert!(matches!(&take_late(&late)[..], [Order::Close(None)]));
        drop(inbox);
    }

    #[test]
    fn what_must_not_be_lost_is_left_beside_a_full_queue() {
        let (shared, inbox, late) = shared();
        let close = |completer| Order::Close(Some(completer));
        let (_first, _second) = (shared.ask_surely(close), shared.ask_surely(close));
        assert!(matches!(inbox.try_recv(), Ok(Order::Close(Some(_)))));
        assert!(inbox.try_recv().is_err(), "it was full, and will be looked at");
        assert!(matches!(&late.lock().expect("whole")[..], [Order::Close(Some(_))]));
        let third = shared.ask(close);
        assert!(matches!(inbox.try_recv(), Ok(Order::Close(Some(_)))));
        drop((third, inbox));
    }

    fn driver(inbox: Receiver<Order>, late: Late, orders: SyncSender<Order>) -> Driver {
        let second = Duration::from_secs(1);
        let settings = Settings {
            tls: None,
            endpoints: vec!["127.0.0.1:1".to_owned()],
            cluster: ClusterId(0),
            session_timeout: second,
            connect_timeout: second,
            silence: second,
            backoff: (second, second),
            recovery: Recovery::default(),
            in_order: true,
            key: [0; 16],
            seed: 1,
        };
        Driver::new(settings, inbox, late, orders)
    }

    #[test]
    fn what_was_left_there_is_found() {
        let (orders, inbox) = sync_channel(1);
        let (completer, closed) = Reply::channel();
        let late = Late::new(Mutex::new(vec![Order::Close(Some(completer))]));
        let driver = driver(inbox, late, orders.clone());
        orders.send(Order::Late).expect("there is a place");
        let (sender, ended) = sync_channel(1);
        std::thread::spawn(move || {
            driver.run();
            sender.send(()).expect("waited for");
        });
        ended.recv_timeout(Duration::from_secs(30)).expect("it takes what is there");
        closed.wait().expect("closed");
    }

    #[test]
    fn what_is_left_there_at_the_end_is_answered() {
        let (orders, inbox) = sync_channel(1);
        let (completer, mut closed) = Reply::channel();
        let late = Late::new(Mutex::new(vec![Order::Close(Some(completer))]));
        driver(inbox, late, orders).end();
        let polled = Pin::new(&mut closed).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(Ok(())));
    }
}
