//! Deadlines, expiry, silence, strangers: what a call's failure says, and what the session does
//! then.

use super::*;

#[test]
fn a_call_that_was_never_sent_is_not_applied_and_leaves_no_gap() {
    let mut world = World::new();
    world.command("a", 1);
    world.command("b", 9);
    world.wait(SECOND);
    assert_eq!(world.told(), ["0 NotApplied NO_LEADER(704)"]);
    world.connect();
    assert_eq!(world.sent(), ["register 0"]);
    world.says(&registered(0, S1));
    assert_eq!(world.sent(), ["#1 b acked #0"]);
}

#[test]
fn the_failure_says_what_was_tried() {
    let mut world = World::with(|config| config.seed = 3);
    world.command("a", 2);
    let mut failure = None;
    for _ in 0..40 {
        while let Some(output) = world.session.poll() {
            match output {
                Output::Connect(address) if address.starts_with("n2") => {
                    world.session.on_connected(world.now, &address);
                    let hello = Hello::decode(&std::mem::take(world.session.outgoing())).unwrap();
                    let hello = Hello { groups: 8, ..hello };
                    world.session.on_bytes(world.now, &hello.encode());
                    world.session.outgoing().clear();
                    let of = RefusedOf::Register(0);
                    world.refuses(of, Code::NOT_LEADER, "n3:5150");
                }
                Output::Connect(address) if address.starts_with("n1") => {
                    world.session.on_failed(world.now, "connection refused");
                }
                Output::Finished(_, Err(why)) => failure = Some(why),
                _ => {}
            }
        }
        world.wait(Micros::from_millis(250));
    }
    let failure = failure.unwrap();
    assert_eq!((failure.code, failure.outcome), (Code::NO_LEADER, Outcome::NotApplied));
    let (start, tried) = failure.text.split_once(" (").unwrap();
    assert_eq!(start, "no leader for group 3 after 2.0s");
    for part in ["n1:5150: connection refused", "n2:5150: not leader, hint n3:5150"] {
        assert!(tried.contains(part), "{tried}");
    }
    assert!(tried.contains("n3:5150: timed out"), "{tried}");
}

#[test]
fn who_refuses_until_the_end_is_named_and_the_reason_said_once() {
    let mut world = World::registered();
    world.command("a", 2);
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(1)), Code::DISK_FULL, "");
    world.now = world.now.after(Micros(2 * SECOND.0));
    world.session.on_tick(world.now);
    let failure = std::iter::from_fn(|| world.session.poll()).find_map(|output| match output {
        Output::Finished(_, Err(failure)) => Some(failure),
        _ => None,
    });
    let failure = failure.unwrap();
    assert_eq!(failure.code, Code::DISK_FULL);
    assert_eq!(failure.text, format!("for 2.0s by {}", world.session.address()));
}

#[test]
fn words_of_a_node_are_shown_once_and_without_control_characters() {
    let mut world = World::registered();
    world.command("a", 5);
    world.sent();
    let of = RefusedOf::Command(Sequence(1));
    let code = Code::OVERLOADED;
    let retry = Micros(0);
    world.says(&Response::Refused { of, code, retry, leader: "", text: code.text() });
    let tried = world.session.tried();
    assert!(tried.ends_with(": E0503 overloaded; wait and try again"), "{tried}");
    let of = RefusedOf::Connection;
    world.says(&Response::Refused { of, code, retry, leader: "", text: "\x1b[31mno\n" });
    assert!(world.session.tried().ends_with("try again: [31mno"), "{}", world.session.tried());
    world.connect();
    world.refuses(RefusedOf::Connection, Code::NOT_LEADER, "not an\naddress");
    world.look();
    assert!(world.address.starts_with('n'), "{}", world.address);
    assert!(world.address.ends_with(":5150"), "{}", world.address);
}

#[test]
fn an_unanswered_command_is_unknown_and_keeps_its_number() {
    let mut world = World::registered();
    world.command("a", 1);
    world.command("b", 5);
    world.sent();
    world.wait(SECOND);
    assert_eq!(world.told(), ["0 Unknown TIMEOUT(708)"]);
    world.reattach();
    assert_eq!(world.sent(), ["keep-alive #0", "#1 a acked #0", "#2 b acked #0"]);
    world.replies(1, 101);
    world.replies(2, 102);
    assert_eq!(world.told(), ["1 ok at 102 OK(0)"], "nobody waits for the first any more");
    assert_eq!(world.session.in_flight(), 0);
}

#[test]
fn a_command_refused_every_time_is_not_applied_and_its_number_is_used_up() {
    let mut world = World::registered();
    world.command("a", 1);
    world.command("b", 5);
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(1)), Code::OVERLOADED, "");
    world.wait(SECOND);
    assert_eq!(world.told(), ["0 NotApplied OVERLOADED(503)"], "why, not only that it was late");
    assert_eq!(world.sent(), ["#1 nothing", "#2 b acked #0"]);
    world.says(&reply(1, 101, Code::TIMEOUT));
    world.replies(2, 102);
    assert_eq!(world.told(), ["1 ok at 102 OK(0)"]);
}

#[test]
fn reads_do_not_wait_for_a_command_that_was_given_up_outside_the_log() {
    let mut world = World::registered();
    world.command("a", 5);
    world.sent();
    world.replies(1, 101);
    world.told();
    world.command("b", 1);
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(2)), Code::DISK_FULL, "");
    world.wait(SECOND);
    assert_eq!(world.told(), ["0 NotApplied DISK_FULL(801)"]);
    world.query("q");
    assert_eq!(world.sent(), ["#2 nothing", "query q after #1 seen 101"]);
}

#[test]
fn a_command_refused_for_good_ends_at_once() {
    let mut world = World::registered();
    world.command("a", 5);
    world.command("b", 5);
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(1)), Code::BAD_KIND, "");
    assert_eq!(world.told(), ["0 NotApplied BAD_KIND(106)"]);
    world.wait(SECOND);
    assert_eq!(world.sent(), ["#1 nothing", "#2 b acked #0"]);
}

#[test]
fn a_query_past_its_deadline_changed_nothing_and_its_late_answer_is_dropped() {
    let mut world = World::registered();
    let query = world.query("q");
    world.sent();
    for _ in 0..5 {
        world.wait(SECOND);
        world.says(&Response::KeptAlive { session: S1, index: Index(1) });
    }
    assert_eq!(world.told(), ["0 NotApplied TIMEOUT(708)"]);
    let (index, code) = (Index(150), Code::OK);
    world.says(&Response::QueryReply { id: query.0, index, code, payload: b"" });
    assert!(world.told().is_empty());
}

#[test]
fn a_gone_reply_is_a_command_that_was_applied() {
    let mut world = World::registered();
    world.command("a", 5);
    world.sent();
    world.says(&reply(1, 101, Code::REPLY_GONE));
    assert_eq!(world.told(), ["0 Applied REPLY_GONE(402)"]);
}

#[test]
fn expiry_leaves_what_was_sent_in_doubt_and_the_next_command_begins_anew() {
    let mut world = World::registered();
    world.command("sent", 9);
    world.sent();
    world.session.on_disconnected(world.now);
    world.command("unsent", 9);
    world.query("q");
    world.connect();
    assert_eq!(world.sent(), ["attach S100"]);
    world.refuses(RefusedOf::Session(S1), Code::SESSION_EXPIRED, "");
    assert_eq!(
        world.told(),
        ["Expired", "0 Unknown SESSION_EXPIRED(401)", "1 NotApplied SESSION_EXPIRED(401)"],
    );
    world.command("later", 5);
    let address = world.address.clone();
    world.connect();
    assert_eq!(world.address, address, "the node is not to blame");
    assert_eq!(world.sent(), ["register 1", "query q after #0 seen 0"]);
    world.says(&registered(0, SessionId(300)));
    assert!(world.sent().is_empty(), "an answer to the first life");
    world.says(&registered(1, SessionId(301)));
    assert_eq!(world.told(), ["Connected"]);
    assert_eq!(world.sent(), ["#1 later acked #0"]);
    assert_eq!(world.session.session(), Some(SessionId(301)));
}

/// The answer to its register comes so late that it may have expired by then, and it has.
#[test]
fn each_session_that_expires_is_told_though_it_was_never_sure() {
    let mut world = World::registered();
    world.refuses(RefusedOf::Session(S1), Code::SESSION_EXPIRED, "");
    assert_eq!(world.told(), ["Expired"]);
    world.command("a", 60);
    world.connect();
    assert_eq!(world.sent(), ["register 1"]);
    world.pass(Micros(11 * SECOND.0));
    world.connect();
    assert_eq!(world.sent(), ["register 1"]);
    let second = SessionId(300);
    world.says(&registered(1, second));
    assert_eq!(world.told(), ["Suspended"]);
    world.refuses(RefusedOf::Session(second), Code::SESSION_EXPIRED, "");
    assert_eq!(world.told(), ["Expired", "0 NotApplied SESSION_EXPIRED(401)"]);
}

#[test]
fn a_command_that_came_after_the_expiry_had_no_effect() {
    let mut world = World::registered();
    world.command("a", 5);
    world.sent();
    world.says(&reply(1, 0, Code::SESSION_EXPIRED));
    assert_eq!(world.told(), ["Expired", "0 NotApplied SESSION_EXPIRED(401)"]);
}

#[test]
fn safe_time_counts_from_sending_and_comes_back_with_an_answer() {
    let mut world = World::registered();
    world.pass(Micros::from_millis(3_333));
    assert!(world.sent().is_empty());
    world.pass(Micros::from_millis(1));
    assert_eq!(world.sent(), ["keep-alive #0"], "a third of ten seconds");
    let sent_at = world.now;
    world.now = world.now.after(SECOND);
    world.says(&Response::KeptAlive { session: S1, index: Index(1) });
    let until = world.session.safe_until().unwrap();
    assert!(until <= sent_at.after(Micros(10 * SECOND.0)), "not from when the answer came");

    world.session.on_disconnected(world.now);
    let left = until.since(world.now);
    world.wait(Micros(left.0 - 1));
    assert!(world.told().is_empty());
    world.wait(Micros(1));
    assert_eq!(world.told(), ["Suspended"]);
    world.connect();
    assert_eq!(world.sent(), ["attach S100"]);
    world.says(&attached(vec![]));
    assert!(world.told().is_empty(), "a deposed leader could have said that");
    assert_eq!(world.sent(), ["keep-alive #0"]);
    world.says(&Response::KeptAlive { session: S1, index: Index(1) });
    assert_eq!(world.told(), ["Connected"]);
}

#[test]
fn the_reply_to_a_command_renews_from_its_first_sending() {
    let mut world = World::registered();
    world.wait(SECOND);
    world.command("a", 9);
    world.sent();
    world.wait(SECOND);
    world.reattach();
    world.sent();
    world.wait(SECOND);
    world.replies(1, 101);
    assert_eq!(world.session.safe_until(), Some(Micros(11 * SECOND.0)));
}

#[test]
fn a_session_found_again_after_a_long_time_is_not_called_connected() {
    let mut world = World::new();
    world.session.register(world.now);
    world.connect();
    assert_eq!(world.sent(), ["register 0"]);
    world.session.on_disconnected(world.now);
    world.wait(Micros(11 * SECOND.0));
    world.connect();
    assert_eq!(world.sent(), ["register 0"]);
    world.says(&registered(0, S1));
    let told = world.told();
    assert_eq!(told, ["Suspended"], "the first register may have opened it eleven seconds ago");
    world.wait(Micros(0));
    assert_eq!(world.sent(), ["keep-alive #0"]);
    world.says(&Response::KeptAlive { session: S1, index: Index(1) });
    assert_eq!(world.told(), ["Connected"]);
}

/// Else the clients of a node that has too much to do would ask it as fast as it can refuse.
#[test]
fn a_keep_alive_that_is_refused_for_load_waits_before_it_is_sent_again() {
    let mut world = World::registered();
    let timeout = world.session.config.timeout;
    world.wait(Micros(timeout.0 / 3));
    assert_eq!(world.sent(), ["keep-alive #0"]);
    let (of, code) = (RefusedOf::Session(S1), Code::OVERLOADED);
    let retry = Micros::from_millis(200);
    world.says(&Response::Refused { of, code, retry, leader: "", text: "" });
    assert!(world.session.deadline() >= Some(world.now.after(retry)));
    world.wait(Micros::from_millis(199));
    assert!(world.sent().is_empty());
    world.wait(SECOND);
    assert_eq!(world.sent(), ["keep-alive #0"]);
}

#[test]
fn a_silent_node_is_left() {
    let mut world = World::registered();
    let silent = world.address.clone();
    world.command("a", 60);
    world.sent();
    world.pass(Micros::from_millis(1_999));
    world.look();
    assert_eq!(world.address, silent);
    world.pass(Micros::from_millis(1));
    world.look();
    assert_ne!(world.address, silent);
}

#[test]
fn silence_counts_from_the_first_request_after_an_idle_time() {
    let mut world = World::new();
    world.connect();
    let address = world.address.clone();
    world.pass(Micros(60 * SECOND.0));
    world.query("q");
    assert_eq!(world.sent(), ["query q after #0 seen 0"]);
    world.pass(SECOND);
    world.look();
    assert_eq!(world.address, address);
    world.pass(SECOND);
    world.look();
    assert_ne!(world.address, address);
}

/// Each call ends before the silence has been long enough; together they have heard nothing.
#[test]
fn calls_that_end_early_do_not_hide_the_silence() {
    let mut world = World::new();
    world.connect();
    let silent = world.address.clone();
    for _ in 0..4 {
        world.look();
        assert_eq!(world.address, silent);
        let (level, kind, schema, resource) = (Level::Linearizable, 18, 1, ResourceId(5));
        let call = Call::Query { level, kind, schema, resource, payload: Vec::new() };
        world.session.submit(world.now, call, world.now.after(Micros(SECOND.0 / 2)));
        assert_eq!(world.sent().len(), 1);
        world.pass(Micros(SECOND.0 * 3 / 4));
    }
    world.look();
    assert_ne!(world.address, silent);
}

#[test]
fn an_idle_session_without_members_needs_no_connection() {
    let mut world = World::new();
    world.connect();
    world.session.on_disconnected(world.now);
    assert_eq!(world.session.deadline(), None);
    world.told();
    world.address.clear();
    world.query("q");
    world.connect();
    assert_eq!(world.sent(), ["query q after #0 seen 0"]);
}

#[test]
fn a_stranger_and_another_cluster_are_left() {
    let mut world = World::registered();
    world.session.on_bytes(world.now, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(world.session.tried().contains("HTTP is spoken"), "{}", world.session.tried());
    world.look();
    let address = world.address.clone();
    world.session.on_connected(world.now, &address);
    let hello = Hello::decode(&std::mem::take(world.session.outgoing())).unwrap();
    assert_eq!(hello.cluster, ClusterId(9), "the first that answered");
    let other = Hello { cluster: ClusterId(8), groups: 8, ..hello };
    world.session.on_bytes(world.now, &other.encode());
    assert!(world.session.tried().contains("E0701"), "{}", world.session.tried());
}

#[test]
fn closing_ends_everything_and_tells_the_cluster() {
    let mut world = World::registered();
    world.command("sent", 5);
    world.sent();
    world.session.close(world.now);
    assert_eq!(world.told(), ["0 Unknown CLIENT_CLOSED(709)"]);
    assert_eq!(world.sent(), ["close S100"]);
    world.replies(1, 101);
    world.says(&Response::Closed { session: S1 });
    assert_eq!(world.told(), ["Closed"]);
    world.command("late", 5);
    assert_eq!(world.told(), ["0 NotApplied CLIENT_CLOSED(709)"]);
    assert_eq!(world.session.deadline(), None);
}

#[test]
fn a_gap_in_the_log_is_filled_from_the_first_unanswered() {
    let mut world = World::registered();
    for text in ["a", "b", "c"] {
        world.command(text, 5);
    }
    world.sent();
    world.says(&reply(3, 0, Code::SEQUENCE_GAP));
    assert!(world.sent().is_empty(), "after a pause");
    world.wait(SECOND);
    assert_eq!(world.sent(), ["#1 a acked #0", "#2 b acked #0", "#3 c acked #0"]);
}

#[test]
fn more_than_fits_into_the_buffer_goes_out_as_it_drains() {
    let mut world = World::registered();
    let large = "x".repeat(600_000);
    for _ in 0..4 {
        world.command(&large, 5);
    }
    let sent: Vec<usize> = (0..3).map(|_| world.sent().len()).collect();
    assert_eq!(sent, [2, 2, 0]);
}
