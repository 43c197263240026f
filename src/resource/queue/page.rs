//! What a queue answers: tasks, and how many there are.

use margay_log::id::Index;

use super::state::QueueState;
use super::tasks::Task;
use super::*;
use crate::machine::{Query, bytes};
use crate::resource::codec::{Operation, Scratch, access, page_limit};

/// Dead letters on one page, at most.
const PAGE_MAX: u32 = 1_000;

impl QueueState {
    /// 0, or 1, number and value of the first that can be had.
    pub(super) fn put_first(&self, out: &mut Vec<u8>) {
        let first = self.tasks.first_ready();
        out.push(u8::from(first.is_some()));
        if let Some((name, task)) = first.and_then(|name| Some((name, self.tasks.get(name)?))) {
            bytes::put_u64(out, name.0);
            out.extend_from_slice(task.pair.value());
        }
    }

    /// A count; then number, hand-outs, value of each.
    pub(super) fn put_tasks(&self, names: impl Iterator<Item = Index>, out: &mut Vec<u8>) {
        let tasks = names.filter_map(|name| Some((name, self.tasks.get(name)?)));
        put_tasks(tasks, out);
    }

    pub(super) fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, mut scratch) = (query.payload, Scratch::new());
        match query.schema {
            PeekV1::SCHEMA => {
                access::<PeekV1>(payload, &mut scratch)?;
                self.put_first(out);
            }
            ContainsV1::SCHEMA => {
                let task = access::<ContainsV1>(payload, &mut scratch)?.task.to_native();
                out.push(u8::from(self.tasks.get(Index(task)).is_some()));
            }
            StatusV1::SCHEMA => {
                access::<StatusV1>(payload, &mut scratch)?;
                let (ready, leased) = (self.tasks.ready(), self.tasks.leased());
                let delayed = self.tasks.len() - ready - leased;
                for count in [ready, delayed, leased, self.dead.len()] {
                    bytes::put_u64(out, count as u64);
                }
                bytes::put_u32(out, self.claims.waiting(query.time));
            }
            LeasedV1::SCHEMA => {
                let take = access::<LeasedV1>(payload, &mut scratch)?.take.to_native();
                self.put_tasks(self.tasks.of_take(Index(take)), out);
            }
            DeadV1::SCHEMA => {
                let dead = access::<DeadV1>(payload, &mut scratch)?;
                let limit = page_limit(dead.limit.to_native(), PAGE_MAX);
                let page = self.dead.after(Index(dead.after.to_native()));
                put_tasks(page.take(limit as usize), out);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }
}

fn put_tasks<'a>(tasks: impl Iterator<Item = (Index, &'a Task)>, out: &mut Vec<u8>) {
    let at = out.len();
    let mut count = 0_u32;
    bytes::put_u32(out, 0);
    let mut size = 0;
    for (name, task) in tasks {
        size += task.pair.size();
        if count > 0 && size > ANSWER_BYTES {
            break;
        }
        bytes::put_u64(out, name.0);
        bytes::put_u32(out, task.deliveries);
        bytes::put_bytes(out, task.pair.value());
        count += 1;
    }
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
}
