//! Code that users bring along and that panics, and what becomes of its group.
//!
//! A panic in a user's code is a property of the entry being applied: it comes on every replica, at
//! the same index. Going on without the entry would be a decision nobody has made, and stopping the
//! process would take the other groups with it. So the group halts there, on every replica, and its
//! log is kept: with a mended program the entry is applied again, and the group goes on.
//!
//! Failed assertions of our own are something else: they stop the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use margay_log::id::Index;

/// A group that cannot go on, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("halted at index {index}: {text}")]
pub struct Halted {
    /// The entry that could not be applied; what is before it has been.
    pub index: Index,
    /// What happened, for people.
    pub text: String,
}

/// What [`halt`] unwinds with.
struct Halt(String);

/// Ends the applying of an entry: the machine that is being applied to halts there. For what no
/// code or reply can say, such as an operation that only another version of the program knows.
pub fn halt(text: impl Into<String>) -> ! {
    // The hook that reports panics has nothing to say about this one.
    resume_unwind(Box::new(Halt(text.into())))
}

/// Runs code of a user; where it panics, says with what.
///
/// # Errors
/// The panic's text, or the text of [`halt`].
pub fn guard<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What it has left half done is not looked at again: the machine halts, or nothing was changed.
    catch_unwind(AssertUnwindSafe(work)).map_err(text_of)
}

/// Runs code of a user while an entry is applied: where it panics, the machine halts. `whose` names
/// it.
pub fn guarded<T>(whose: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| match payload.is::<Halt>() {
        true => resume_unwind(payload),
        false => halt(format!("{} panicked: {}", whose(), text_of(payload))),
    })
}

/// Runs something of a state machine's that may halt it: the applying of entries, freezing,
/// restoring. `is_ours` says whose a panic would be that did not come through [`guarded`].
pub(super) fn caught<T>(is_ours: bool, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).or_else(|payload| match payload.downcast::<Halt>() {
        Ok(halt) => Err(halt.0),
        Err(payload) if is_ours => resume_unwind(payload),
        Err(payload) => Err(format!("the state machine panicked: {}", text_of(payload))),
    })
}

fn text_of(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<Halt>() {
        Ok(halt) => halt.0,
        Err(payload) => payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    #[test]
    fn a_panic_is_told_from_a_halt_and_from_ours() {
        assert_eq!(guard(|| 7), Ok(7));
        assert_eq!(guard(|| -> u8 { panic_any("why") }), Err("why".to_owned()));
        let theirs = || guarded(|| "a tally".to_owned(), || panic!("number {}", 3));
        assert_eq!(caught(true, theirs), Err("a tally panicked: number 3".to_owned()));
        assert_eq!(caught(true, || halt("unknown type")), Err("unknown type".to_owned()));
        assert!(caught(false, || panic!("bug")).unwrap_err().ends_with("panicked: bug"));
        assert_eq!(guard(|| caught(true, || panic!("ours"))), Err("ours".to_owned()));
    }
}
