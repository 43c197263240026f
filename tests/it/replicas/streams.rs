//! What a leader sends to whoever is far behind.

use std::cell::Cell;
use std::rc::Rc;

use margay::machine::kind;
use margay_log::id::Micros;

use super::caller::Caller;
use super::group::Group;

/// Bytes sent and not acknowledged, at most, in this group.
const WINDOW: u64 = 32 << 10;
/// And a batch that goes beyond it.
const BATCH: u64 = 1 << 10;
/// On the way to who is behind.
const TIME: Micros = Micros::from_millis(500);

/// Small batches have headers on their way that are as long as they are. All of it counts: a
/// connection that is owed more than a window is given up, and the next one would be, too.
#[test]
pub(super) fn a_backlog_of_small_batches_is_no_more_than_a_window() {
    let mut group = Group::with(3, |config| config.raft.window_bytes = WINDOW);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    let far = others[0];
    group.isolate(far);
    for _ in 0..400 {
        caller.add(&mut group, counter);
    }
    // It is there again, but everything takes its time to it.
    let under_way = Rc::new(Cell::new(0));
    let sent = under_way.clone();
    group.weather = Some(Box::new(move |flight| {
        if flight.to != far {
            return Some(Micros(0));
        }
        if let Some(batch) = &flight.batch {
            sent.set(sent.get() + (flight.frame.len() + batch.bytes().len()) as u64);
        }
        Some(TIME)
    }));
    group.heal();
    group.until("a batch on its way", |_| under_way.get() > 0);
    group.run(TIME.0 / 1_000 - 50);
    assert!(under_way.get() > WINDOW / 2, "{} bytes: it was not far behind", under_way.get());
    assert!(under_way.get() <= WINDOW + BATCH, "{} bytes are under way", under_way.get());
    group.weather = None;
    group.converge();
}
