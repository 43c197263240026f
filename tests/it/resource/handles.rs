//! Handles over a carrier that applies at once and delivers when told to.

use crate::machine::World;
use margay::machine::{
    Code, Effects, Events, Filter, Level, NoticeState, Outcome, Query, ResourceId, SessionId, kind,
};
use margay::resource::lock::HolderV1;
use margay::resource::map::{MapEntry, MapEvent, MapRange};
use margay::resource::subscription::{Delivery, Feed, Subscription};
use margay::resource::value::ValueEvent;
use margay::resource::{
    Answer, Completer, Counter, Directory, Failure, IdGenerator, Lock, Map, Removal, Reply, Submit,
    Swap, Value,
};
use margay_log::id::{Index, Micros};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Key = (ResourceId, Index);

/// The rest of the cluster, and this client's side of one session.
pub(super) struct Far {
    pub(super) world: World,
    mirrors: BTreeMap<u64, Mirror>,
    /// While held, replies are kept back.
    held: Option<Vec<(Completer<Answer>, Answer)>>,
    feeds: Vec<(ResourceId, Vec<u8>, Feed)>,
    unique: u64,
    notices: usize,
    events: usize,
    /// Commands are refused for load, but for those that give something back.
    pub(super) is_loaded: bool,
}

#[derive(Default)]
struct Mirror {
    states: BTreeMap<Key, NoticeState>,
    /// Each with the token it knows of.
    awaiting: Vec<(Key, u64, Completer<NoticeState>)>,
    ending: Vec<(Key, Completer<NoticeState>)>,
}

impl Far {
    /// Delivers what the world has told since.
    pub(super) fn deliver(&mut self) {
        for notice in &self.world.seen.notices[self.notices..] {
            let mirror = self.mirrors.entry(notice.session.0).or_default();
            let key = (notice.resource, notice.waiter);
            match notice.state.is_final() {
                true => mirror.states.remove(&key),
                false => mirror.states.insert(key, notice.state),
            };
            if notice.state.is_final() {
                for (_, completer) in mirror.ending.extract_if(.., |(ended, _)| *ended == key) {
                    completer.complete(Ok(notice.state));
                }
            }
            let awaited = mirror.awaiting.extract_if(.., |(awaited, seen, _)| {
                *awaited == key && notice.state.is_news(*seen)
            });
            awaited.for_each(|(_, _, completer)| completer.complete(Ok(notice.state)));
        }
        self.notices = self.world.seen.notices.len();
        for (index, event) in &self.world.seen.events[self.events..] {
            for (resource, filter, feed) in &self.feeds {
                if *resource == event.resource && event.passes(filter) {
                    let (index, ordinal, kind) = (Index(*index), event.ordinal, event.kind);
                    feed.push(Delivery::Event { index, ordinal, kind, payload: event.payload() });
                }
            }
        }
        self.events = self.world.seen.events.len();
    }
}

impl Far {
    /// Delivers the events that are kept after a position.
    fn deliver_kept(&self, resource: ResourceId, after: (Index, u32), filter: &[u8], feed: &Feed) {
        let events = match self.world.machine.events(resource, after, filter) {
            Events::Some(events) => events,
            Events::Lagged { oldest } => {
                feed.push(Delivery::Lagged { oldest });
                match self.world.machine.events(resource, (oldest.prev(), u32::MAX), filter) {
                    Events::Some(events) => events,
                    Events::Lagged { .. } | Events::Gone => Vec::new(),
                }
            }
            Events::Gone => Vec::new(),
        };
        for (index, event) in events {
            let (ordinal, kind, payload) = (event.ordinal, event.kind, event.payload());
            feed.push(Delivery::Event { index, ordinal, kind, payload });
        }
    }
}

#[derive(Clone)]
pub(super) struct Near {
    far: Arc<Mutex<Far>>,
    pub(super) session: u64,
    lasts: bool,
}

impl Near {
    pub(super) fn pair() -> (Near, Near) {
        let mut world = World::new();
        let (one, two) = (world.register(1), world.register(2));
        let first = Near::over(world, one);
        let second = Near { session: two, ..first.clone() };
        (first, second)
    }

    /// One session of a world that is there already.
    pub(super) fn over(world: World, session: u64) -> Near {
        let far = Far {
            world,
            mirrors: BTreeMap::new(),
            held: None,
            feeds: Vec::new(),
            unique: 0,
            notices: 0,
            events: 0,
            is_loaded: false,
        };
        Near { far: Arc::new(Mutex::new(far)), session, lasts: false }
    }

    pub(super) fn far(&self) -> MutexGuard<'_, Far> {
        self.far.lock().unwrap()
    }

    pub(super) fn hold(&self) {
        self.far().held = Some(Vec::new());
    }

    pub(super) fn let_go(&self) {
        let held = self.far().held.take().unwrap();
        held.into_iter().for_each(|(completer, answer)| completer.complete(Ok(answer)));
    }

    /// The session ends, and its last notices are told.
    pub(super) fn end(&self, kind: u8) {
        let mut far = self.far();
        far.world.end(kind, self.session);
        far.deliver();
    }

    /// Another connection: the mirror is replaced by what is listed.
    pub(super) fn attach(&self) {
        let mut far = self.far();
        let mut listed = Vec::new();
        far.world.machine.holdings(SessionId(self.session), &mut listed);
        let mirror = far.mirrors.entry(self.session).or_default();
        mirror.states =
            listed.iter().map(|notice| ((notice.resource, notice.waiter), notice.state)).collect();
    }

    pub(super) fn holder(&self, id: ResourceId) -> Option<u64> {
        let payload = self.far().world.query(self.session, id.0, &HolderV1 {}).payload;
        (payload[0] == 1).then(|| u64::from_le_bytes(payload[1..9].try_into().unwrap()))
    }
}

impl Submit for Near {
    fn command(
        &self,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        let mut far = self.far();
        if far.is_loaded && !self.lasts {
            return Reply::ready(Err(Failure::from(Code::OVERLOADED)));
        }
        let session = self.session;
        let known = far.world.machine.sessions().get(SessionId(session));
        let Some(sequence) = known.map(|known| known.last_sequence().0 + 1) else {
            return Reply::ready(Err(Failure::from(Code::SESSION_EXPIRED)));
        };
        let logged = crate::machine::Logged {
            kind,
            schema,
            resource: resource.0,
            session,
            sequence,
            acked: 0,
            payload,
        };
        let told = far.world.send(logged);
        far.deliver();
        let answer = Answer { code: told.code, index: Index(told.index), payload: told.payload };
        let (completer, reply) = Reply::channel();
        match &mut far.held {
            Some(held) => held.push((completer, answer)),
            None => completer.complete(Ok(answer)),
        }
        reply
    }

    fn lasting(&self) -> Near {
        Near { lasts: true, ..self.clone() }
    }

    fn query(
        &self,
        _level: Level,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        let far = self.far();
        let (index, time) = (far.world.machine.applied(), far.world.machine.time());
        let session = SessionId(self.session);
        let payload = &payload;
        let query = Query { index, time, session, kind, schema, resource, payload };
        let mut effects = Effects::new();
        far.world.machine.query(&query, &mut effects);
        Reply::ready(Ok(Answer { code: effects.code, index, payload: effects.reply }))
    }

    fn await_token(&self, resource: ResourceId, waiter: Index, seen: u64) -> Reply<NoticeState> {
        let mut far = self.far();
        let mirror = far.mirrors.entry(self.session).or_default();
        match mirror.states.get(&(resource, waiter)) {
            None => Reply::ready(Ok(NoticeState::TimedOut)),
            Some(state) if !state.is_news(seen) => {
                let (completer, reply) = Reply::channel();
                mirror.awaiting.push(((resource, waiter), seen, completer));
                reply
            }
            Some(state) => Reply::ready(Ok(*state)),
        }
    }

    fn await_end(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState> {
        let mut far = self.far();
        let mirror = far.mirrors.entry(self.session).or_default();
        if !mirror.states.contains_key(&(resource, waiter)) {
            return Reply::ready(Ok(NoticeState::Lost));
        }
        let (completer, reply) = Reply::channel();
        mirror.ending.push(((resource, waiter), completer));
        reply
    }

    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> Subscription {
        let (feed, subscription) = Subscription::channel();
        let mut bytes = Vec::new();
        filter.encode(&mut bytes);
        let mut far = self.far();
        if let Some(after) = after {
            far.deliver_kept(resource, after, &bytes, &feed);
        }
        far.feeds.push((resource, bytes, feed));
        subscription
    }

    fn unique(&self) -> u64 {
        let mut far = self.far();
        far.unique += 1;
        far.unique
    }
}

pub(super) fn poll<T>(reply: &mut Reply<T>) -> Poll<Result<T, Failure>> {
    Pin::new(reply).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_value_handle() {
    let (near, _) = Near::pair();
    let value = Value::open(near, "mode").wait().unwrap();
    let mut watch = value.watch(None);
    assert_eq!(value.get().wait().unwrap(), None);
    assert!(matches!(value.compare_and_set(None, b"a").wait().unwrap(), Swap::Done(_)));
    let version = value.set(b"b").wait().unwrap();
    let conflict = value.compare_version_and_set(Index::ZERO, b"c").wait().unwrap();
    let Swap::Conflict(Some(found)) = conflict else { panic!("{conflict:?}") };
    assert_eq!((&found.value[..], found.version), (&b"b"[..], version));
    assert_eq!(value.get_and_set(b"d").wait().unwrap(), Some(found));
    assert!(value.delete().wait().unwrap() && !value.delete().wait().unwrap());
    let mut told = Vec::new();
    while let Some(event) = watch.try_next() {
        told.push(match event.unwrap() {
            ValueEvent::Changed { new, old } => (Some(new.value), old),
            ValueEvent::Removed { old, .. } => (None, Some(old)),
            other => panic!("{other:?}"),
        });
    }
    let some = |text: &[u8]| Some(text.to_vec());
    let expected = [
        (some(b"a"), None),
        (some(b"b"), some(b"a")),
        (some(b"d"), some(b"b")),
        (None, some(b"d")),
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_counter_handle() {
    let (near, _) = Near::pair();
    let counter = Counter::open(near, "hits").wait().unwrap();
    assert_eq!(counter.increment().wait().unwrap(), 1);
    assert_eq!(counter.get_and_add(4).wait().unwrap(), 1);
    assert_eq!(counter.add_and_get(5).wait().unwrap(), 10);
    assert_eq!(counter.decrement().wait().unwrap(), 9);
    assert_eq!(counter.compare_and_set(1, 2).wait().unwrap(), Swap::Conflict(9));
    assert!(matches!(counter.compare_and_set(9, i64::MAX).wait().unwrap(), Swap::Done(_)));
    let failure = counter.increment().wait().unwrap_err();
    assert_eq!((failure.code, failure.outcome()), (Code::OVERFLOW, Outcome::NotApplied));
    assert_eq!(counter.set(3).wait().unwrap(), i64::MAX);
    assert_eq!(counter.get().wait().unwrap(), 3);
}

#[test]
fn the_map_handle() {
    let (near, _) = Near::pair();
    let map = Map::open(near, "users").wait().unwrap();
    let mut watch = map.watch(None, Filter::Key(b"k".to_vec()));
    let version = map.put(b"k", b"1").wait().unwrap();
    map.put(b"other", b"1").wait().unwrap();
    assert!(matches!(map.put_if_absent(b"k", b"2").wait().unwrap(), Swap::Conflict(Some(_))));
    assert!(matches!(map.replace_version(b"k", version, b"2").wait().unwrap(), Swap::Done(_)));
    assert!(matches!(map.replace_if(b"k", b"2", b"3").wait().unwrap(), Swap::Done(_)));
    assert_eq!(map.replace(b"none", b"1").wait().unwrap(), None);
    assert_eq!(map.get_and_put(b"k", b"4").wait().unwrap().unwrap().value, b"3");
    assert_eq!(map.get(b"k").wait().unwrap().unwrap().value, b"4");
    assert_eq!(map.get_or_default(b"none", b"x").wait().unwrap(), b"x");
    assert!(map.contains_key(b"k").wait().unwrap() && !map.is_empty().wait().unwrap());
    assert!(matches!(map.remove_version(b"k", version).wait().unwrap(), Swap::Conflict(_)));
    assert!(matches!(map.remove_if(b"k", b"4").wait().unwrap(), Swap::Done(_)));
    assert!(!map.remove(b"k").wait().unwrap());
    assert_eq!(map.get_and_remove(b"other").wait().unwrap().unwrap().value, b"1");
    for key in ["a", "b", "c"] {
        map.put(key.as_bytes(), key.as_bytes()).wait().unwrap();
    }
    let page = map.keys(MapRange { limit: 2, ..MapRange::default() }).wait().unwrap();
    assert!(page.entries.iter().all(|entry| entry.value.is_none()));
    let after = page.next;
    assert_eq!(after.as_deref(), Some(&b"b"[..]));
    let rest = map.entries(MapRange { after, ..MapRange::default() }).wait().unwrap();
    assert_eq!((rest.entries.len(), &rest.next), (1, &None));
    assert_eq!(rest.into_values().collect::<Vec<_>>(), [b"c"]);
    map.clear().wait().unwrap();
    assert_eq!(map.size().wait().unwrap(), 0);
    let mut kinds = String::new();
    while let Some(event) = watch.try_next() {
        kinds.push(match event.unwrap() {
            MapEvent::Put { .. } => 'p',
            MapEvent::Removed { .. } => 'r',
            MapEvent::Cleared => 'c',
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, "pppprc");
}

#[test]
fn a_map_is_read_in_order_and_in_parts() {
    let (near, _) = Near::pair();
    let map = Map::open(near, "users").wait().unwrap();
    for key in ["b", "d", "f"] {
        map.put(key.as_bytes(), key.to_uppercase().as_bytes()).wait().unwrap();
    }
    let key = |reply: Reply<Option<MapEntry>>| reply.wait().unwrap().map(|entry| entry.key);
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!((key(map.first()), key(map.last())), (some("b"), some("f")));
    assert_eq!((key(map.floor(b"d")), key(map.floor(b"c"))), (some("d"), some("b")));
    assert_eq!((key(map.ceiling(b"d")), key(map.ceiling(b"e"))), (some("d"), some("f")));
    assert_eq!((key(map.lower(b"d")), key(map.higher(b"d"))), (some("b"), some("f")));
    assert_eq!((key(map.floor(b"a")), key(map.higher(b"f"))), (None, None));
    let (from, to) = (some("b"), some("f"));
    let range = MapRange { from, to, descending: true, limit: 1, ..MapRange::default() };
    let page = map.entries(range.clone()).wait().unwrap();
    assert_eq!((&page.entries[0].key[..], &page.next), (&b"d"[..], &some("d")));
    let page = map.entries(MapRange { after: page.next, ..range }).wait().unwrap();
    assert_eq!((&page.entries[0].key[..], &page.next), (&b"b"[..], &None));
    let empty = MapRange { from: some("x"), to: some("c"), ..MapRange::default() };
    assert_eq!(map.keys(empty).wait().unwrap().entries, []);
    let many = map.get_many(&["f", "none", "b"]).wait().unwrap();
    let many: Vec<_> = many.into_iter().map(|found| found.map(|found| found.value)).collect();
    assert_eq!(many, [some("F"), None, some("B")]);
    assert!(map.contains_value(b"D").wait().unwrap());
    assert!(!map.contains_value(b"d").wait().unwrap());
    assert_eq!((key(map.poll_last()), key(map.poll_first())), (some("f"), some("b")));
    assert_eq!((key(map.poll_last()), key(map.poll_last())), (some("d"), None));
}

#[test]
fn many_and_large_values_are_read_in_several_answers() {
    let (near, _) = Near::pair();
    let map = Map::open(near, "large").wait().unwrap();
    let keys: Vec<Vec<u8>> = (0..2_500_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for key in &keys[..4] {
        map.put(key, &vec![7; 700 << 10]).wait().unwrap();
    }
    let many = map.get_many(&keys).wait().unwrap();
    assert_eq!((many.len(), many.iter().flatten().count()), (2_500, 4));
}

#[test]
fn loops_go_on_until_nobody_was_faster() {
    let (one, two) = Near::pair();
    let map = Map::open(one.clone(), "m").wait().unwrap();
    let value = Value::open(one, "v").wait().unwrap();
    let (other_map, other_value) = (Map::new(two.clone(), map.id()), Value::new(two, value.id()));
    let mut seen = Vec::new();
    let plus = |old: Option<&[u8]>| old.map_or(1, |old| old[0] + 1);
    // While this one thinks, another writes: twice.
    let computed = map.compute(b"k", move |old| {
        seen.push(old.map(<[u8]>::to_vec));
        if seen.len() < 3 {
            other_map.put(b"k", &[10 * seen.len() as u8]).wait().unwrap();
        }
        Some(vec![plus(old)])
    });
    assert_eq!(computed.wait().unwrap().unwrap().value, [21]);
    let mut tries = 0;
    let updated = value.update(move |old| {
        tries += 1;
        if tries == 1 {
            other_value.set(&[5]).wait().unwrap();
        }
        vec![plus(old)]
    });
    assert_eq!(updated.wait().unwrap().value, [6]);
    assert_eq!(map.compute(b"k", |_| None).wait().unwrap(), None);
    assert!(!map.contains_key(b"k").wait().unwrap());
    assert_eq!(map.compute(b"k", |_| None).wait().unwrap(), None);
}

#[test]
fn what_ends_by_itself_says_why() {
    let (near, other) = Near::pair();
    let map = Map::open(near.clone(), "leases").wait().unwrap();
    let mut watch = map.watch(None, Filter::All);
    map.clone().with_ttl(Duration::from_micros(1_001)).put(b"timed", b"1").wait().unwrap();
    Map::new(other.clone(), map.id()).ephemeral().put(b"owned", b"2").wait().unwrap();
    let failure = map.clone().with_ttl(Duration::ZERO).put(b"never", b"3").wait().unwrap_err();
    assert_eq!(failure.code, Code::BAD_TIME, "no time at all is no time");
    {
        let mut far = near.far();
        far.world.tick(Micros::from_millis(1));
        assert_eq!(far.world.seen.events.len(), 2, "parts of a millisecond count as one");
        far.world.tick(Micros::from_millis(1));
        far.world.end(kind::EXPIRE, other.session);
        far.deliver();
    }
    let mut reasons = Vec::new();
    while let Some(event) = watch.try_next() {
        if let MapEvent::Removed { key, why, version, .. } = event.unwrap() {
            assert!(version > Index(5));
            reasons.push((String::from_utf8(key).unwrap(), why));
        }
    }
    let expected =
        [("timed".to_owned(), Removal::Expired), ("owned".to_owned(), Removal::SessionEnded)];
    assert_eq!(reasons, expected);
}

#[test]
fn ids_are_reserved_per_client_and_never_given_out_twice() {
    let (one, two) = Near::pair();
    let first = IdGenerator::open(one.clone(), "ids").wait().unwrap().with_batch(3);
    let second = IdGenerator::open(two, "ids").wait().unwrap();
    let ids = |generator: &IdGenerator<Near>, count: usize| -> Vec<i64> {
        (0..count).map(|_| generator.next_id().wait().unwrap()).collect()
    };
    assert_eq!(ids(&first, 2), [1, 2]);
    assert_eq!(ids(&second, 2), [4, 5]);
    assert_eq!(ids(&first.clone(), 3), [3, 1_004, 1_005], "clones share");
    let counter = Counter::new(one, first.id());
    counter.set(i64::MAX - 3).wait().unwrap();
    assert_eq!(ids(&first, 1), [1_006]);
    assert_eq!(ids(&first, 3), [i64::MAX - 2, i64::MAX - 1, i64::MAX]);
    assert_eq!(first.next_id().wait().unwrap_err().code, Code::OVERFLOW);
}

#[test]
fn the_directory_handle() {
    let (near, _) = Near::pair();
    let directory = Directory::new(near);
    let id = directory.open("a", kind::MAP, &[]).wait().unwrap();
    assert_eq!(directory.find("a", 0).wait().unwrap().unwrap().id, id);
    assert_eq!(directory.find("b", 0).wait().unwrap(), None);
    let failure = directory.open("a", kind::LOCK, &[]).wait().unwrap_err();
    assert_eq!(failure.to_string().lines().count(), 1);
    assert_eq!(failure.text, "a is a map, not a lock");
    directory.open("b", kind::LOCK, &[]).wait().unwrap();
    let page = directory.list("", 0, "", 1).wait().unwrap();
    assert_eq!((page.resources[0].name.as_str(), page.next.as_deref()), ("a", Some("a")));
    let page = directory.list("", 0, "a", 1).wait().unwrap();
    assert_eq!((page.resources[0].name.as_str(), page.next), ("b", None));
    assert!(directory.delete(id).wait().unwrap() && !directory.delete(id).wait().unwrap());
}

#[test]
fn a_lock_passes_from_guard_to_guard() {
    let (one, two) = Near::pair();
    let first = Lock::open(one.clone(), "l").wait().unwrap();
    let second = Lock::open(two.clone(), "l").wait().unwrap();
    let guard = first.lock().wait().unwrap();
    assert!(second.try_lock().wait().unwrap().is_none());
    let mut waiting = second.lock();
    let mut same_session = first.lock();
    assert!(poll(&mut waiting).is_pending() && poll(&mut same_session).is_pending());
    assert_eq!(first.holder().wait().unwrap().unwrap().waiting, 2);
    let token = guard.token();
    guard.unlock().wait().unwrap();
    let Poll::Ready(Ok(next)) = poll(&mut waiting) else { panic!("its turn has come") };
    assert!(next.token() > token);
    drop(next);
    let last = same_session.wait().unwrap();
    assert_eq!(first.holder().wait().unwrap().unwrap().token, last.token());
    let token = last.keep();
    assert_eq!(two.holder(first.id()), Some(one.session));
    first.unlock(token).wait().unwrap();
    assert_eq!(two.holder(first.id()), None);
    let failure = first.unlock(token).wait().unwrap_err();
    assert_eq!(failure.code, Code::NOT_HOLDER);
}

#[test]
fn a_wait_that_times_out_is_no_failure() {
    let (one, two) = Near::pair();
    let first = Lock::open(one.clone(), "l").wait().unwrap();
    let second = Lock::open(two, "l").wait().unwrap();
    let guard = first.lock().wait().unwrap();
    let mut waiting = second.lock_within(Duration::from_micros(1_001));
    assert!(poll(&mut waiting).is_pending());
    let pass = |ms| {
        let mut far = one.far();
        far.world.tick(Micros::from_millis(ms));
        far.deliver();
    };
    pass(1);
    assert!(poll(&mut waiting).is_pending(), "parts of a millisecond count as one");
    pass(1);
    assert!(waiting.wait().unwrap().is_none());
    drop(guard);
    assert_eq!(one.holder(first.id()), None, "a wait that is over is not granted");
}

#[test]
fn a_grant_that_comes_before_the_reply_is_not_missed() {
    let (one, two) = Near::pair();
    let first = Lock::open(one.clone(), "l").wait().unwrap();
    let second = Lock::open(two.clone(), "l").wait().unwrap();
    let guard = first.lock().wait().unwrap();
    two.hold();
    let mut waiting = second.lock();
    assert!(poll(&mut waiting).is_pending());
    drop(guard);
    assert_eq!(two.holder(first.id()), Some(two.session), "granted, and nobody knows yet");
    two.let_go();
    assert!(matches!(poll(&mut waiting), Poll::Ready(Ok(_))));
}

#[test]
fn a_grant_that_is_only_listed_at_attach_is_not_missed() {
    let (one, two) = Near::pair();
    let first = Lock::open(one.clone(), "l").wait().unwrap();
    let second = Lock::open(two.clone(), "l").wait().unwrap();
    let guard = first.lock().wait().unwrap();
    two.hold();
    let mut waiting = second.lock();
    assert!(poll(&mut waiting).is_pending());
    drop(guard);
    two.far().mirrors.clear();
    two.attach();
    two.let_go();
    assert!(matches!(poll(&mut waiting), Poll::Ready(Ok(_))));
}

#[test]
fn a_request_that_is_dropped_is_taken_back_whatever_has_become_of_it() {
    for (held, reply_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let (one, two) = Near::pair();
        let first = Lock::open(one.clone(), "l").wait().unwrap();
        let second = Lock::open(two.clone(), "l").wait().unwrap();
        let guard = held.then(|| first.lock().wait().unwrap());
        if !reply_first {
            two.hold();
        }
        let mut waiting = second.lock();
        if held || !reply_first {
            assert!(poll(&mut waiting).is_pending());
        }
        drop(waiting);
        if !reply_first {
            two.let_go();
        }
        let waiters = first.holder().wait().unwrap().map_or(0, |holder| holder.waiting);
        assert_eq!(waiters, 0);
        drop(guard);
        assert_eq!(one.holder(first.id()), None, "held {held}, reply first {reply_first}");
    }
}

#[test]
fn a_session_that_ends_loses_its_lock_and_drops_are_harmless() {
    let (one, two) = Near::pair();
    let first = Lock::open(one.clone(), "l").wait().unwrap();
    let second = Lock::open(two.clone(), "l").wait().unwrap();
    let guard = first.lock().wait().unwrap();
    let mut waiting = second.lock();
    assert!(poll(&mut waiting).is_pending());
    one.end(kind::EXPIRE);
    let next = waiting.wait().unwrap();
    assert!(next.token() > guard.token());
    drop(guard);
    assert_eq!(two.holder(second.id()), Some(two.session), "the late release does no harm");
    assert_eq!(first.lock().wait().err().unwrap().code, Code::SESSION_EXPIRED);
}

#[test]
fn replies_cross_threads_and_end_with_their_completer() {
    let (completer, reply) = Reply::channel();
    let waiter = std::thread::spawn(move || reply.wait());
    completer.complete(Ok(7));
    assert_eq!(waiter.join().unwrap().unwrap(), 7);
    let (completer, reply) = Reply::<()>::channel();
    let waiter = std::thread::spawn(move || reply.wait());
    drop(completer);
    assert_eq!(waiter.join().unwrap().unwrap_err().code, Code::CLIENT_CLOSED);
    let (completer, reply) = Reply::<()>::channel();
    assert!(!completer.is_abandoned());
    drop(reply);
    assert!(completer.is_abandoned());
}

#[test]
fn a_reader_that_is_slow_has_lagged() {
    let (feed, mut subscription) = Subscription::channel();
    let event = |index, size| {
        let (index, payload) = (Index(index), vec![7; size]);
        Delivery::Event { index, ordinal: 0, kind: 1, payload }
    };
    // So many of them, or so large.
    for (last, size) in [(4_097, 0), (17, 1 << 20)] {
        for round in 0..3 {
            (1..=last).for_each(|index| feed.push(event(index, size)));
            let lagged = Delivery::Lagged { oldest: Index(last) };
            assert_eq!(subscription.wait_next(), Ok(lagged), "round {round}");
            assert_eq!(subscription.try_next(), Some(event(last, size)));
            assert_eq!(subscription.try_next(), None);
        }
    }
    feed.end(Failure::from(Code::SESSION_EXPIRED));
    assert_eq!(subscription.wait_next().unwrap_err().code, Code::SESSION_EXPIRED);
}
