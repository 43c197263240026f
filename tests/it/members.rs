//! The member group in a real cluster: over a leader that goes, sessions that end, own types.

use std::thread;
use std::time::{Duration, Instant};

use margay::machine::Code;
use margay::resource::group::{Departure, MemberEvent, To};
use margay::resource::typed::Json;
use margay::server::{LocalCluster, Node};
use margay_log::id::GroupId;

use crate::PATIENCE;

/// Whom an event is about, and what happened.
fn told(event: &MemberEvent) -> (&str, &'static str) {
    match event {
        MemberEvent::Joined { id, .. } => (id, "joined"),
        MemberEvent::Left { id, why: Departure::SessionEnded, .. } => (id, "session ended"),
        MemberEvent::Left { id, .. } => (id, "left"),
        _ => ("", "something else"),
    }
}

#[test]
fn members_answer_over_a_leader_that_goes_and_their_sessions_decide_who_is_there() {
    let mut cluster = LocalCluster::builder(3).groups(1).start().expect("it starts");
    let builder = || cluster.client_builder().timeout(PATIENCE);
    let client = builder().session_timeout(Duration::from_secs(5)).connect().unwrap();
    let workers: Vec<_> = (0..2).map(|_| builder().connect().unwrap()).collect();
    let group = client.member_group("workers").wait().unwrap();
    let mut watch = group.watch(None);

    let serving: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(n, worker)| {
            let group = worker.member_group("workers").wait().unwrap();
            let member = group.join_as(&format!("w{n}"), b"").wait().unwrap();
            thread::spawn(move || {
                let mut inbox = member.messages();
                loop {
                    match inbox.wait_next() {
                        Ok(message) => {
                            let answer = [member.id().as_bytes(), b" ", message.value()].concat();
                            // The question may have been withdrawn; the next one may not.
                            let _ = message.reply(&answer).wait();
                        }
                        Err(failure) => return failure.code,
                    }
                }
            })
        })
        .collect();

    let ask = |n: u32| group.ask(To::Any, n.to_string().as_bytes(), PATIENCE).wait();
    for n in 0..20 {
        assert_eq!(ask(n).unwrap(), format!("w{} {n}", n % 2).into_bytes(), "in turn");
    }
    let begun = Instant::now();
    let leader = loop {
        match cluster.leader(GroupId(0)) {
            Some(leader) => break leader,
            None => assert!(begun.elapsed() < PATIENCE, "nobody leads"),
        }
    };
    cluster.stop_node(leader).unwrap();
    for n in 20..40 {
        let answer = ask(n).expect("over the new leader");
        assert!(answer.ends_with(format!(" {n}").as_bytes()), "{answer:?}");
    }
    let all = group.ask_all(b"all", PATIENCE).wait().unwrap();
    let answers: Vec<_> = all.into_iter().map(|one| (one.id, one.answer.unwrap())).collect();
    let answer = |id: &str| (id.to_owned(), format!("{id} all").into_bytes());
    assert_eq!(answers, [answer("w0"), answer("w1")]);

    for worker in &workers {
        worker.close().unwrap();
    }
    for serving in serving {
        let code = serving.join().unwrap();
        assert!([Code::CLIENT_CLOSED, Code::SESSION_EXPIRED].contains(&code), "{code}");
    }
    assert_eq!(group.members(0, 0).wait().unwrap().members, []);
    let heard: Vec<MemberEvent> = (0..4).map(|_| watch.wait_next().unwrap()).collect();
    let heard: Vec<_> = heard.iter().map(told).collect();
    assert_eq!(heard[..2], [("w0", "joined"), ("w1", "joined")]);
    assert_eq!(heard[2..], [("w0", "session ended"), ("w1", "session ended")]);
    let nobody = ask(99).unwrap_err();
    assert_eq!(nobody.code, Code::NO_SUCH_MEMBER);
}

#[test]
fn messages_and_answers_have_the_programs_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let group = client.member_group_of::<Json<Vec<u32>>>("sums").wait().unwrap();
    let member = group.join(b"adder").wait().unwrap();
    let mut inbox = member.messages();
    let asked = group.ask(To::Any, &Json(vec![1, 2, 3]), PATIENCE);
    let message = inbox.wait_next().unwrap();
    let sum = message.value().unwrap().0.iter().sum();
    message.reply(&Json(vec![sum])).wait().unwrap();
    assert_eq!(asked.wait().unwrap(), Json(vec![6]));

    // What somebody else sent is no list of numbers: whoever gets it can say so.
    let asked = group.bytes().ask(To::Member(member.bytes().id()), b"no JSON", PATIENCE);
    let message = inbox.wait_next().unwrap();
    let failure = message.value().unwrap_err();
    assert!(failure.to_string().contains("Vec<u32>"), "{failure}");
    message.fail(&failure.to_string()).wait().unwrap();
    assert_eq!(asked.wait().unwrap_err().code, Code::MESSAGE_FAILED);
    member.leave().wait().unwrap();
}
