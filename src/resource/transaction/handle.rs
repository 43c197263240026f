//! Transactions as applications put them together.

use super::{
    CHECK_FAILED, COMMITTED, CommitV1, EQUAL, Encode, GREATER, LESS, NOT_EQUAL, REFUSED, Reader,
};
use crate::machine::{Code, ResourceId};
use crate::resource::handle::{Handle, command};
use crate::resource::{Answer, Counter, Failure, Map, Reply, Submit, Value, counter, map, value};
use margay_log::id::{GroupId, Index};

/// Checks and commands that are to take effect together: at most
/// [`OPERATIONS_MAX`](super::OPERATIONS_MAX) of them, with at most 1 MiB of values in all.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use margay::resource::transaction::{Outcome, Transaction};
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let (ada, bob) = (client.counter("ada@1").wait()?, client.counter("bob@1").wait()?);
/// let moved = Transaction::new().at_least(&ada, 30).add(&ada, -30).add(&bob, 30).commit().wait()?;
/// assert!(matches!(moved, Outcome::Committed(_)), "ada has less than 30");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Transaction<S> {
    commit: CommitV1,
    /// Which check each query in `commit` is for: some take two.
    check_of: Vec<usize>,
    /// Where each resource lives, by what it is called.
    places: Vec<(GroupId, String)>,
    submit: Option<S>,
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it was done.
    Committed(Committed),
    /// Nothing was done: a check failed.
    CheckFailed {
        /// Its number, from 0, in the order in which they were added.
        check: usize,
        /// What its query answered.
        answer: Vec<u8>,
    },
    /// Nothing was done: a command was refused.
    Refused {
        /// Its number, from 0, in the order in which they were added.
        command: usize,
        /// Why.
        code: Code,
        /// More about it, for people; may be empty.
        text: String,
    },
}

/// A transaction that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Where it took effect: the version of everything it wrote.
    pub index: Index,
    /// The replies of its commands, in order, as each type of resource encodes them.
    pub replies: Vec<Vec<u8>>,
}

impl<S: Submit> Default for Transaction<S> {
    fn default() -> Transaction<S> {
        Transaction::new()
    }
}

impl<S: Submit> Transaction<S> {
    /// Nothing to check, nothing to do.
    #[must_use]
    pub fn new() -> Transaction<S> {
        let commit = CommitV1::default();
        Transaction { commit, check_of: Vec::new(), places: Vec::new(), submit: None }
    }

    /// Only if the value is this; `None` for not set.
    #[must_use]
    pub fn value_is(self, value: &Value<S>, expected: Option<&[u8]>) -> Transaction<S> {
        self.versioned_is(value.handle(), &value::GetV1 {}, expected)
    }

    /// Only if the value has this version; `Index::ZERO` for not set.
    #[must_use]
    pub fn value_version(self, value: &Value<S>, version: Index) -> Transaction<S> {
        let version = version.0.to_le_bytes();
        self.check(value.handle(), &value::GetV1 {}, Expect::begins(EQUAL, &version))
    }

    /// Only if the key has this value; `None` for no such key.
    #[must_use]
    pub fn entry_is(self, map: &Map<S>, key: &[u8], expected: Option<&[u8]>) -> Transaction<S> {
        self.versioned_is(map.handle(), &map::GetV1 { key: key.to_vec() }, expected)
    }

    /// Only if the key's value has this version; `Index::ZERO` for no such key.
    #[must_use]
    pub fn entry_version(self, map: &Map<S>, key: &[u8], version: Index) -> Transaction<S> {
        let (get, version) = (map::GetV1 { key: key.to_vec() }, version.0.to_le_bytes());
        self.check(map.handle(), &get, Expect::begins(EQUAL, &version))
    }

    /// Only if the map has the key, whatever its value.
    #[must_use]
    pub fn entry_exists(self, map: &Map<S>, key: &[u8]) -> Transaction<S> {
        let get = map::GetV1 { key: key.to_vec() };
        self.check(map.handle(), &get, Expect::begins(NOT_EQUAL, &[0; 8]))
    }

    /// Only if the counter has this value.
    #[must_use]
    pub fn counter_is(self, counter: &Counter<S>, expected: i64) -> Transaction<S> {
        self.counter_check(counter, EQUAL, expected)
    }

    /// Only if the counter has at least this value.
    #[must_use]
    pub fn at_least(self, counter: &Counter<S>, least: i64) -> Transaction<S> {
        match least.checked_sub(1) {
            Some(below) => self.counter_check(counter, GREATER, below),
            None => self.check(counter.handle(), &counter::GetV1 {}, Expect::anything()),
        }
    }

    /// Only if the counter has at most this value.
    #[must_use]
    pub fn at_most(self, counter: &Counter<S>, most: i64) -> Transaction<S> {
        match most.checked_add(1) {
            Some(above) => self.counter_check(counter, LESS, above),
            None => self.check(counter.handle(), &counter::GetV1 {}, Expect::anything()),
        }
    }

    /// Sets a value.
    #[must_use]
    pub fn set(self, value: &Value<S>, to: &[u8]) -> Transaction<S> {
        let set = value::SetV1 { value: to.to_vec(), ephemeral: false, ttl_ms: 0 };
        self.command(value.handle(), &set)
    }

    /// Deletes a value.
    #[must_use]
    pub fn unset(self, value: &Value<S>) -> Transaction<S> {
        self.command(value.handle(), &value::DeleteV1 {})
    }

    /// Sets the value of a key.
    #[must_use]
    pub fn put(self, map: &Map<S>, key: &[u8], value: &[u8]) -> Transaction<S> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let put = map::PutV1 { key, value, previous: false, ephemeral: false, ttl_ms: 0 };
        self.command(map.handle(), &put)
    }

    /// Removes a key.
    #[must_use]
    pub fn remove(self, map: &Map<S>, key: &[u8]) -> Transaction<S> {
        self.command(map.handle(), &map::RemoveV1 { key: key.to_vec(), previous: false })
    }

    /// Adds to a counter. Where that overflows, nothing is done at all.
    #[must_use]
    pub fn add(self, counter: &Counter<S>, delta: i64) -> Transaction<S> {
        self.command(counter.handle(), &counter::AddV1 { delta })
    }

    /// Any command of any type of resource. One that is conditional by itself, and whose condition
    /// does not hold, is done all the same: say the condition as a check.
    #[must_use]
    pub fn command<O: Encode>(self, handle: &Handle<S>, operation: &O) -> Transaction<S> {
        self.command_bytes(handle, O::KIND, O::SCHEMA, operation.encode())
    }

    /// A command in bytes of its type's own.
    #[must_use]
    pub fn command_bytes(
        mut self,
        handle: &Handle<S>,
        kind: u8,
        schema: u16,
        payload: Vec<u8>,
    ) -> Transaction<S> {
        self.visit(handle);
        self.commit.kinds.push(kind);
        self.commit.schemas.push(schema);
        self.commit.resources.push(handle.id().0);
        self.commit.payloads.push(payload);
        self
    }

    /// Only if a query of any type of resource answers as expected. A query that is refused fails
    /// the check.
    #[must_use]
    pub fn check<O: Encode>(self, handle: &Handle<S>, query: &O, expect: Expect) -> Transaction<S> {
        let number = self.check_of.last().map_or(0, |last| last + 1);
        self.check_part(number, handle, query, expect)
    }

    /// More of the last check: it holds only if this does, too.
    pub(super) fn and<O: Encode>(
        self,
        handle: &Handle<S>,
        query: &O,
        expect: Expect,
    ) -> Transaction<S> {
        let number = self.check_of.last().copied().unwrap_or(0);
        self.check_part(number, handle, query, expect)
    }

    fn check_part<O: Encode>(
        mut self,
        number: usize,
        handle: &Handle<S>,
        query: &O,
        expect: Expect,
    ) -> Transaction<S> {
        self.visit(handle);
        self.check_of.push(number);
        let commit = &mut self.commit;
        commit.check_kinds.push(O::KIND);
        commit.check_schemas.push(O::SCHEMA);
        commit.check_resources.push(handle.id().0);
        commit.check_payloads.push(query.encode());
        commit.check_relations.push(expect.relation);
        commit.check_offsets.push(expect.offset);
        commit.check_to_end.push(expect.to_end);
        commit.check_expected.push(expect.expected);
        self
    }

    /// An answer of a version, 0 for none, and the value to its end.
    pub(super) fn versioned_is<O: Encode>(
        self,
        handle: &Handle<S>,
        query: &O,
        expected: Option<&[u8]>,
    ) -> Transaction<S> {
        match expected {
            None => self.check(handle, query, Expect::begins(EQUAL, &[0; 8])),
            Some(expected) => {
                let is_set = Expect::begins(NOT_EQUAL, &[0; 8]);
                let value = Expect::is(expected).behind(8);
                self.check(handle, query, is_set).and(handle, query, value)
            }
        }
    }

    fn counter_check(self, counter: &Counter<S>, relation: u8, with: i64) -> Transaction<S> {
        let expect = Expect::begins(relation, &with.to_le_bytes());
        self.check(counter.handle(), &counter::GetV1 {}, expect)
    }

    fn visit(&mut self, handle: &Handle<S>) {
        let place = (handle.submit().group(), handle.called());
        if !self.places.contains(&place) {
            self.places.push(place);
        }
        self.submit.get_or_insert_with(|| handle.submit().clone());
    }

    /// Checks and does it. A check that fails is an [`Outcome`], not a failure.
    pub fn commit(self) -> Reply<Outcome> {
        let Some(submit) = &self.submit else {
            let text = "a transaction without checks and commands";
            return Reply::ready(Err(Failure::new(Code::TOO_MANY_OPERATIONS, text)));
        };
        if let Err(failure) = one_group(&self.places) {
            return Reply::ready(Err(failure));
        }
        let done = command(submit, ResourceId::REGISTRY, &self.commit);
        let check_of = self.check_of;
        done.and_then(move |answer| Ok(read_outcome(&answer, &check_of)?))
    }
}

/// A transaction is one entry of one group's log: whether the resources of these names are together
/// in a group, so that there can be one.
///
/// # Errors
/// [`Code::CROSS_GROUP`]; the text says where each is, and how names look that are together.
pub fn one_group(places: &[(GroupId, String)]) -> Result<(), Failure> {
    let Some((first, _)) = places.first() else { return Ok(()) };
    if places.iter().all(|(group, _)| group == first) {
        return Ok(());
    }
    let is_in = |(group, name): &(GroupId, String)| format!("{name} is in group {}", group.0);
    let together = |(_, name): &(GroupId, String)| {
        let stem = name.rsplit_once('@').map_or(&**name, |(stem, _)| stem);
        format!("{stem}@{}", first.0)
    };
    let where_each: Vec<String> = places.iter().map(is_in).collect();
    let together: Vec<String> = places.iter().map(together).collect();
    let text = format!(
        "{}; only names that end in the same @digits are sure to be together, as in {}",
        where_each.join(", "),
        together.join(", ")
    );
    Err(Failure::new(Code::CROSS_GROUP, text))
}

/// What the answer of a check's query must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    relation: u8,
    offset: u32,
    to_end: bool,
    expected: Vec<u8>,
}

impl Expect {
    /// The answer is exactly this.
    #[must_use]
    pub fn is(expected: &[u8]) -> Expect {
        Expect { to_end: true, ..Expect::begins(EQUAL, expected) }
    }

    /// The answer is anything else.
    #[must_use]
    pub fn is_not(expected: &[u8]) -> Expect {
        Expect { to_end: true, ..Expect::begins(NOT_EQUAL, expected) }
    }

    /// There is an answer.
    fn anything() -> Expect {
        Expect::begins(EQUAL, &[])
    }

    /// The same, beginning so many bytes later.
    pub(super) fn behind(self, offset: u32) -> Expect {
        Expect { offset, ..self }
    }

    /// The answer begins in a relation to this.
    pub(super) fn begins(relation: u8, expected: &[u8]) -> Expect {
        Expect { relation, offset: 0, to_end: false, expected: expected.to_vec() }
    }
}

fn read_outcome(answer: &Answer, check_of: &[usize]) -> Result<Outcome, Code> {
    let mut reader = Reader::new(&answer.payload);
    match reader.u8()? {
        COMMITTED => {
            let count = reader.u32()?;
            let replies = (0..count).map(|_| Ok(reader.bytes()?.to_vec()));
            let replies = replies.collect::<Result<_, Code>>()?;
            Ok(Outcome::Committed(Committed { index: answer.index, replies }))
        }
        CHECK_FAILED => {
            let query = reader.u32()? as usize;
            let check = *check_of.get(query).ok_or(Code::BAD_PAYLOAD)?;
            Ok(Outcome::CheckFailed { check, answer: reader.rest().to_vec() })
        }
        REFUSED => {
            let (command, code) = (reader.u32()? as usize, Code(reader.u16()?));
            let text = String::from_utf8_lossy(reader.rest()).into_owned();
            Ok(Outcome::Refused { command, code, text })
        }
        _ => Err(Code::BAD_PAYLOAD),
    }
}
