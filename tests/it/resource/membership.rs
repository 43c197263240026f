//! The group as its handles show it: who is there, and what becomes of messages.

use super::handles::{Near, poll};
use margay::machine::{Code, Outcome, kind};
use margay::resource::group::{Departure, MemberEvent, To};
use margay::resource::{Directory, MemberGroup};
use margay_log::id::Micros;
use std::task::Poll;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

fn groups() -> (Near, Near, MemberGroup<Near>, MemberGroup<Near>) {
    let (one, two) = Near::pair();
    let ours = MemberGroup::open(one.clone(), "workers").wait().unwrap();
    let theirs = MemberGroup::open(two.clone(), "workers").wait().unwrap();
    (one, two, ours, theirs)
}

#[test]
fn members_come_and_go_and_watchers_hear_of_it() {
    let (one, _, ours, theirs) = groups();
    let mut watch = theirs.watch(None);
    let drawn = ours.join(b"north").wait().unwrap();
    assert_eq!(drawn.id(), format!(":{}", drawn.number()));
    let named = ours.join_as("n1", b"10.0.0.1").wait().unwrap();
    let page = theirs.members(0, 1).wait().unwrap();
    assert_eq!((page.members[0].id.as_str(), page.next), (drawn.id(), Some(drawn.number())));
    let rest = theirs.members(drawn.number(), 0).wait().unwrap();
    assert_eq!((&rest.members[0].data[..], rest.next), (&b"10.0.0.1"[..], None));
    named.set(b"10.0.0.2").wait().unwrap();
    let member = theirs.member("n1").wait().unwrap().expect("it is there");
    assert_eq!((member.session.0, &member.data[..]), (one.session, &b"10.0.0.2"[..]));
    let failure = theirs.join_as("n1", b"").wait().err().unwrap();
    assert_eq!(failure.code, Code::MEMBER_EXISTS);
    assert_eq!(theirs.join_as("", b"").wait().err().unwrap().code, Code::BAD_NAME);
    let id = drawn.id().to_owned();
    drawn.leave().wait().unwrap();
    let mut lost = named.lost();
    assert!(poll(&mut lost).is_pending());
    assert!(theirs.remove("n1").wait().unwrap() && !theirs.remove("n1").wait().unwrap());
    assert!(matches!(poll(&mut lost), Poll::Ready(Ok(()))), "removed");
    assert_eq!(named.leave().wait().unwrap_err().code, Code::NO_SUCH_MEMBER);
    let left = |id: &str, data: &str, why| {
        let (id, data) = (id.to_owned(), data.as_bytes().to_vec());
        MemberEvent::Left { id, data, why }
    };
    let joined = |id: &str, data: &str| MemberEvent::Joined {
        id: id.to_owned(),
        data: data.as_bytes().to_vec(),
    };
    let expected = [
        joined(&id, "north"),
        joined("n1", "10.0.0.1"),
        MemberEvent::Updated {
            id: "n1".to_owned(),
            data: b"10.0.0.2".to_vec(),
            old: b"10.0.0.1".to_vec(),
        },
        left(&id, "north", Departure::Left),
        left("n1", "10.0.0.2", Departure::Removed),
    ];
    let told: Vec<_> = std::iter::from_fn(|| watch.try_next()).map(Result::unwrap).collect();
    assert_eq!(told, expected);
}

/// After a crash: the session from before still has the id. Its successor waits for it.
#[test]
fn a_lasting_id_is_handed_over_when_its_session_has_ended() {
    let (one, two, ours, theirs) = groups();
    let before = ours.join_as("n1", b"old").wait().unwrap();
    let mut next = theirs.join_within("n1", b"new", LONG);
    let mut late = ours.join_within("n1", b"same", LONG);
    assert!(poll(&mut next).is_pending());
    let Poll::Ready(Ok(same)) = poll(&mut late) else { panic!("it has it already") };
    assert_eq!(same.number(), before.number());
    drop(before);
    assert!(theirs.member("n1").wait().unwrap().is_some(), "it belongs to the last who joined");
    assert_eq!(theirs.status().wait().unwrap().waiting, 1);
    one.end(kind::EXPIRE);
    let Poll::Ready(Ok(after)) = poll(&mut next) else { panic!("its turn has come") };
    assert!(after.number() > same.number(), "a fencing token");
    let member = theirs.member("n1").wait().unwrap().unwrap();
    assert_eq!((member.session.0, &member.data[..]), (two.session, &b"new"[..]));
    assert_eq!(same.set(b"x").wait().unwrap_err().code, Code::SESSION_EXPIRED);
    assert_eq!(ours.members(0, 0).wait().unwrap().members.len(), 1);
}

#[test]
fn a_join_that_waits_too_long_or_is_dropped_leaves_nothing() {
    let (one, _, ours, theirs) = groups();
    let _held = ours.join_as("n1", b"").wait().unwrap();
    let mut waiting = theirs.join_within("n1", b"", Duration::from_millis(5));
    assert!(poll(&mut waiting).is_pending());
    let mut dropped = theirs.join_within("n1", b"", LONG);
    assert!(poll(&mut dropped).is_pending());
    drop(dropped);
    assert_eq!(ours.status().wait().unwrap().waiting, 1);
    {
        let mut far = one.far();
        far.world.tick(Micros::from_millis(5));
        far.deliver();
    }
    let Poll::Ready(Err(failure)) = poll(&mut waiting) else { panic!("its time is over") };
    assert_eq!((failure.code, failure.outcome()), (Code::MEMBER_EXISTS, Outcome::NotApplied));
}

#[test]
fn a_question_is_answered_and_forgotten() {
    let (_, _, ours, theirs) = groups();
    let member = ours.join_as("n1", b"").wait().unwrap();
    let mut inbox = member.messages();
    let mut replied = theirs.ask(To::Member("n1"), b"2+2", LONG);
    let mut acked = theirs.ask(To::Any, b"save", LONG);
    let mut failed = theirs.ask(To::Any, b"fly", LONG);
    for reply in [&mut replied, &mut acked, &mut failed] {
        assert!(poll(reply).is_pending());
    }
    let first = inbox.wait_next().unwrap();
    assert_eq!((first.value(), first.is_question()), (&b"2+2"[..], true));
    first.reply(b"4").wait().unwrap();
    assert_eq!(replied.wait().unwrap(), b"4");
    inbox.wait_next().unwrap().ack().wait().unwrap();
    assert_eq!(acked.wait().unwrap(), b"");
    let last = inbox.wait_next().unwrap();
    assert_eq!(last.value(), b"fly");
    last.clone().fail("no wings").wait().unwrap();
    assert_eq!(last.ack().wait().unwrap_err().code, Code::NO_SUCH_MESSAGE, "answered once");
    let failure = failed.wait().unwrap_err();
    assert_eq!((failure.code, failure.text.as_str()), (Code::MESSAGE_FAILED, "no wings"));
    let status = theirs.status().wait().unwrap();
    assert_eq!((status.messages, status.asked, status.bytes), (0, 0, 0));
}

#[test]
fn all_are_asked_and_what_came_of_it_is_told_of_each() {
    let (one, _, ours, theirs) = groups();
    let members = ["a", "b", "c", "d"].map(|id| ours.join_as(id, b"").wait().unwrap());
    let mut asked = theirs.ask_all(b"ready?", Duration::from_millis(5));
    assert!(poll(&mut asked).is_pending());
    let [a, b, c, d] = members;
    a.messages().wait_next().unwrap().reply(b"yes").wait().unwrap();
    b.messages().wait_next().unwrap().fail("busy").wait().unwrap();
    c.leave().wait().unwrap();
    assert!(poll(&mut asked).is_pending(), "one is left");
    {
        let mut far = one.far();
        far.world.tick(Micros::from_millis(5));
        far.deliver();
    }
    let Poll::Ready(Ok(answers)) = poll(&mut asked) else { panic!("its time is over") };
    let told: Vec<_> = answers
        .into_iter()
        .map(|one| (one.id, one.answer.map_err(|failure| (failure.code, failure.outcome))))
        .collect();
    let expected = [
        ("a", Ok(b"yes".to_vec())),
        ("b", Err((Code::MESSAGE_FAILED, Outcome::Unknown))),
        ("c", Err((Code::NO_SUCH_MEMBER, Outcome::Unknown))),
        ("d", Err((Code::TIMEOUT, Outcome::Unknown))),
    ];
    assert_eq!(told, expected.map(|(id, answer)| (id.to_owned(), answer)));
    assert_eq!(ours.member(d.id()).wait().unwrap().unwrap().messages, 0, "taken back");
}

/// The receiver leaves before it has answered: another gets it, and answers.
#[test]
fn a_message_for_any_goes_to_the_next_when_its_member_leaves() {
    let (one, two, ours, theirs) = groups();
    let a = ours.join_as("a", b"").wait().unwrap();
    let b = theirs.join_as("b", b"").wait().unwrap();
    let mut asked = theirs.ask(To::Any, b"who?", LONG);
    assert!(poll(&mut asked).is_pending());
    let sent = theirs.send(To::Any, b"also").wait().unwrap();
    assert_eq!(b.messages().wait_next().unwrap().number(), sent, "in turn");
    let read = a.messages().wait_next().unwrap();
    one.end(kind::EXPIRE);
    let mut inbox = b.messages();
    assert_eq!(inbox.wait_next().unwrap().number(), sent);
    let again = inbox.wait_next().unwrap();
    assert_eq!((again.number(), again.value()), (read.number(), &b"who?"[..]));
    assert_eq!(read.reply(b"a").wait().unwrap_err().code, Code::SESSION_EXPIRED);
    again.reply(b"b").wait().unwrap();
    assert_eq!(asked.wait().unwrap(), b"b", "answered once");
    // Nobody is left: it waits for whoever joins.
    drop(inbox);
    b.leave().wait().unwrap();
    assert_eq!(theirs.status().wait().unwrap().homeless, 1);
    let next = MemberGroup::new(two, theirs.id()).join(b"").wait().unwrap();
    assert_eq!(next.messages().wait_next().unwrap().number(), sent);
}

/// What is acknowledged to the sender outlives it; what it asked for does not.
#[test]
fn messages_outlive_their_sender_and_questions_do_not() {
    let (one, _, ours, theirs) = groups();
    let member = theirs.join_as("n1", b"").wait().unwrap();
    let sent = ours.send(To::Member("n1"), b"told").wait().unwrap();
    let mut asked = ours.ask(To::Member("n1"), b"asked", LONG);
    assert!(poll(&mut asked).is_pending());
    let dropped = ours.ask(To::Member("n1"), b"dropped", LONG);
    assert_eq!(theirs.status().wait().unwrap().messages, 3);
    drop(dropped);
    assert_eq!(theirs.status().wait().unwrap().messages, 2, "withdrawn");
    one.end(kind::EXPIRE);
    assert_eq!(theirs.status().wait().unwrap().messages, 1);
    let mut inbox = member.messages();
    let message = inbox.wait_next().unwrap();
    assert_eq!((message.number(), message.is_question()), (sent, false));
    message.reply(b"nobody waits for this").wait().unwrap();
    assert_eq!(theirs.status().wait().unwrap().messages, 0);
}

#[test]
fn what_is_sent_for_a_time_is_taken_back() {
    let (one, _, ours, theirs) = groups();
    let member = ours.join_as("n1", b"").wait().unwrap();
    theirs.send_within(To::Any, b"soon", Duration::from_millis(5)).wait().unwrap();
    theirs.send_all(b"whenever").wait().unwrap();
    let soon = member.messages().wait_next().unwrap();
    assert_eq!(soon.value(), b"soon");
    one.far().world.tick(Micros::from_millis(5));
    assert_eq!(member.messages().wait_next().unwrap().value(), b"whenever");
    assert_eq!(soon.ack().wait().unwrap_err().code, Code::NO_SUCH_MESSAGE);
}

/// The connection was lost: what came meanwhile is known after the attach, and nothing twice.
#[test]
fn a_member_that_was_cut_off_has_its_messages_and_none_twice() {
    let (one, _, ours, theirs) = groups();
    let member = ours.join_as("n1", b"").wait().unwrap();
    let mut inbox = member.messages();
    theirs.send(To::Any, b"1").wait().unwrap();
    assert_eq!(inbox.wait_next().unwrap().value(), b"1");
    theirs.send(To::Any, b"2").wait().unwrap();
    one.attach();
    theirs.send(To::Any, b"3").wait().unwrap();
    assert_eq!(inbox.wait_next().unwrap().value(), b"2");
    assert_eq!(inbox.wait_next().unwrap().value(), b"3");
    // Whoever reads anew begins with all that was not answered.
    let mut anew = member.messages();
    for value in [b"1", b"2", b"3"] {
        let message = anew.wait_next().unwrap();
        assert_eq!(message.value(), value);
        message.ack().wait().unwrap();
    }
    assert!(theirs.remove("n1").wait().unwrap());
    let over = anew.wait_next().err().map(|failure| failure.code);
    assert_eq!(over, Some(Code::NO_SUCH_MEMBER), "the membership is over");
}

#[test]
fn a_large_inbox_is_read_in_pages_and_in_order() {
    let (_, _, ours, theirs) = groups();
    let member = ours.join_as("n1", b"").wait().unwrap();
    let sent: Vec<u64> =
        (0..7_u8).map(|n| theirs.send(To::Any, &vec![n; 700 << 10]).wait().unwrap()).collect();
    let mut inbox = member.messages();
    let read: Vec<u64> = (0..7).map(|_| inbox.wait_next().unwrap().number()).collect();
    assert_eq!(read, sent);
    let stranger = theirs.join_as("n2", b"").wait().unwrap();
    member.leave().wait().unwrap();
    // All of them were brought by one entry.
    let mut inbox = stranger.messages();
    let read: Vec<u64> = (0..7).map(|_| inbox.wait_next().unwrap().number()).collect();
    assert_eq!(read, sent);
}

#[test]
fn a_deleted_group_lets_everybody_go() {
    let (_, two, ours, theirs) = groups();
    let member = ours.join_as("n1", b"").wait().unwrap();
    let mut waiting = theirs.join_within("n1", b"", LONG);
    let mut asked = theirs.ask(To::Any, b"who?", LONG);
    let mut lost = member.lost();
    assert!(poll(&mut waiting).is_pending() && poll(&mut asked).is_pending());
    assert!(poll(&mut lost).is_pending());
    assert!(Directory::new(two).delete(ours.id()).wait().unwrap());
    assert!(matches!(poll(&mut lost), Poll::Ready(Ok(()))));
    let Poll::Ready(Err(failure)) = poll(&mut waiting) else { panic!("there is nothing") };
    assert_eq!(failure.code, Code::WAIT_LOST);
    let Poll::Ready(Err(failure)) = poll(&mut asked) else { panic!("there is nothing") };
    let said = (failure.code, failure.outcome);
    assert_eq!(said, (Code::WAIT_LOST, Outcome::Unknown), "it was in an inbox");
}
