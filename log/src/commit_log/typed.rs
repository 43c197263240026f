//! A log of values instead of bytes: written with rkyv, read in place.

use std::marker::PhantomData;
use std::ops::RangeBounds;

use rkyv::api::access_with_context;
use rkyv::api::high::{HighSerializer, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Portable, Serialize};

use crate::commit_log::{Appended, CommitLog, Follower, Reader, Record};
use crate::error::Error;
use crate::format::EntryHeader;
use crate::id::Index;

/// Deepest nesting of a value that is read.
const DEPTH_MAX: Option<std::num::NonZeroUsize> = std::num::NonZeroUsize::new(64);

/// Values that a [`TypedLog`] takes: flat types, their vectors, strings, options and the like.
/// Shared pointers are not among them.
pub trait Value: Archive<Archived: InPlace> + Written {}

impl<T> Value for T where T: Archive<Archived: InPlace> + Written {}

/// Values that rkyv writes.
pub trait Written: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>> {}

impl<T> Written for T where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>
{
}

/// Archived values that are read where they lie, once they have been checked.
pub trait InPlace: Portable + for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, Failure>> {}

impl<T> InPlace for T
where
    T: Portable,
    T: for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, Failure>>,
{
}

/// A log whose entries are all values of one type.
///
/// The layout of `T` becomes part of what is on disk: a type that has changed gets another schema
/// number, and entries of the old one are then refused by name instead of being misread.
///
/// ```no_run
/// # fn main() -> Result<(), margay_log::Error> {
/// use margay_log::commit_log::{CommitLog, CommitLogOptions, TypedLog};
///
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Paid {
///     order: u64,
///     cents: u32,
/// }
///
/// let log = CommitLog::open("payments", CommitLogOptions::default())?.log;
/// let payments = TypedLog::new(log, 1);
/// payments.append(&Paid { order: 17, cents: 1_250 })?.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TypedLog<T> {
    log: CommitLog,
    schema: u16,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for TypedLog<T> {
    fn clone(&self) -> TypedLog<T> {
        TypedLog { log: self.log.clone(), schema: self.schema, value: PhantomData }
    }
}

impl<T: Value> TypedLog<T> {
    /// Takes a log for one of values. `schema` numbers the layout of `T`; it is stored with each
    /// entry.
    #[must_use]
    pub fn new(log: CommitLog, schema: u16) -> TypedLog<T> {
        TypedLog { log, schema, value: PhantomData }
    }

    /// The log, for everything that is not about values.
    #[must_use]
    pub fn log(&self) -> &CommitLog {
        &self.log
    }

    /// Appends a value.
    ///
    /// # Errors
    /// As [`CommitLog::append`]; [`Error::Unsupported`] if the value's own `Serialize` fails.
    pub fn append(&self, value: &T) -> Result<Appended, Error> {
        let reason = "its Serialize fails; append one that it takes";
        let bytes = to_bytes_in::<_, Failure>(value, AlignedVec::new())
            .map_err(|_| Error::Unsupported { action: "append the value", reason })?;
        let header = EntryHeader { schema: self.schema, ..EntryHeader::default() };
        self.log.append_with(&header, bytes.len(), |place| place.copy_from_slice(&bytes))
    }

    /// Reads what is durable of a range.
    pub fn read(&self, range: impl RangeBounds<Index>) -> TypedReader<T> {
        let reader = self.log.read(range);
        TypedReader { reader, schema: self.schema, value: PhantomData }
    }

    /// Gives every value from `from` on, and waits for more at the end.
    pub fn follow(&self, from: Index) -> TypedFollower<T> {
        let follower = self.log.follow(from);
        TypedFollower { follower, schema: self.schema, value: PhantomData }
    }
}

/// As [`Reader`], of values.
#[derive(Debug)]
pub struct TypedReader<T> {
    reader: Reader,
    schema: u16,
    value: PhantomData<fn() -> T>,
}

impl<T: Value> TypedReader<T> {
    /// As [`Reader::read_next`]. The value lies where it was read to.
    ///
    /// # Errors
    /// As [`Reader::read_next`], and [`Error::NotAValue`].
    pub fn read_next(&mut self) -> Result<Option<(Index, &T::Archived)>, Error> {
        let schema = self.schema;
        self.reader.read_next()?.map(|record| in_place::<T>(&record, schema)).transpose()
    }

    /// As [`Reader::read_prev`].
    ///
    /// # Errors
    /// As [`TypedReader::read_next`].
    pub fn read_prev(&mut self) -> Result<Option<(Index, &T::Archived)>, Error> {
        let schema = self.schema;
        self.reader.read_prev()?.map(|record| in_place::<T>(&record, schema)).transpose()
    }

    /// As [`Reader::seek`].
    pub fn seek(&mut self, index: Index) {
        self.reader.seek(index);
    }
}

/// As [`Follower`], of values.
#[derive(Debug)]
pub struct TypedFollower<T> {
    follower: Follower,
    schema: u16,
    value: PhantomData<fn() -> T>,
}

impl<T: Value> TypedFollower<T> {
    /// As [`Follower::next`].
    ///
    /// # Errors
    /// As [`Follower::next`], and [`Error::NotAValue`].
    pub async fn next(&mut self) -> Result<(Index, &T::Archived), Error> {
        let schema = self.schema;
        in_place::<T>(&self.follower.next().await?, schema)
    }

    /// As [`Follower::wait_next`].
    ///
    /// # Errors
    /// As [`TypedFollower::next`].
    pub fn wait_next(&mut self) -> Result<(Index, &T::Archived), Error> {
        let schema = self.schema;
        in_place::<T>(&self.follower.wait_next()?, schema)
    }
}

/// The value in a record, checked and where it lies.
fn in_place<'a, T: Value>(
    record: &Record<'a>,
    schema: u16,
) -> Result<(Index, &'a T::Archived), Error> {
    let index = record.index;
    let found = record.header.schema;
    if found != schema {
        return Err(Error::NotAValue { index, expected: schema, found });
    }
    let mut archive = ArchiveValidator::with_max_depth(record.payload, DEPTH_MAX);
    access_with_context::<T::Archived, _, Failure>(record.payload, &mut archive)
        .map(|value| (index, value))
        .map_err(|_| Error::NotAValue { index, expected: schema, found })
}
