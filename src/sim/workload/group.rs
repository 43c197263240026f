//! Members that come and go, and messages between them. Nothing that was acknowledged to a sender
//! is lost, and nothing is answered twice; an inbox is in order, each message once; an id has one
//! member at a time, and a member whose session certainly lives is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;

use super::{Actor, Journal, Workload};
use crate::machine::{Code, Outcome};
use crate::resource::Failure as Refused;
use crate::resource::group::{Inbox, MemberGroup, Membership, Message, To};
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Serving {
    group: MemberGroup<Desk>,
    me: Option<Me>,
}

/// Being a member.
struct Me {
    member: Membership<Desk>,
    inbox: Inbox<Desk>,
    /// When that was known, and how many sessions had ended by then.
    from: u64,
    sessions: u64,
    /// What the first stream of messages brought; a later one begins with what was not answered.
    seen: Vec<Seen>,
    is_first: bool,
}

impl Me {
    fn begin_anew(&mut self) {
        self.inbox = self.member.messages();
        self.is_first = false;
    }
}

/// A message that was read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    number: u64,
    to: u8,
}

/// A time in which an id was certainly somebody's, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    from: u64,
    until: u64,
    number: u64,
    client: u64,
}

/// What happened to members and messages.
#[derive(Default)]
pub(in crate::sim) struct Post {
    tenures: BTreeMap<String, Vec<Tenure>>,
    /// Messages for any whose sending was acknowledged, by their numbers.
    sent: BTreeSet<u64>,
    /// Those for all.
    sent_to_all: BTreeSet<u64>,
    /// Messages for any that a member has answered, or may have.
    answered: BTreeSet<u64>,
    /// Those of them of which it is certain.
    surely: BTreeSet<u64>,
    /// What each membership read, in its order.
    read: Vec<Vec<Seen>>,
    /// Somebody was removed: that a session lives proves nothing any more.
    has_removed: bool,
    wrong: Vec<String>,
}

/// What a message says first: whom it is for. The rest is a number of its own.
const ANY: u8 = 0;
const ONE: u8 = 1;
const ALL: u8 = 2;

impl Journal for Post {
    fn judge(&mut self) -> Result<u64, Failure> {
        for (id, tenures) in &mut self.tenures {
            tenures.sort_by_key(|tenure| (tenure.number, tenure.from));
            for pair in tenures.windows(2) {
                let [before, after] = [pair[0], pair[1]];
                // Where leaving has failed, joining again finds the same membership.
                let shared = before.number == after.number && before.client != after.client;
                if shared || before.until > after.from {
                    let details = format!("{id}: {before:?} and {after:?}");
                    return Err(Failure::new("an id has one member at a time", details));
                }
            }
        }
        if let Some(lost) = self.sent.iter().find(|number| !self.answered.contains(number)) {
            let details = format!("message {lost} was sent and never answered");
            return Err(Failure::new("what was acknowledged is not lost", details));
        }
        for read in &self.read {
            self.wrong.extend(disorder(read, &self.sent_to_all));
        }
        match self.wrong.first() {
            None => Ok(0),
            Some(wrong) => Err(Failure::new("messages come once and in order", wrong.clone())),
        }
    }
}

/// What is wrong with what a membership read.
fn disorder(read: &[Seen], sent_to_all: &BTreeSet<u64>) -> Option<String> {
    let numbers: BTreeSet<u64> = read.iter().map(|seen| seen.number).collect();
    if numbers.len() < read.len() {
        return Some(format!("a message came twice: {read:?}"));
    }
    // Those for any may come late, from a member that has left.
    let in_order = read.iter().filter(|seen| seen.to != ANY).map(|seen| seen.number);
    let in_order: Vec<u64> = in_order.collect();
    if !in_order.is_sorted() {
        return Some(format!("out of order: {read:?}"));
    }
    let (first, last) = (*in_order.first()?, *in_order.last()?);
    let missed = sent_to_all.range(first..last).find(|number| !numbers.contains(number))?;
    Some(format!("{missed} was for all: {read:?}"))
}

impl Workload for Serving {
    type Journal = Post;

    async fn open(actor: &mut Actor<Post>) -> Serving {
        Serving { group: actor.open(|desk| MemberGroup::open(desk, "group")).await, me: None }
    }

    async fn act(&mut self, actor: &mut Actor<Post>) {
        if self.me.is_none() {
            return self.join(actor).await;
        }
        match actor.rng.below(12) {
            0 => self.leave(actor).await,
            1 => self.send_all(actor).await,
            2 => self.send_one(actor).await,
            3 | 4 => self.send(actor).await,
            5 => self.ask(actor).await,
            6 => self.is_listed(actor).await,
            _ => self.serve(actor).await,
        }
        actor.pause(30_000).await;
    }

    /// All that is left is answered.
    async fn look(&mut self, actor: &mut Actor<Post>) {
        for round in 0_u64.. {
            match &mut self.me {
                // What could not be answered comes again.
                Some(me) if round % 8 == 0 => me.begin_anew(),
                Some(_) => {}
                None => self.join(actor).await,
            }
            self.serve(actor).await;
            let Ok(status) = self.group.status().await else { continue };
            if status.messages + status.homeless == 0 {
                break;
            }
            if round % 32 == 31 {
                self.remove_ghosts(actor).await;
            }
            actor.pause(100_000).await;
        }
        self.is_listed(actor).await;
        self.leave(actor).await;
    }
}

impl Serving {
    async fn join(&mut self, actor: &mut Actor<Post>) {
        let sessions = actor.desk.expired();
        let joined = match actor.rng.below(3) {
            0 => self.group.join(b"").await,
            id => {
                let wait = Duration::from_millis(1 + actor.rng.below(1_000));
                self.group.join_within(&format!("n{id}"), b"", wait).await
            }
        };
        if let Some(Some((from, Some(member)))) = actor.outcome(or_refused(joined)) {
            let inbox = member.messages();
            self.me = Some(Me { member, inbox, from, sessions, seen: Vec::new(), is_first: true });
        } else {
            actor.pause(50_000).await;
        }
    }

    async fn leave(&mut self, actor: &mut Actor<Post>) {
        let Some(me) = self.me.take() else { return };
        let number = me.member.number();
        // Known to be its own until it is heard of no more, or leaves now.
        let until = actor.now().min(actor.desk.safe_until());
        let mut is_sure = actor.desk.expired() == me.sessions && until > me.from;
        actor.note(|post| is_sure &= !post.has_removed);
        if is_sure {
            let tenure = Tenure { from: me.from, until, number, client: actor.id };
            let id = me.member.id().to_owned();
            actor.note(|post| post.tenures.entry(id).or_default().push(tenure));
        }
        actor.note(|post| post.read.push(me.seen));
        if actor.rng.chance(9, 10) {
            actor.outcome(or_refused(me.member.leave().await));
        }
    }

    fn message(actor: &mut Actor<Post>, to: u8) -> Vec<u8> {
        let mut message = vec![to];
        message.extend_from_slice(&actor.fresh().to_le_bytes());
        message
    }

    async fn send(&mut self, actor: &mut Actor<Post>) {
        let message = Serving::message(actor, ANY);
        let sent = self.group.send(To::Any, &message).await;
        if let Some(Some((_, Some(number)))) = actor.outcome(or_refused(sent)) {
            actor.note(|post| post.sent.extend([number]));
        }
    }

    async fn send_one(&mut self, actor: &mut Actor<Post>) {
        let (message, id) = (Serving::message(actor, ONE), 1 + actor.rng.below(2));
        let sent = self.group.send(To::Member(&format!("n{id}")), &message).await;
        actor.outcome(or_refused(sent));
    }

    async fn send_all(&mut self, actor: &mut Actor<Post>) {
        let message = Serving::message(actor, ALL);
        let sent = self.group.send_all(&message).await;
        if let Some(Some((_, Some(number)))) = actor.outcome(or_refused(sent)) {
            actor.note(|post| post.sent_to_all.extend([number]));
        }
    }

    async fn ask(&mut self, actor: &mut Actor<Post>) {
        let message = Serving::message(actor, ANY);
        let within = Duration::from_millis(50 + actor.rng.below(500));
        let answer = self.group.ask(To::Any, &message, within).await;
        if let Some(Some((_, Some(answer)))) = actor.outcome(or_refused(answer))
            && answer != answer_to(&message)
        {
            let wrong = format!("{message:?} was answered {answer:?}");
            actor.note(|post| post.wrong.push(wrong));
        }
    }

    /// Answers what has come.
    async fn serve(&mut self, actor: &mut Actor<Post>) {
        let Some(me) = &mut self.me else { return };
        loop {
            let next = poll_fn(|context| {
                Poll::Ready(match Pin::new(&mut me.inbox).poll_next(context) {
                    Poll::Ready(next) => next,
                    Poll::Pending => None,
                })
            });
            let message = match next.await {
                None => return actor.pause(30_000).await,
                Some(Ok(message)) => message,
                Some(Err(failure)) => {
                    // It is over, or the query was not answered in time: the stream ends so.
                    if matches!(failure.code, Code::NO_SUCH_MEMBER | Code::SESSION_EXPIRED) {
                        return self.leave(actor).await;
                    }
                    me.begin_anew();
                    continue;
                }
            };
            let to = message.value().first().copied().unwrap_or(ANY);
            if me.is_first {
                me.seen.push(Seen { number: message.number(), to });
            }
            if actor.rng.chance(1, 8) {
                actor.pause(50_000).await;
            }
            answer(actor, message).await;
        }
    }

    /// A member whose join or leave was given up by its client in the trouble is there for as long
    /// as its session, and nobody reads what it gets.
    async fn remove_ghosts(&mut self, actor: &mut Actor<Post>) {
        let own = self.me.as_ref().map(|me| me.member.number());
        let Ok(page) = self.group.members(0, 0).await else { return };
        let others = page.members.into_iter().filter(|member| Some(member.number) != own);
        for ghost in others.filter(|member| member.messages > 0) {
            actor.note(|post| post.has_removed = true);
            actor.outcome(self.group.remove(&ghost.id).await);
        }
    }

    /// A member whose session certainly lives when this is answered is there.
    async fn is_listed(&mut self, actor: &mut Actor<Post>) {
        let Some(me) = &self.me else { return };
        let found = self.group.member(me.member.id()).await;
        let Some(Some((now, found))) = actor.outcome(found) else { return };
        let mut lives = actor.desk.expired() == me.sessions && now < actor.desk.safe_until();
        actor.note(|post| lives &= !post.has_removed);
        let number = found.map(|found| found.number);
        if lives && number != Some(me.member.number()) {
            let wrong = format!("{} has {number:?}", me.member.id());
            actor.note(|post| post.wrong.push(wrong));
        }
    }
}

/// That nobody is there, or has answered in time, is an answer, too.
fn or_refused<T>(result: Result<T, Refused>) -> Result<Option<T>, Refused> {
    let codes = [
        Code::NO_SUCH_MEMBER,
        Code::MEMBER_EXISTS,
        Code::INBOX_FULL,
        Code::NO_SUCH_MESSAGE,
        Code::TIMEOUT,
    ];
    super::or_refused(result, &codes)
}

/// What answers a message: whoever gets it knows no other.
fn answer_to(message: &[u8]) -> Vec<u8> {
    message.iter().map(|byte| !byte).collect()
}

async fn answer(actor: &mut Actor<Post>, message: Message<Desk>) {
    let (number, reply) = (message.number(), answer_to(message.value()));
    let is_any = message.value().first() == Some(&ANY);
    let answered = message.reply(&reply).await;
    let may_be = match &answered {
        Ok(()) => true,
        Err(failure) => failure.outcome() != Outcome::NotApplied,
    };
    let is_sure = answered.is_ok();
    actor.outcome(or_refused(answered));
    actor.note(|post| {
        if may_be && is_any {
            post.answered.insert(number);
        }
        if is_sure && is_any && !post.surely.insert(number) {
            post.wrong.push(format!("message {number} was answered twice"));
        }
    });
}
