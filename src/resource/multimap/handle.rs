//! The multimap as applications use it.

use super::{
    ClearV1, ContainsV1, FindValueV1, GetV1, KEY_REMOVED, PageV1, PutV1, RemoveEntryV1,
    RemoveKeyV1, RemoveValueV1, ReplaceV1, SizeV1,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::handle::{Handle, Versioned, read_bool, read_count, read_found};
use crate::resource::registry::DELETED;
use crate::resource::{Delivery, Failure, Reply, Submit, Watch, entries};
use margay_log::id::Index;

/// An ordered map from a key to an ordered set of values, all of them bytes.
///
/// Keys are at most 4 KiB and values 1 MiB, else writing fails with [`Code::KEY_TOO_LARGE`] or
/// [`Code::VALUE_TOO_LARGE`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let roles = client.multimap("roles").wait()?;
/// let is_new = roles.put(b"ada", b"admin").wait()?;
/// let first_page = roles.get(b"ada", None, 0).wait()?;
/// roles.remove_key(b"ada").wait()?;
/// # let _ = (is_new, first_page);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Multimap<S> {
    handle: Handle<S>,
}

/// Part of the values of a key, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValuesPage {
    /// At most [`super::PAGE_MAX`], about [`super::PAGE_BYTES_MAX`].
    pub values: Vec<Versioned>,
    /// Ask for the next page after this value; `None` where this is the last.
    pub next: Option<Vec<u8>>,
}

/// Part of a multimap, in order of keys, then values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultimapPage {
    /// Keys with one of their values each. At most [`super::PAGE_MAX`], about
    /// [`super::PAGE_BYTES_MAX`].
    pub entries: Vec<(Vec<u8>, Versioned)>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// Which part of a multimap to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MultimapRange {
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// The page begins after this entry: the last one of the page before.
    pub after: Option<(Vec<u8>, Vec<u8>)>,
    /// At most so many; 0 for as many as fit.
    pub limit: u32,
}

/// A change of a multimap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultimapEvent {
    /// A key has a value that it had not.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Versioned,
    },
    /// A key has lost a value.
    Removed {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// Where in the log that happened.
        version: Index,
    },
    /// A key has lost all its values.
    KeyRemoved {
        /// The key.
        key: Vec<u8>,
        /// Where in the log that happened.
        version: Index,
    },
    /// All keys were removed.
    Cleared,
    /// The multimap was deleted.
    Deleted,
    /// Changes were missed: read the multimap, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<S: Submit> Multimap<S> {
    /// Opens a multimap by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Multimap<S>> {
        Handle::open(submit, name, kind::MULTIMAP).and_then(|handle| Ok(Multimap { handle }))
    }

    /// The multimap `id`.
    pub fn new(submit: S, id: ResourceId) -> Multimap<S> {
        Multimap { handle: Handle::new(submit, id) }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Multimap<S> {
        Multimap { handle: self.handle.with_level(level) }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Adds a value to a key. Returns whether the key had it not.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Reply<bool> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.handle.command(&PutV1 { key, value }).and_then(read_bool)
    }

    /// Gives a key these values, at most 1,000 and 1 MiB, and no others; none to remove it. Returns
    /// how many it had.
    pub fn replace<V: AsRef<[u8]>>(&self, key: &[u8], values: &[V]) -> Reply<u64> {
        let values = values.iter().map(|value| value.as_ref().to_vec()).collect();
        self.handle.command(&ReplaceV1 { key: key.to_vec(), values }).and_then(read_count)
    }

    /// Removes a value of a key. Returns whether it was there.
    pub fn remove(&self, key: &[u8], value: &[u8]) -> Reply<bool> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.handle.command(&RemoveEntryV1 { key, value }).and_then(read_bool)
    }

    /// Removes all values of a key. Returns how many there were.
    pub fn remove_key(&self, key: &[u8]) -> Reply<u64> {
        self.handle.command(&RemoveKeyV1 { key: key.to_vec() }).and_then(read_count)
    }

    /// Removes a value from all keys that have it: looks at all of them, 1,024 at a time, each of
    /// these parts at once. Returns from how many. Where it fails behind a part that was done, the
    /// outcome is unknown.
    pub fn remove_value(&self, value: &[u8]) -> Reply<u64> {
        self.clone().remove_value_after(value.to_vec(), None, 0)
    }

    fn remove_value_after(
        self,
        value: Vec<u8>,
        after: Option<Vec<u8>>,
        removed: u64,
    ) -> Reply<u64> {
        let remove = RemoveValueV1 { value, after };
        self.handle.command(&remove).then(move |answer| {
            let read = answer.and_then(|answer| {
                let mut reader = Reader::new(&answer.payload);
                let count = reader.u64()?;
                Ok((removed + count, reader.optional()?.map(<[u8]>::to_vec)))
            });
            match read {
                Ok((removed, None)) => Reply::ready(Ok(removed)),
                Ok((removed, next)) => self.remove_value_after(remove.value, next, removed),
                Err(failure) => Reply::ready(Err(failure.behind(removed > 0))),
            }
        })
    }

    /// Removes all keys.
    pub fn clear(&self) -> Reply<()> {
        self.handle.command(&ClearV1 {}).and_then(|_| Ok(()))
    }

    /// A page of the values of a key, in order, after one of them or from the first on; `limit` 0
    /// for as many as fit.
    pub fn get(&self, key: &[u8], after: Option<&[u8]>, limit: u32) -> Reply<ValuesPage> {
        let (key, after) = (key.to_vec(), after.map(<[u8]>::to_vec));
        self.handle.query(&GetV1 { key, after, limit }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let next = reader.optional()?.map(<[u8]>::to_vec);
            let mut values = Vec::new();
            for _ in 0..reader.u32()? {
                let version = Index(reader.u64()?);
                values.push(Versioned { value: reader.bytes()?.to_vec(), version });
            }
            Ok(ValuesPage { values, next })
        })
    }

    /// Whether a key has any value.
    pub fn contains_key(&self, key: &[u8]) -> Reply<bool> {
        self.handle.query(&ContainsV1 { key: key.to_vec(), value: None }).and_then(read_bool)
    }

    /// Whether a key has this value.
    pub fn contains(&self, key: &[u8], value: &[u8]) -> Reply<bool> {
        let (key, value) = (key.to_vec(), Some(value.to_vec()));
        self.handle.query(&ContainsV1 { key, value }).and_then(read_bool)
    }

    /// Whether any key has this value: looks at all of them, 1,024 at a time, each of these parts
    /// as of one moment.
    pub fn contains_value(&self, value: &[u8]) -> Reply<bool> {
        self.clone().find_value(value.to_vec(), None)
    }

    fn find_value(self, value: Vec<u8>, after: Option<Vec<u8>>) -> Reply<bool> {
        let find = FindValueV1 { value, after };
        self.handle.query(&find).then(move |answer| match answer.and_then(read_found) {
            Ok((false, Some(next))) => self.find_value(find.value, Some(next)),
            Ok((found, _)) => Reply::ready(Ok(found)),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    /// The number of entries: values of all keys.
    pub fn size(&self) -> Reply<u64> {
        self.handle.query(&SizeV1 { key: None }).and_then(read_count)
    }

    /// The number of keys.
    pub fn keys_size(&self) -> Reply<u64> {
        self.handle.query(&SizeV1 { key: None }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            reader.u64()?;
            Ok(reader.u64()?)
        })
    }

    /// The number of values of a key.
    pub fn size_of(&self, key: &[u8]) -> Reply<u64> {
        self.handle.query(&SizeV1 { key: Some(key.to_vec()) }).and_then(read_count)
    }

    /// A page of entries.
    pub fn entries(&self, range: MultimapRange) -> Reply<MultimapPage> {
        let MultimapRange { prefix, after, limit } = range;
        let (after_key, after_value) = after.unzip();
        let page = PageV1 { prefix, after_key, after_value, limit };
        self.handle.query(&page).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let more = reader.u8()? != 0;
            let mut entries = Vec::new();
            for _ in 0..reader.u32()? {
                let (key, version) = (reader.bytes()?.to_vec(), Index(reader.u64()?));
                entries.push((key, Versioned { value: reader.bytes()?.to_vec(), version }));
            }
            Ok(MultimapPage { entries, more })
        })
    }

    /// Changes that pass the filter, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>, filter: Filter) -> Watch<MultimapEvent> {
        Watch::new(self.handle.subscribe(after, filter), read_event)
    }
}

pub(in super::super) fn read_event(delivery: Delivery) -> Result<MultimapEvent, Failure> {
    let (version, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(MultimapEvent::Lagged { oldest }),
        Delivery::Event { index: version, kind, payload, .. } => (version, kind, payload),
    };
    let EventPayload { key, new, old } = EventPayload::decode(&payload)?;
    match (kind, key, new, old) {
        (entries::PUT, Some(key), Some(value), _) => {
            Ok(MultimapEvent::Put { key, value: Versioned { value, version } })
        }
        (entries::REMOVED, Some(key), _, Some(value)) => {
            Ok(MultimapEvent::Removed { key, value, version })
        }
        (KEY_REMOVED, Some(key), ..) => Ok(MultimapEvent::KeyRemoved { key, version }),
        (entries::CLEARED, ..) => Ok(MultimapEvent::Cleared),
        (DELETED, ..) => Ok(MultimapEvent::Deleted),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
