//! What a group answers to questions, page by page.

use super::state::GroupState;
use super::*;
use crate::machine::bytes;
use crate::machine::{Pair, Query};
use crate::resource::codec::{Operation, Scratch, access, page_limit};
use margay_log::id::Index;

impl GroupState {
    pub(super) fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, mut scratch) = (query.payload, Scratch::new());
        match query.schema {
            MembersV1::SCHEMA => {
                let page = access::<MembersV1>(payload, &mut scratch)?;
                let limit = page_limit(page.limit.to_native(), PAGE_MAX);
                let from = Index(page.after.to_native().saturating_add(1));
                let members = self.members.range(from..);
                put_page(members, limit, out, |(name, pair), out| {
                    self.put_member(*name, pair, out)
                });
            }
            MemberV1::SCHEMA => {
                let id = &access::<MemberV1>(payload, &mut scratch)?.id;
                let found = self.ids.get(&id[..]).and_then(|name| self.members.get_key_value(name));
                put_page(found.into_iter(), 1, out, |(name, pair), out| {
                    self.put_member(*name, pair, out);
                });
            }
            InboxV1::SCHEMA => {
                let inbox = access::<InboxV1>(payload, &mut scratch)?;
                let member = Index(inbox.member.to_native());
                if !self.members.contains_key(&member) {
                    return Err(Code::NO_SUCH_MEMBER);
                }
                let behind = (Index(inbox.brought.to_native()), Index(inbox.message.to_native()));
                let all = self.mail.inbox(member, behind);
                let alive = all.filter(|(_, _, message)| !message.is_due(query.time));
                put_page(alive, INBOX_MAX, out, |(by, name, message), out| {
                    bytes::put_u64(out, by.0);
                    bytes::put_u64(out, name.0);
                    bytes::put_u64(out, message.from.0);
                    out.push(u8::from(message.ask));
                    bytes::put_bytes(out, &message.value);
                });
            }
            AnswersV1::SCHEMA => {
                let wanted = access::<AnswersV1>(payload, &mut scratch)?;
                let name = Index(wanted.message.to_native());
                let is_question = self.claims.hold(name).is_some() && !self.is_member(name);
                if !is_question {
                    return Err(Code::NO_SUCH_MESSAGE);
                }
                let outcomes = self.mail.outcomes(name, Index(wanted.after.to_native()));
                put_page(outcomes, PAGE_MAX, out, |(member, outcome), out| {
                    bytes::put_u64(out, member.0);
                    out.push(outcome.kind);
                    bytes::put_bytes(out, &outcome.id);
                    bytes::put_bytes(out, &outcome.value);
                });
            }
            StatusV1::SCHEMA => {
                access::<StatusV1>(payload, &mut scratch)?;
                let (placed, homeless, size) = self.mail.counts();
                for count in [self.members.len() as u64, placed as u64, homeless as u64, size] {
                    bytes::put_u64(out, count);
                }
                let unanswered = u32::try_from(self.unanswered()).expect("at most WAITERS_MAX");
                bytes::put_u32(out, self.claims.waiting(query.time).saturating_sub(unanswered));
                bytes::put_u32(out, unanswered);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    pub(super) fn is_member(&self, name: Index) -> bool {
        self.members.contains_key(&name)
    }

    fn put_member(&self, name: Index, pair: &Pair, out: &mut Vec<u8>) {
        bytes::put_u64(out, name.0);
        bytes::put_u64(out, self.claims.hold(name).map_or(0, |hold| hold.session.0));
        bytes::put_u32(out, self.mail.waiting_for(name));
        bytes::put_bytes(out, pair.key());
        bytes::put_bytes(out, pair.value());
    }
}

/// Whether there are more, a count, and each as `put` writes it.
fn put_page<T>(
    all: impl Iterator<Item = T>,
    limit: u32,
    out: &mut Vec<u8>,
    mut put: impl FnMut(T, &mut Vec<u8>),
) {
    let (mut count, mut more, at) = (0_u32, false, out.len());
    out.push(0);
    bytes::put_u32(out, 0);
    for one in all {
        let before = out.len();
        if count < limit {
            put(one, out);
        }
        if count == limit || (count > 0 && out.len() - at > PAGE_BYTES) {
            out.truncate(before);
            more = true;
            break;
        }
        count += 1;
    }
    out[at] = u8::from(more);
    out[at + 1..at + 5].copy_from_slice(&count.to_le_bytes());
}
