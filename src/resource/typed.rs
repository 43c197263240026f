//! Handles that speak a program's own types instead of bytes.
//!
//! Only a layer: what travels and is stored are the bytes that [`Data`] makes. Integers keep their
//! order, so that a map ordered by its keys' bytes is ordered by the numbers.

use std::marker::PhantomData;

use super::map::{MapEntry, MapRange};
use super::{Failure, Map, Reply, Submit, Swap, Value, Versioned};
use crate::machine::{Code, Outcome};
use margay_log::id::Index;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;

/// A type that is stored as bytes. Programs may implement it for their own types, or wrap them in
/// [`Rkyv`] or, with feature `serde`, in [`Json`].
pub trait Data: Sized + Send + 'static {
    /// The bytes that stand for it.
    fn to_bytes(&self) -> Vec<u8>;

    /// What the bytes stand for.
    ///
    /// # Errors
    /// They are not what [`Data::to_bytes`] makes: somebody else wrote them, or another version.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DataError>;
}

/// Bytes that do not stand for a value of the type they are read as.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what is stored is not {expected}: {why}")]
pub struct DataError {
    /// The type.
    pub expected: &'static str,
    /// What is wrong.
    pub why: String,
}

impl DataError {
    /// Says which type was expected and what is wrong.
    pub fn new<T>(why: impl ToString) -> DataError {
        DataError { expected: std::any::type_name::<T>(), why: why.to_string() }
    }
}

/// The operation itself went well; only its answer cannot be read.
impl From<DataError> for Failure {
    fn from(error: DataError) -> Failure {
        Failure::with_outcome(Code::BAD_PAYLOAD, Outcome::Applied, error.to_string())
    }
}

impl Data for Vec<u8> {
    fn to_bytes(&self) -> Vec<u8> {
        self.clone()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Vec<u8>, DataError> {
        Ok(bytes.to_vec())
    }
}

impl Data for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Result<String, DataError> {
        String::from_utf8(bytes.to_vec()).map_err(DataError::new::<String>)
    }
}

impl Data for bool {
    fn to_bytes(&self) -> Vec<u8> {
        vec![u8::from(*self)]
    }

    fn from_bytes(bytes: &[u8]) -> Result<bool, DataError> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DataError::new::<bool>("neither 0 nor 1")),
        }
    }
}

/// Big-endian, and for signed ones with the sign turned: the order of the bytes is that of the
/// numbers.
macro_rules! integers {
    ($($type:ty, $turn:expr;)*) => {$(
        impl Data for $type {
            fn to_bytes(&self) -> Vec<u8> {
                (*self ^ $turn).to_be_bytes().to_vec()
            }

            fn from_bytes(bytes: &[u8]) -> Result<$type, DataError> {
                let bytes = bytes.try_into().map_err(DataError::new::<$type>)?;
                Ok(<$type>::from_be_bytes(bytes) ^ $turn)
            }
        }
    )*};
}

integers! {
    u8, 0;
    u16, 0;
    u32, 0;
    u64, 0;
    u128, 0;
    i8, i8::MIN;
    i16, i16::MIN;
    i32, i32::MIN;
    i64, i64::MIN;
    i128, i128::MIN;
}

/// Any type of serde's, stored as JSON.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Json<T>(pub T);

#[cfg(feature = "serde")]
impl<T> Data for Json<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    /// # Panics
    /// Where the type cannot be JSON: a map whose keys are no texts, for instance.
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a type that JSON can hold")
    }

    fn from_bytes(bytes: &[u8]) -> Result<Json<T>, DataError> {
        serde_json::from_slice(bytes).map(Json).map_err(DataError::new::<T>)
    }
}

/// Any type of rkyv's, stored as its archive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Rkyv<T>(pub T);

type Writer<'a> = HighSerializer<
    rkyv::util::AlignedVec,
    rkyv::ser::allocator::ArenaHandle<'a>,
    rkyv::rancor::Error,
>;

impl<T> Data for Rkyv<T>
where
    T: rkyv::Archive + for<'a> rkyv::Serialize<Writer<'a>> + Send + 'static,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rkyv::rancor::Error>>,
    T::Archived: rkyv::Deserialize<T, HighDeserializer<rkyv::rancor::Error>>,
{
    /// # Panics
    /// Where the type's own serialization fails.
    fn to_bytes(&self) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(&self.0)
            .expect("a type that can be archived")
            .to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Rkyv<T>, DataError> {
        // Archives are read in place, at an alignment that bytes of a reply do not have.
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<T, rkyv::rancor::Error>(&aligned).map(Rkyv).map_err(DataError::new::<T>)
    }
}

/// A value with its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored<V> {
    /// The value.
    pub value: V,
    /// Rises with every change; never used twice within a resource.
    pub version: Index,
}

fn read<V: Data>(versioned: Versioned) -> Result<Stored<V>, Failure> {
    let Versioned { value, version } = versioned;
    Ok(Stored { value: V::from_bytes(&value)?, version })
}

fn read_some<V: Data>(found: Option<Versioned>) -> Result<Option<Stored<V>>, Failure> {
    found.map(read).transpose()
}

fn read_swap<V: Data>(swap: Swap<Option<Versioned>>) -> Result<Swap<Option<Stored<V>>>, Failure> {
    Ok(match swap {
        Swap::Done(version) => Swap::Done(version),
        Swap::Conflict(found) => Swap::Conflict(read_some(found)?),
    })
}

/// A single value of a type.
pub struct ValueOf<V, S> {
    value: Value<S>,
    is: PhantomData<fn() -> V>,
}

impl<V: Data, S: Submit> ValueOf<V, S> {
    /// The same value, read and written as a type.
    pub fn new(value: Value<S>) -> ValueOf<V, S> {
        ValueOf { value, is: PhantomData }
    }

    /// The value in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Value<S> {
        &self.value
    }

    /// The value, `None` where it is not set.
    pub fn get(&self) -> Reply<Option<Stored<V>>> {
        self.value.get().and_then(read_some)
    }

    /// Sets it. Returns its version.
    pub fn set(&self, value: &V) -> Reply<Index> {
        self.value.set(&value.to_bytes())
    }

    /// Sets it. Returns what it was.
    pub fn get_and_set(&self, value: &V) -> Reply<Option<Stored<V>>> {
        self.value.get_and_set(&value.to_bytes()).and_then(read_some)
    }

    /// Sets it if it has this version; `Index::ZERO` for not set.
    pub fn set_if(&self, version: Index, value: &V) -> Reply<Swap<Option<Stored<V>>>> {
        self.value.compare_version_and_set(version, &value.to_bytes()).and_then(read_swap)
    }

    /// Deletes it. Returns whether it was set.
    pub fn delete(&self) -> Reply<bool> {
        self.value.delete()
    }
}

/// A map from one type to another, in the order of the keys' bytes.
pub struct MapOf<K, V, S> {
    map: Map<S>,
    is: PhantomData<fn() -> (K, V)>,
}

/// An entry of a [`MapOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// The version of the value.
    pub version: Index,
}

/// Entries of a [`MapOf`], in order of their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryPage<K, V> {
    /// The entries.
    pub entries: Vec<Entry<K, V>>,
    /// Ask for the next page after this key; `None` where this is the last. A page may be short,
    /// even empty, and not the last.
    pub next: Option<K>,
}

impl<K: Data, V: Data, S: Submit> MapOf<K, V, S> {
    /// The same map, read and written as types.
    pub fn new(map: Map<S>) -> MapOf<K, V, S> {
        MapOf { map, is: PhantomData }
    }

    /// The map in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Map<S> {
        &self.map
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Reply<Option<Stored<V>>> {
        self.map.get(&key.to_bytes()).and_then(read_some)
    }

    /// Sets the value of a key. Returns its version.
    pub fn put(&self, key: &K, value: &V) -> Reply<Index> {
        self.map.put(&key.to_bytes(), &value.to_bytes())
    }

    /// Sets the value of a key that has none.
    pub fn put_if_absent(&self, key: &K, value: &V) -> Reply<Swap<Option<Stored<V>>>> {
        self.map.put_if_absent(&key.to_bytes(), &value.to_bytes()).and_then(read_swap)
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&self, key: &K) -> Reply<bool> {
        self.map.remove(&key.to_bytes())
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &K) -> Reply<bool> {
        self.map.contains_key(&key.to_bytes())
    }

    /// How many entries there are.
    pub fn size(&self) -> Reply<u64> {
        self.map.size()
    }

    /// A page of entries after a key, or from the first; at most `limit`, 0 for as many as a page
    /// holds.
    pub fn entries(&self, after: Option<&K>, limit: u32) -> Reply<EntryPage<K, V>> {
        let after = after.map(Data::to_bytes);
        let range = MapRange { after, limit, ..MapRange::default() };
        self.map.entries(range).and_then(|page| {
            let entry = |entry: &MapEntry| -> Result<Entry<K, V>, Failure> {
                let value = V::from_bytes(entry.value.as_deref().unwrap_or_default())?;
                Ok(Entry { key: K::from_bytes(&entry.key)?, value, version: entry.version })
            };
            let entries = page.entries.iter().map(entry).collect::<Result<Vec<_>, Failure>>()?;
            let next = page.next.as_deref().map(K::from_bytes).transpose()?;
            Ok(EntryPage { entries, next })
        })
    }
}

impl<V, S: Clone> Clone for ValueOf<V, S> {
    fn clone(&self) -> Self {
        ValueOf { value: self.value.clone(), is: PhantomData }
    }
}

impl<K, V, S: Clone> Clone for MapOf<K, V, S> {
    fn clone(&self) -> Self {
        MapOf { map: self.map.clone(), is: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back<T: Data + PartialEq + std::fmt::Debug>(values: &[T]) {
        for value in values {
            assert_eq!(&T::from_bytes(&value.to_bytes()).expect("own bytes"), value);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        comes_back(&[vec![], vec![0_u8, 255]]);
        comes_back(&[String::new(), "é\u{1f408}".to_owned()]);
        comes_back(&[true, false]);
        comes_back(&[0, 1, u64::MAX]);
        comes_back(&[i64::MIN, -1, 0, i64::MAX]);
        comes_back(&[Rkyv((7_u32, "seven".to_owned()))]);
    }

    #[test]
    fn the_order_of_the_bytes_is_that_of_the_numbers() {
        let numbers = [i32::MIN, -70_000, -256, -1, 0, 1, 255, 256, i32::MAX];
        assert!(numbers.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
        let numbers = [0_u16, 1, 255, 256, u16::MAX];
        assert!(numbers.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
    }

    #[test]
    fn bytes_of_others_are_refused_with_the_type_they_are_not() {
        assert!(u64::from_bytes(b"7 bytes").unwrap_err().to_string().contains("u64"));
        assert!(String::from_bytes(&[0xff]).is_err());
        assert!(bool::from_bytes(b"2").is_err());
        for length in 0..40 {
            let _ = Rkyv::<(u32, String)>::from_bytes(&vec![0xff; length]);
        }
        let failure = Failure::from(DataError::new::<u64>("short"));
        assert_eq!(failure.outcome(), Outcome::Applied, "the operation itself went well");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn json_is_json() {
        comes_back(&[Json(vec![("a".to_owned(), 1)])]);
        assert_eq!(Json(vec![1, 2]).to_bytes(), b"[1,2]");
        assert!(Json::<Vec<u8>>::from_bytes(b"{").is_err());
    }
}
