//! What is held goes back, whatever else is refused for load.

use std::time::Duration;

use margay::machine::Code;
use margay::resource::{Lock, Queue, Task};

use super::handles::{Near, poll};

/// Nobody is told what becomes of a drop, so nobody would try again.
#[test]
fn what_is_dropped_is_given_back_whatever_else_is_refused() {
    let (one, two) = Near::pair();
    let lock = Lock::open(one.clone(), "l").wait().unwrap();
    let guard = lock.lock().wait().unwrap();
    let mut waiting = Lock::open(two, "l").wait().unwrap().lock();
    assert!(poll(&mut waiting).is_pending());
    one.far().is_loaded = true;
    assert_eq!(lock.lock().wait().err().unwrap().code, Code::OVERLOADED);
    drop(waiting);
    drop(guard);
    assert_eq!(one.holder(lock.id()), None);
}

/// An explicit release takes the guard: where it is refused, nobody could try again.
#[test]
fn what_could_not_be_released_is_given_back_all_the_same() {
    let (one, _) = Near::pair();
    let lock = Lock::open(one.clone(), "l").wait().unwrap();
    for is_awaited in [true, false] {
        let guard = lock.lock().wait().unwrap();
        one.far().is_loaded = true;
        let unlocked = guard.unlock();
        assert_eq!(one.holder(lock.id()), Some(one.session), "it was refused");
        if is_awaited {
            assert_eq!(unlocked.wait().unwrap_err().code, Code::OVERLOADED);
        } else {
            drop(unlocked);
        }
        assert_eq!(one.holder(lock.id()), None, "awaited {is_awaited}");
        one.far().is_loaded = false;
    }
}

#[test]
fn a_task_that_could_not_be_acknowledged_is_given_back() {
    let (one, _) = Near::pair();
    let queue = Queue::open(one.clone(), "q").wait().unwrap();
    let lease = Duration::from_secs(60);
    queue.offer(b"work").wait().unwrap();
    let task = queue.take(1, lease).wait().unwrap().remove(0);
    one.far().is_loaded = true;
    assert_eq!(task.ack().wait().unwrap_err().code, Code::OVERLOADED);
    one.far().is_loaded = false;
    let mut again = queue.take_within(1, lease, Duration::ZERO).wait().unwrap();
    assert_eq!(again.iter().map(Task::deliveries).collect::<Vec<_>>(), [2], "it can be had again");
    again.remove(0).ack().wait().unwrap();
}
