//! What is stored as bytes: bytes, text, numbers, and what serde or rkyv can write.
//!
//! Integers keep their order, so that a map ordered by its keys' bytes is ordered by the numbers.

use crate::machine::{Code, Outcome};
use crate::resource::Failure;
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

impl DataError {
    /// The failure of an operation that has changed nothing, for what it found could not be read.
    pub(super) fn before_writing(self) -> Failure {
        Failure::with_outcome(Code::BAD_PAYLOAD, Outcome::NotApplied, self.to_string())
    }
}

/// Nothing to say: the key of a single value, the value of a set's member.
impl Data for () {
    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn from_bytes(bytes: &[u8]) -> Result<(), DataError> {
        if bytes.is_empty() { Ok(()) } else { Err(DataError::new::<()>("not empty")) }
    }
}

/// `None` is no bytes at all, so `T` must not have a value that is: `Some` of it comes back as
/// `None`.
impl<T: Data> Data for Option<T> {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_ref().map(T::to_bytes).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Option<T>, DataError> {
        if bytes.is_empty() { Ok(None) } else { T::from_bytes(bytes).map(Some) }
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
        comes_back(&[()]);
        comes_back(&[None, Some(0_u8)]);
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
        assert!(<()>::from_bytes(b"2").is_err());
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
