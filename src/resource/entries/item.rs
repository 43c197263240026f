//! One entry, its key and its life.

use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, LogTime, Pair, SessionId, Shared};
use crate::resource::handle::thaw_version;
use equivalent::{Comparable, Equivalent};
use margay_log::id::{Index, Micros};
use std::cmp::Ordering;
use std::fmt;

/// What a type of resource keeps with each entry beside its value.
pub(in crate::resource) trait Extra:
    Clone + Default + fmt::Debug + Send + Sync + 'static
{
    /// Appends it as snapshots hold it.
    fn freeze(&self, out: &mut Vec<u8>);

    /// Takes it back.
    fn thaw(reader: &mut Reader<'_>, applied: Index) -> Result<Self, Code>;
}

impl Extra for () {
    fn freeze(&self, _out: &mut Vec<u8>) {}

    fn thaw(_reader: &mut Reader<'_>, _applied: Index) -> Result<(), Code> {
        Ok(())
    }
}

/// How long an entry stays: until the first of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::resource) struct Life {
    /// From this time on it is gone.
    pub due: Option<LogTime>,
    /// It is gone when this session is over.
    pub owner: Option<SessionId>,
}

impl Life {
    /// As a command wishes it: `ttl_ms` 0 for no limit.
    pub(in crate::resource) fn wished(ttl_ms: u64, ephemeral: bool, commit: &Commit<'_>) -> Life {
        Life {
            due: (ttl_ms > 0).then(|| commit.time.after(Micros::from_millis(ttl_ms))),
            owner: ephemeral.then_some(commit.session),
        }
    }
}

/// The first bytes of a key, zeros behind its end: in the order of keys. Most comparisons need no
/// more of an entry, and so not its own memory: in a large state that is cold, and fetching it took
/// a third of the time that writing took.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Head([u64; 2]);

/// Keys up to this length are no longer than their heads.
const HEAD: usize = size_of::<Head>();

impl Head {
    fn of(key: &[u8]) -> Head {
        let mut bytes = [0; HEAD];
        let length = key.len().min(HEAD);
        bytes[..length].copy_from_slice(&key[..length]);
        let all = u128::from_be_bytes(bytes);
        Head([(all >> 64) as u64, all as u64])
    }
}

/// A key to look entries up by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought<'a> {
    head: Head,
    key: &'a [u8],
}

impl<'a> Sought<'a> {
    pub(super) fn new(key: &'a [u8]) -> Sought<'a> {
        Sought { head: Head::of(key), key }
    }

    /// As the keys are ordered, byte by byte.
    fn order(&self, other: &Sought<'_>) -> Ordering {
        self.head.cmp(&other.head).then_with(|| match self.key.len().max(other.key.len()) {
            // What is beyond the shorter one is zeros.
            ..=HEAD => self.key.len().cmp(&other.key.len()),
            _ => self.key.cmp(other.key),
        })
    }
}

impl<T> Equivalent<Held<T>> for Sought<'_> {
    fn equivalent(&self, held: &Held<T>) -> bool {
        self.compare(held) == Ordering::Equal
    }
}

impl<T> Comparable<Held<T>> for Sought<'_> {
    fn compare(&self, held: &Held<T>) -> Ordering {
        self.order(&held.sought())
    }
}

/// An entry. Ordered by its key alone. Key and value share one allocation with the events that
/// tell of them; replacing a value may keep the old one alive inside the tree, for at most one
/// entry in sixteen.
#[derive(Clone, Debug)]
pub(in crate::resource) struct Held<T> {
    head: Head,
    pub pair: Pair,
    pub version: Index,
    /// `None` for good: what most entries have costs them no more than a pointer.
    life: Option<Shared<Life>>,
    pub extra: T,
}

impl<T: Extra> Held<T> {
    pub(in crate::resource) fn new(pair: Pair, version: Index, life: Life, extra: T) -> Held<T> {
        let life = (life != Life::default()).then(|| Shared::new(life));
        Held { head: Head::of(pair.key()), pair, version, life, extra }
    }

    pub(in crate::resource) fn life(&self) -> Life {
        self.bounded_life().unwrap_or_default()
    }

    pub(super) fn bounded_life(&self) -> Option<Life> {
        self.life.as_deref().copied()
    }

    /// Whether its time is over though it is still here.
    pub(super) fn is_due(&self, now: LogTime) -> bool {
        self.life.as_ref().and_then(|life| life.due).is_some_and(|due| due <= now)
    }

    pub(in crate::resource) fn versioned(&self) -> (&[u8], Index) {
        (self.pair.value(), self.version)
    }

    /// Whether it has the value, if one is given, and the version, if that is not 0.
    pub(in crate::resource) fn meets(&self, expected: Option<&[u8]>, version: u64) -> bool {
        expected.is_none_or(|expected| expected == self.pair.value())
            && (version == 0 || version == self.version.0)
    }

    /// Appends version, key, value, life, extra.
    pub(super) fn freeze(&self, out: &mut Vec<u8>) {
        let life = self.life();
        bytes::put_u64(out, self.version.0);
        bytes::put_bytes(out, self.pair.key());
        bytes::put_bytes(out, self.pair.value());
        out.push(u8::from(life.due.is_some()) | u8::from(life.owner.is_some()) << 1);
        if let Some(due) = life.due {
            bytes::put_u64(out, due.0);
        }
        if let Some(owner) = life.owner {
            bytes::put_u64(out, owner.0);
        }
        self.extra.freeze(out);
    }

    pub(super) fn thaw(reader: &mut Reader<'_>, applied: Index) -> Result<Held<T>, Code> {
        let version = thaw_version(reader, applied)?;
        let pair = Pair::new(reader.bytes()?, reader.bytes()?);
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(Code::BAD_PAYLOAD);
        }
        let due = if flags & 1 != 0 { Some(LogTime(reader.u64()?)) } else { None };
        let owner = match flags & 2 {
            0 => None,
            _ => Some(SessionId(thaw_version(reader, applied)?.0)),
        };
        let extra = T::thaw(reader, applied)?;
        Ok(Held::new(pair, version, Life { due, owner }, extra))
    }
}

impl<T> Held<T> {
    fn sought(&self) -> Sought<'_> {
        Sought { head: self.head, key: self.pair.key() }
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Held<T>) -> Ordering {
        self.sought().order(&other.sought())
    }
}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Held<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Held<T>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Held<T> {}

/// The key of an entry, sharing its allocation. The default is the least of all keys.
#[derive(Clone, Debug, Default)]
pub(in crate::resource) struct Key(Option<Pair>);

impl Key {
    pub(super) fn of(pair: &Pair) -> Key {
        Key(Some(pair.clone()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Pair::key)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_order_keys_as_their_bytes_do() {
        let short = [0_u8, 1, 0x7f, 0x80, 0xff];
        let mut keys = vec![Vec::new()];
        for length in [1, 2, 7, 8, 9, 15, 16, 17, 24, 40] {
            for byte in short {
                for last in short {
                    let mut key = vec![byte; length];
                    key[length - 1] = last;
                    keys.push(key);
                }
            }
        }
        for one in &keys {
            let held = Held::new(Pair::new(one, b"value"), Index(1), Life::default(), ());
            for other in &keys {
                assert_eq!(Sought::new(other).compare(&held), other.cmp(one), "{other:?} {one:?}");
                assert_eq!(Sought::new(other).equivalent(&held), other == one);
                let beside = Held::new(Pair::new(other, b""), Index(2), Life::default(), ());
                assert_eq!(held.cmp(&beside), one.cmp(other));
            }
        }
    }
}
