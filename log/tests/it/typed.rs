//! Values instead of bytes: what was appended is read where it lies, and nothing else is taken for
//! it.

use margay_log::Error;
use margay_log::commit_log::{CommitLog, CommitLogOptions, TypedLog};
use margay_log::id::Index;
use rkyv::rancor::{Fallible, Source};
use rkyv::{Archive, Serialize};

use crate::conformance::TempDir;

#[derive(Archive, Serialize, Debug)]
struct Deposited {
    account: u64,
    cents: i64,
    note: String,
    tags: Vec<u32>,
}

fn deposited(n: u64) -> Deposited {
    let tags = (0..n as u32 % 5).collect();
    Deposited { account: n % 3, cents: n as i64 * 100, note: format!("number {n}"), tags }
}

#[test]
fn values_are_read_where_they_lie() {
    let dir = TempDir::new("typed");
    let open = || CommitLog::open(dir.path(), CommitLogOptions::default()).expect("opens").log;
    let log = TypedLog::<Deposited>::new(open(), 1);
    for n in 1..=50 {
        assert_eq!(log.append(&deposited(n)).expect("room").index(), Index(n));
    }
    log.log().sync().wait().expect("durable");
    let mut follower = log.follow(Index(50));
    assert_eq!(follower.wait_next().expect("there").1.cents, 5_000);
    drop((follower, log));

    let log = TypedLog::<Deposited>::new(open(), 1);
    let mut reader = log.read(..);
    for n in 1..=50 {
        let (index, value) = reader.read_next().expect("readable").expect("there");
        let expected = deposited(n);
        assert_eq!((index, value.note.as_str()), (Index(n), expected.note.as_str()));
        assert_eq!(
            (value.account.to_native(), value.cents.to_native()),
            (expected.account, expected.cents)
        );
        assert!(value.tags.iter().map(|tag| tag.to_native()).eq(expected.tags));
    }
    assert!(reader.read_next().expect("readable").is_none());
    assert_eq!(reader.read_prev().expect("readable").expect("there").0, Index(50));
}

/// Writes itself, and not every value of it.
#[derive(Archive)]
struct Odd {
    number: u32,
}

impl<S: Fallible<Error: Source> + ?Sized> Serialize<S> for Odd {
    fn serialize(&self, _: &mut S) -> Result<OddResolver, S::Error> {
        if self.number.is_multiple_of(2) {
            return Err(S::Error::new(std::io::Error::other("it is even")));
        }
        Ok(OddResolver { number: () })
    }
}

#[test]
fn a_value_that_cannot_be_written_is_an_error() {
    let dir = TempDir::new("typed-odd");
    let log = CommitLog::open(dir.path(), CommitLogOptions::default()).expect("opens").log;
    let log = TypedLog::<Odd>::new(log, 1);
    let error = log.append(&Odd { number: 2 }).expect_err("refused");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(log.append(&Odd { number: 3 }).expect("room").wait(), Ok(Index(1)));
    let mut reader = log.read(..);
    assert_eq!(reader.read_next().expect("readable").expect("there").1.number.to_native(), 3);
}

#[test]
fn what_is_no_such_value_is_refused() {
    let dir = TempDir::new("typed-other");
    let log = CommitLog::open(dir.path(), CommitLogOptions::default()).expect("opens").log;
    let typed = TypedLog::<Deposited>::new(log.clone(), 2);
    drop(log.append(b"bytes").expect("room"));
    let header = margay_log::format::EntryHeader { schema: 2, ..Default::default() };
    let garbage = |bytes: &mut [u8]| bytes.fill(0xff);
    log.append_with(&header, 64, garbage).expect("room").wait().expect("durable");
    let mut reader = typed.read(..);
    let other = reader.read_next().map(|_| ()).expect_err("another schema");
    assert_eq!(other, Error::NotAValue { index: Index(1), expected: 2, found: 0 });
    let broken = reader.read_next().map(|_| ()).expect_err("no value");
    assert_eq!(broken, Error::NotAValue { index: Index(2), expected: 2, found: 2 });
}
