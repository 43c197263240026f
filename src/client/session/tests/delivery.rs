//! What a node tells without being asked: events and notices, each once, across connections.

use super::*;

fn event(subscription: CallId, index: u64, ordinal: u32) -> Response<'static> {
    let (subscription, index) = (subscription.0, Index(index));
    Response::Event { subscription, index, ordinal, kind: 1, payload: b"what" }
}

fn subscribe(world: &mut World) -> CallId {
    let call = Call::Subscribe { resource: ResourceId(5), after: None, filter: Vec::new() };
    world.session.submit(world.now, call, world.now.after(SECOND))
}

fn notice(waiter: u64, state: NoticeState) -> Notice {
    Notice { session: S1, resource: ResourceId(5), waiter: Index(waiter), state }
}

#[test]
fn a_subscription_goes_on_behind_the_last_event() {
    let mut world = World::registered();
    let id = subscribe(&mut world);
    assert_eq!(world.sent(), ["subscribe from now"]);
    world.says(&Response::Subscribed { id: id.0, index: Index(110) });
    for (index, ordinal) in [(111, 0), (111, 1), (111, 1), (111, 0), (113, 0)] {
        world.says(&event(id, index, ordinal));
    }
    assert_eq!(world.told(), ["0 ok at 110 OK(0)", "event 111.0", "event 111.1", "event 113.0"]);
    world.reconnect();
    assert_eq!(world.sent(), ["subscribe after 113.0", "attach S100"]);
    world.says(&event(id, 113, 0));
    world.says(&event(id, 114, 0));
    world.says(&Response::Subscribed { id: id.0, index: Index(114) });
    assert_eq!(world.told(), ["event 114.0"]);
}

#[test]
fn a_subscription_from_now_misses_nothing_though_nothing_came() {
    let mut world = World::registered();
    let id = subscribe(&mut world);
    world.sent();
    world.says(&Response::Subscribed { id: id.0, index: Index(110) });
    world.reconnect();
    assert_eq!(world.sent(), [&format!("subscribe after 110.{}", u32::MAX), "attach S100"]);
}

/// Without a session nothing else is asked of the node.
#[test]
fn who_only_listens_notices_a_node_that_is_gone_without_a_word() {
    let mut world = World::new();
    let id = subscribe(&mut world);
    world.connect();
    assert_eq!(world.sent(), ["subscribe from now"]);
    world.says(&Response::Subscribed { id: id.0, index: Index(110) });
    let node = world.address.clone();
    for _ in 0..5 {
        world.pass(Micros(4 * SECOND.0));
        assert_eq!(world.sent(), ["status"]);
        world.says(&Response::Status { id: u64::MAX, groups: Vec::new() });
    }
    world.told();
    assert_eq!(world.address, node, "as long as it answers");
    world.pass(Micros(6 * SECOND.0));
    assert!(world.told().is_empty(), "nobody has to know");
    assert_ne!(world.address, node);
    world.connect();
    assert_eq!(world.sent(), [format!("subscribe after 110.{}", u32::MAX)]);
}

#[test]
fn a_gap_in_the_events_is_said_once() {
    let mut world = World::registered();
    let id = subscribe(&mut world);
    world.sent();
    world.says(&Response::Subscribed { id: id.0, index: Index(110) });
    world.told();
    for _ in 0..2 {
        world.says(&Response::Lagged { subscription: id.0, oldest: Index(150) });
    }
    world.says(&event(id, 120, 0));
    world.says(&event(id, 150, 0));
    assert_eq!(world.told(), ["lagged, from 150", "event 150.0"]);
}

#[test]
fn an_event_is_delivered_before_the_reply_that_saw_it() {
    let mut world = World::registered();
    let id = subscribe(&mut world);
    world.command("a", 5);
    world.sent();
    world.says(&Response::Subscribed { id: id.0, index: Index(110) });
    world.says(&event(id, 111, 0));
    world.replies(1, 111);
    assert_eq!(world.told(), ["0 ok at 110 OK(0)", "event 111.0", "1 ok at 111 OK(0)"]);
    // Lost with its reply, the next one comes in the same order: subscriptions are asked for first.
    world.command("b", 5);
    world.sent();
    world.reconnect();
    assert_eq!(world.sent(), ["subscribe after 111.0", "attach S100"]);
    world.says(&attached(vec![]));
    assert_eq!(world.sent(), ["keep-alive #1", "#2 b acked #1"]);
}

#[test]
fn a_subscription_that_is_refused_or_ended_is_told_so() {
    let mut world = World::registered();
    let refused = subscribe(&mut world);
    let ended = subscribe(&mut world);
    world.sent();
    world.refuses(RefusedOf::Subscription(refused.0), Code::NO_SUCH_RESOURCE, "");
    world.says(&Response::Subscribed { id: ended.0, index: Index(110) });
    world.refuses(RefusedOf::Subscription(ended.0), Code::NO_SUCH_RESOURCE, "");
    world.says(&event(ended, 111, 0));
    assert_eq!(
        world.told(),
        ["0 NotApplied NO_SUCH_RESOURCE(301)", "1 ok at 110 OK(0)", "ended NO_SUCH_RESOURCE(301)"],
    );
    let third = subscribe(&mut world);
    world.sent();
    world.wait(SECOND);
    assert_eq!(world.told(), ["1 NotApplied TIMEOUT(708)"]);
    assert_eq!(world.sent(), ["unsubscribe"]);
    world.says(&Response::Subscribed { id: third.0, index: Index(110) });
    assert!(world.told().is_empty());
}

#[test]
fn a_notice_is_told_once_and_the_list_at_attach_completes_the_picture() {
    let mut world = World::registered();
    let granted = NoticeState::Granted { token: 40 };
    for state in [NoticeState::Waiting, NoticeState::Waiting, granted, granted] {
        world.says(&Response::Notice(notice(40, state)));
    }
    world.says(&Response::Notice(notice(41, NoticeState::Waiting)));
    world.says(&Response::Notice(notice(42, NoticeState::Waiting)));
    world.says(&Response::Notice(notice(43, NoticeState::Waiting)));
    assert_eq!(
        world.told(),
        ["40 Waiting", "40 Granted { token: 40 }", "41 Waiting", "42 Waiting", "43 Waiting"],
    );
    assert_eq!(world.session.holding(ResourceId(5), Index(40)), Some(granted));

    // Meanwhile 40 is taken away, 41 is granted and 42 times out.
    world.reconnect();
    world.sent();
    let holds = NoticeState::Granted { token: 50 };
    world.says(&attached(vec![notice(41, holds), notice(43, NoticeState::Waiting)]));
    assert_eq!(world.told(), ["41 Granted { token: 50 }", "40 Lost", "42 TimedOut"]);
    world.says(&Response::Notice(notice(40, NoticeState::Lost)));
    assert!(world.told().is_empty());
    assert_eq!(world.session.holding(ResourceId(5), Index(40)), None);
    let foreign = Notice { session: SessionId(1), ..notice(60, NoticeState::Waiting) };
    world.says(&Response::Notice(foreign));
    assert!(world.told().is_empty(), "somebody else's");
}

#[test]
fn an_expired_session_says_what_it_has_lost() {
    let mut world = World::registered();
    let granted = NoticeState::Granted { token: 40 };
    world.says(&Response::Notice(notice(40, granted)));
    world.says(&Response::Notice(notice(41, NoticeState::Waiting)));
    world.told();
    world.refuses(RefusedOf::Session(S1), Code::SESSION_EXPIRED, "");
    assert_eq!(world.told(), ["lost 2", "Expired"]);
    assert_eq!(world.session.holding(ResourceId(5), Index(40)), None);
}

#[test]
fn a_client_that_must_not_go_on_as_somebody_else_is_closed_by_its_expiry() {
    let mut world = World::with(|config| config.recovery = Recovery::Close);
    world.session.register(world.now);
    world.connect();
    world.sent();
    world.says(&registered(0, S1));
    world.told();
    world.query("under way");
    world.refuses(RefusedOf::Session(S1), Code::SESSION_EXPIRED, "");
    assert_eq!(world.told(), ["Expired", "0 NotApplied SESSION_EXPIRED(401)", "Closed"]);
    world.command("later", 5);
    assert_eq!(world.told(), ["0 NotApplied CLIENT_CLOSED(709)"]);
}
