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
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::{ClusterId, GroupId, Index};

use crate::machine::{Code, Filter, Level, NoticeState, Outcome, ResourceId};
use crate::resource::group::MemberGroupOf;
use crate::resource::log::Retention;
use crate::resource::typed::{Data, MapOf, ValueOf};
use crate::resource::{
    Answer, Barrier, Completer, Counter, Directory, Election, Failure, Handle, IdGenerator, Latch,
    Lock, Log, Map, MemberGroup, Multimap, Queue, Reply, RwLock, Semaphore, Set, Submit,
    Subscription, Topic, Tree, Value,
};
use driver::{Driver, ORDERS_MAX, Order, Settings};
use session::{Call, SessionState};

pub mod admin;
mod ask;
mod backoff;
mod calls;
mod config;
mod driver;
mod endpoints;
mod error;
mod exchange;
mod holdings;
mod manage;
mod net;
mod routing;
pub mod session;
mod states;
mod status;
mod stream;
mod subscriptions;
mod verify;

pub use config::Recovery;
pub use error::Error;
pub use manage::{Found, Listing};
pub use routing::route;
pub use states::{StateChange, StateChanges};
pub use status::{NodeStatus, status};
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

/// One group of a cluster: what handles send their operations through.
#[derive(Clone, Debug)]
pub struct Group {
    shared: Arc<Shared>,
    group: GroupId,
    timeout: Duration,
}

/// What all clones share: the way to the thread.
struct Shared {
    orders: SyncSender<Order>,
    endpoints: Vec<String>,
    unique: AtomicU64,
}

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
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

    /// Refuses to talk to any other cluster than this one.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterId) -> Builder {
        self.cluster = cluster;
        self
    }

    /// Starts the client's thread and waits until a node has answered.
    ///
    /// # Errors
    /// When there is no endpoint, none answers within the time-out, or no thread can be had.
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
        let driver = Driver::new(settings, inbox, orders.clone());
        thread::Builder::new().name("margay-client".to_owned()).spawn(move || driver.run())?;
        let shared = Shared { orders, endpoints, unique: AtomicU64::new(0) };

        let (completer, met) = Reply::channel();
        shared.order(Order::Meet { deadline: Instant::now() + self.timeout, completer });
        let after = self.timeout;
        match met.wait() {
            Ok((cluster, groups)) => {
                let (shared, timeout) = (Arc::new(shared), self.timeout);
                Ok(Client { shared, cluster, groups, timeout })
            }
            Err(failure) => Err(Error::Unreachable { after, tried: failure.text }),
        }
    }
}

impl Client {
    /// Begins with the defaults and no address.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            endpoints: Vec::new(),
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
        Group { shared: self.shared.clone(), group, timeout: self.timeout }
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

    /// The value `name`; created where there is none. So with the other types.
    pub fn value(&self, name: &str) -> Reply<Value<Group>> {
        self.open(name, Value::open)
    }

    /// The counter `name`.
    pub fn counter(&self, name: &str) -> Reply<Counter<Group>> {
        self.open(name, Counter::open)
    }

    /// The map `name`.
    pub fn map(&self, name: &str) -> Reply<Map<Group>> {
        self.open(name, Map::open)
    }

    /// The multimap `name`.
    pub fn multimap(&self, name: &str) -> Reply<Multimap<Group>> {
        self.open(name, Multimap::open)
    }

    /// The set `name`.
    pub fn set(&self, name: &str) -> Reply<Set<Group>> {
        self.open(name, Set::open)
    }

    /// The document tree `name`.
    pub fn tree(&self, name: &str) -> Reply<Tree<Group>> {
        self.open(name, Tree::open)
    }

    /// Ids from the counter `name` that no other client gets.
    pub fn id_generator(&self, name: &str) -> Reply<IdGenerator<Group>> {
        self.open(name, IdGenerator::open)
    }

    /// The value `name`, read and written as a type: bytes, text, numbers, [`Rkyv`], [`Json`].
    ///
    /// [`Rkyv`]: crate::resource::typed::Rkyv
    /// [`Json`]: crate::resource::typed#structs
    pub fn value_of<V: Data>(&self, name: &str) -> Reply<ValueOf<V, Group>> {
        self.value(name).and_then(|value| Ok(ValueOf::new(value)))
    }

    /// The map `name`, read and written as types: `client.map_of::<String, u64>("stock")`.
    pub fn map_of<K: Data, V: Data>(&self, name: &str) -> Reply<MapOf<K, V, Group>> {
        self.map(name).and_then(|map| Ok(MapOf::new(map)))
    }

    /// The lock `name`.
    pub fn lock(&self, name: &str) -> Reply<Lock<Group>> {
        self.open(name, Lock::open)
    }

    /// The queue `name`.
    pub fn queue(&self, name: &str) -> Reply<Queue<Group>> {
        self.open(name, Queue::open)
    }

    /// The same; where it is created, a task handed out `deliveries_max` times becomes a dead
    /// letter.
    pub fn queue_with(&self, name: &str, deliveries_max: u32) -> Reply<Queue<Group>> {
        self.open(name, |group, name| Queue::open_with(group, name, deliveries_max))
    }

    /// The read-write lock `name`.
    pub fn rwlock(&self, name: &str) -> Reply<RwLock<Group>> {
        self.open(name, RwLock::open)
    }

    /// The semaphore `name`; created with so many permits where there is none.
    pub fn semaphore(&self, name: &str, permits: u32) -> Reply<Semaphore<Group>> {
        self.open(name, |group, name| Semaphore::open(group, name, permits))
    }

    /// The barrier `name`; created for so many parties where there is none.
    pub fn barrier(&self, name: &str, parties: u32) -> Reply<Barrier<Group>> {
        self.open(name, |group, name| Barrier::open(group, name, parties))
    }

    /// The latch `name`; created to count down from `count` where there is none.
    pub fn latch(&self, name: &str, count: u32) -> Reply<Latch<Group>> {
        self.open(name, |group, name| Latch::open(group, name, count))
    }

    /// The group of members `name`. Not to be mixed up with [`Client::group`], a group of the
    /// cluster.
    pub fn member_group(&self, name: &str) -> Reply<MemberGroup<Group>> {
        self.open(name, MemberGroup::open)
    }

    /// The same, with messages and answers of a program's own type.
    pub fn member_group_of<M: Data>(&self, name: &str) -> Reply<MemberGroupOf<M, Group>> {
        self.member_group(name).and_then(|group| Ok(MemberGroupOf::new(group)))
    }

    /// The topic `name`.
    pub fn topic(&self, name: &str) -> Reply<Topic<Group>> {
        self.open(name, Topic::open)
    }

    /// The log `name`; created to keep everything where there is none.
    pub fn log(&self, name: &str) -> Reply<Log<Group>> {
        self.open(name, Log::open)
    }

    /// The same; where it is created, it keeps what `retention` says.
    pub fn log_with(&self, name: &str, retention: Retention) -> Reply<Log<Group>> {
        self.open(name, |group, name| Log::open_with(group, name, retention))
    }

    /// The election `name`.
    pub fn election(&self, name: &str) -> Reply<Election<Group>> {
        self.open(name, Election::open)
    }

    /// The resource `name` of any type, one of the program's own for instance; created with these
    /// options where there is none.
    pub fn resource(&self, name: &str, kind: u8, options: &[u8]) -> Reply<Handle<Group>> {
        self.open(name, |group, name| {
            let opened = Directory::new(group.clone()).open(name, kind, options);
            opened.and_then(move |id| Ok(Handle::new(group, id)))
        })
    }

    fn open<T>(&self, name: &str, open: impl FnOnce(Group, &str) -> Reply<T>) -> Reply<T> {
        match self.group_of(name) {
            Ok(group) => open(group, name),
            Err(error) => Reply::ready(Err(Failure::new(error.code(), error.to_string()))),
        }
    }

    /// Asks every endpoint how it is, at the same time; waits for each no longer than an operation
    /// may take.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        status(&self.shared.endpoints, self.timeout)
    }

    /// What its sessions can rely on, from now on. A receiver that does not read misses states.
    #[must_use]
    pub fn session_states(&self) -> Receiver<(GroupId, SessionState)> {
        let (sender, receiver) = sync_channel(STATES_MAX);
        self.shared.order(Order::Watch(sender));
        receiver
    }

    /// What its sessions can rely on, from now on, and with each expired one what it has lost. Slow
    /// readers miss the oldest changes.
    #[must_use]
    pub fn state_changes(&self) -> StateChanges {
        let (feed, changes) = states::changes();
        self.shared.order(Order::Follow(feed));
        changes
    }

    /// Ends all sessions: the cluster releases what they hold. Calls under way fail. Returns when
    /// all groups know, or after a second.
    ///
    /// # Errors
    /// When the client's thread is no more.
    pub fn close(&self) -> Result<(), Error> {
        let (completer, closed) = Reply::channel();
        if !self.shared.order(Order::Close(Some(completer))) {
            return Ok(());
        }
        Ok(closed.wait()?)
    }
}

impl Group {
    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.group
    }

    /// The same group with another time limit for each operation.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Group {
        self.timeout = timeout;
        self
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        let (group, deadline) = (self.group, Instant::now() + self.timeout);
        self.shared.ask(|completer| Order::Call { group, call, deadline, completer })
    }
}

impl Submit for Group {
    fn command(
        &self,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        self.call(Call::Command { kind, schema, resource, payload })
    }

    fn query(
        &self,
        level: Level,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        self.call(Call::Query { level, kind, schema, resource, payload })
    }

    fn await_token(&self, resource: ResourceId, waiter: Index, seen: u64) -> Reply<NoticeState> {
        let (group, waiter) = (self.group, (resource, waiter));
        self.shared.ask(|completer| Order::Await { group, waiter, seen, completer })
    }

    fn await_end(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState> {
        let (group, waiter) = (self.group, (resource, waiter));
        self.shared.ask(|completer| Order::AwaitEnd { group, waiter, completer })
    }

    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> Subscription {
        let (feed, subscription) = Subscription::channel();
        let mut encoded = Vec::new();
        filter.encode(&mut encoded);
        let call = Call::Subscribe { resource, after, filter: encoded };
        let (group, deadline) = (self.group, Instant::now() + self.timeout);
        let order = Order::Subscribe { group, call, deadline, feed };
        if let Err((Order::Subscribe { feed, .. }, failure)) = self.shared.try_order(order) {
            feed.end(failure);
        }
        subscription
    }

    fn group(&self) -> GroupId {
        self.group
    }

    fn unique(&self) -> u64 {
        self.shared.unique.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Shared {
    /// Waits for a place in the queue. Returns whether the thread is there to take the order.
    fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }

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
}

/// The thread ends with the last client.
impl Drop for Shared {
    fn drop(&mut self) {
        self.order(Order::Close(None));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
