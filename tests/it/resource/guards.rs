//! What is granted in turn, as handles show it: guards, waits, and the news that something is lost.

use super::handles::{Near, poll};
use margay::machine::{Code, kind};
use margay::resource::{Directory, Lock, RwLock, Semaphore};
use std::task::Poll;
use std::time::Duration;

#[test]
fn a_semaphore_hands_out_what_it_has() {
    let (one, two) = Near::pair();
    let ours = Semaphore::open(one, "pool", 3).wait().unwrap();
    let theirs = Semaphore::open(two, "pool", 99).wait().unwrap();
    let two = ours.acquire(2).wait().unwrap();
    assert_eq!((two.count(), theirs.status().wait().unwrap().available), (2, 1));
    assert!(theirs.try_acquire(2).wait().unwrap().is_none());
    let mut waiting = theirs.acquire(2);
    assert!(poll(&mut waiting).is_pending());
    assert!(ours.try_acquire(1).wait().unwrap().is_none(), "somebody is first");
    assert!(ours.drain().wait().unwrap().is_none());
    two.release().wait().unwrap();
    let Poll::Ready(Ok(granted)) = poll(&mut waiting) else { panic!("its turn has come") };
    let rest = ours.drain().wait().unwrap().expect("one is left");
    assert_eq!((granted.count(), rest.count()), (2, 1));
    assert!(rest.token() > granted.token());
    assert_eq!(ours.resize(1).wait().unwrap(), 3);
    drop((granted, rest));
    let status = ours.status().wait().unwrap();
    assert_eq!((status.permits, status.available, status.holders, status.waiting), (1, 1, 0, 0));
    assert_eq!(ours.acquire(2).wait().err().unwrap().code, Code::BAD_AMOUNT);
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let (one, two) = Near::pair();
    let ours = RwLock::open(one, "config").wait().unwrap();
    let theirs = RwLock::open(two, "config").wait().unwrap();
    let (first, second) = (ours.read().wait().unwrap(), theirs.read().wait().unwrap());
    assert!(!first.is_writer() && ours.try_write().wait().unwrap().is_none());
    let mut writer = ours.write();
    assert!(poll(&mut writer).is_pending());
    assert!(theirs.try_read().wait().unwrap().is_none(), "behind the writer");
    let mut late = theirs.read_within(Duration::from_secs(1));
    assert!(poll(&mut late).is_pending());
    assert_eq!(ours.status().wait().unwrap().waiting, 2);
    first.unlock().wait().unwrap();
    assert!(poll(&mut writer).is_pending());
    drop(second);
    let Poll::Ready(Ok(writer)) = poll(&mut writer) else { panic!("it is free") };
    let status = theirs.status().wait().unwrap();
    assert_eq!(status.writer.unwrap().1, writer.token());
    writer.unlock().wait().unwrap();
    let Poll::Ready(Ok(Some(reader))) = poll(&mut late) else { panic!("it is free") };
    assert!(reader.token() > status.writer.unwrap().1);
}

#[test]
fn a_reentrant_handle_shares_what_it_holds() {
    let (one, two) = Near::pair();
    let lock = Lock::open(one.clone(), "nightly").wait().unwrap().reentrant();
    let stranger = Lock::open(one, "nightly").wait().unwrap();
    let outer = lock.lock().wait().unwrap();
    let inner = lock.clone().lock().wait().unwrap();
    assert_eq!(outer.token(), inner.token());
    assert!(stranger.try_lock().wait().unwrap().is_none(), "a handle of its own shares nothing");
    outer.unlock().wait().unwrap();
    let other = Lock::open(two, "nightly").wait().unwrap();
    assert!(other.is_held().wait().unwrap(), "the inner guard keeps it");
    assert!(other.try_lock().wait().unwrap().is_none());
    inner.unlock().wait().unwrap();
    let theirs = other.try_lock().wait().unwrap().expect("free now");
    assert!(lock.try_lock().wait().unwrap().is_none(), "nothing is left to share");
    drop(theirs);
    assert!(lock.try_lock().wait().unwrap().is_some());
}

#[test]
fn a_holder_is_told_when_it_has_lost_what_it_held() {
    let (one, two) = Near::pair();
    let lock = Lock::open(one.clone(), "nightly").wait().unwrap();
    let permits = Semaphore::open(one.clone(), "pool", 1).wait().unwrap();
    let (held, permit) = (lock.lock().wait().unwrap(), permits.acquire(1).wait().unwrap());
    let (mut lost, mut gone) = (held.lost(), permit.lost());
    assert!(poll(&mut lost).is_pending() && poll(&mut gone).is_pending());
    assert!(Directory::new(two).delete(lock.id()).wait().unwrap());
    assert!(matches!(poll(&mut lost), Poll::Ready(Ok(()))), "deleted");
    assert!(poll(&mut gone).is_pending());
    permit.release().wait().unwrap();
    assert!(matches!(poll(&mut gone), Poll::Ready(Ok(()))), "given back");
    assert_eq!(held.unlock().wait().unwrap_err().code, Code::NO_SUCH_RESOURCE);
}

/// The wait of one who is told that it is over says so, and is no time-out.
#[test]
fn a_wait_for_what_is_deleted_fails() {
    let (one, two) = Near::pair();
    let lock = RwLock::open(one.clone(), "config").wait().unwrap();
    let _held = lock.write().wait().unwrap();
    let theirs = RwLock::open(two.clone(), "config").wait().unwrap();
    let mut waiting = theirs.read();
    assert!(poll(&mut waiting).is_pending());
    assert!(Directory::new(one).delete(lock.id()).wait().unwrap());
    let Poll::Ready(Err(failure)) = poll(&mut waiting) else { panic!("it is gone") };
    assert_eq!(failure.code, Code::WAIT_LOST);
}

#[test]
fn permits_of_a_session_that_ends_come_back() {
    let (one, two) = Near::pair();
    let ours = Semaphore::open(one.clone(), "pool", 2).wait().unwrap();
    let theirs = Semaphore::open(two, "pool", 2).wait().unwrap();
    let _lost = ours.acquire(2).wait().unwrap();
    let mut waiting = theirs.acquire(1);
    assert!(poll(&mut waiting).is_pending());
    one.end(kind::EXPIRE);
    assert!(matches!(poll(&mut waiting), Poll::Ready(Ok(_))));
}
