//! Handles by name: one function per type of resource, and per type with a program's own types.

use super::{Client, Group};
use crate::resource::log::Retention;
use crate::resource::typed::{
    Data, ElectionOf, LogOf, MapOf, MemberGroupOf, MultimapOf, QueueOf, SetOf, TopicOf, TreeOf,
    ValueOf,
};
use crate::resource::{
    Barrier, Counter, Directory, Election, Failure, Handle, IdGenerator, Latch, Lock, Log, Map,
    MemberGroup, Multimap, Queue, Reply, RwLock, Semaphore, Set, Topic, Tree, Value,
};

impl Client {
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

    // ---- with types of the program ---------------------------------------------------------

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

    /// The set `name`, with members of a type.
    pub fn set_of<M: Data>(&self, name: &str) -> Reply<SetOf<M, Group>> {
        self.set(name).and_then(|set| Ok(SetOf::new(set)))
    }

    /// The multimap `name`, read and written as types.
    pub fn multimap_of<K: Data, V: Data>(&self, name: &str) -> Reply<MultimapOf<K, V, Group>> {
        self.multimap(name).and_then(|multimap| Ok(MultimapOf::new(multimap)))
    }

    /// The queue `name`, of values or tasks of a type. With dead letters:
    /// `QueueOf::new(client.queue_with("jobs", 5).wait()?)`.
    pub fn queue_of<T: Data>(&self, name: &str) -> Reply<QueueOf<T, Group>> {
        self.queue(name).and_then(|queue| Ok(QueueOf::new(queue)))
    }

    /// The document tree `name`, with data of a type. Where nodes may have none, as those that
    /// [`TreeOf::with_parents`] creates: `client.tree_of::<Option<Json<Config>>>("config")`.
    pub fn tree_of<D: Data>(&self, name: &str) -> Reply<TreeOf<D, Group>> {
        self.tree(name).and_then(|tree| Ok(TreeOf::new(tree)))
    }

    /// The election `name`, whose candidates bring data of a type.
    pub fn election_of<D: Data>(&self, name: &str) -> Reply<ElectionOf<D, Group>> {
        self.election(name).and_then(|election| Ok(ElectionOf::new(election)))
    }

    /// The topic `name`, with messages of a type.
    pub fn topic_of<M: Data>(&self, name: &str) -> Reply<TopicOf<M, Group>> {
        self.topic(name).and_then(|topic| Ok(TopicOf::new(topic)))
    }

    /// The log `name`, with records of a type. With a retention:
    /// `LogOf::new(client.log_with("audit", retention).wait()?)`.
    pub fn log_of<R: Data>(&self, name: &str) -> Reply<LogOf<R, Group>> {
        self.log(name).and_then(|log| Ok(LogOf::new(log)))
    }

    /// The group of members `name`, with messages and answers of a type.
    pub fn member_group_of<M: Data>(&self, name: &str) -> Reply<MemberGroupOf<M, Group>> {
        self.member_group(name).and_then(|group| Ok(MemberGroupOf::new(group)))
    }

    // ---- of any type -------------------------------------------------------------------------

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
}
