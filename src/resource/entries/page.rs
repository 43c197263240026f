//! Reading entries in order: ranges, page by page.

use super::{Entries, Extra, Held, Sought};
use crate::machine::bytes;
use crate::machine::{Code, LogTime};
use crate::resource::codec::page_limit;
use std::ops::Bound;

/// Items on a page, at most.
pub const PAGE_MAX: u32 = 1_000;
/// Bytes of keys and values on a page, at most, beyond the first item.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Entries looked at for one page, at most: where many have just ended, a page may be short, or
/// empty, and not the last.
pub(in crate::resource) const SCAN_MAX: usize = 10_000;

/// Which entries to read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::resource) struct Page<'a> {
    /// What the keys begin with.
    pub prefix: &'a [u8],
    /// The least key.
    pub from: Option<&'a [u8]>,
    /// The keys are less than this.
    pub to: Option<&'a [u8]>,
    /// The page begins after this key, in its direction.
    pub after: Option<&'a [u8]>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
    /// From the last key to the first.
    pub descending: bool,
    /// Whether to write the values.
    pub values: bool,
}

type Bounds<'a> = (Bound<Sought<'a>>, Bound<Sought<'a>>);

impl Page<'_> {
    /// Calls `visit` with the bounds of the range, unless that is empty.
    fn with_bounds<R>(&self, visit: impl FnOnce(Bounds<'_>) -> R) -> Option<R> {
        let end_of_prefix = successor(self.prefix);
        let mut low = Bound::Included(self.prefix.max(self.from.unwrap_or_default()));
        let ends = [self.to, end_of_prefix.as_deref()];
        let mut high = match ends.into_iter().flatten().min() {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        match (self.after, self.descending) {
            (Some(after), false) if is_within(low, after) => low = Bound::Excluded(after),
            (Some(after), true) if is_below(after, high) => high = Bound::Excluded(after),
            _ => {}
        }
        let (Bound::Included(least) | Bound::Excluded(least)) = low else { return None };
        is_below(least, high).then(|| visit((low.map(Sought::new), high.map(Sought::new))))
    }
}

fn is_within(low: Bound<&[u8]>, key: &[u8]) -> bool {
    matches!(low, Bound::Included(least) if key >= least)
}

fn is_below(key: &[u8], high: Bound<&[u8]>) -> bool {
    !matches!(high, Bound::Excluded(end) if key >= end)
}

/// The least key that is greater than all that begin with `prefix`, if there is one.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

impl<T: Extra> Entries<T> {
    /// Appends a page: the key to go on after or none at the end, a count, then key, version and
    /// value of each.
    pub(in crate::resource) fn page(&self, page: &Page<'_>, now: LogTime, out: &mut Vec<u8>) {
        let limit = page_limit(page.limit, PAGE_MAX);
        let mut body = Vec::new();
        let mut count = 0_u32;
        let next = self.scan(page, now, |held| {
            let value = if page.values { held.pair.value() } else { &[] };
            let size = held.pair.key().len() + value.len();
            if count == limit || (count > 0 && body.len() + size > PAGE_BYTES_MAX) {
                return false;
            }
            bytes::put_bytes(&mut body, held.pair.key());
            bytes::put_u64(&mut body, held.version.0);
            bytes::put_optional(&mut body, page.values.then_some(value));
            count += 1;
            true
        });
        bytes::put_optional(out, next.as_deref());
        bytes::put_u32(out, count);
        out.extend_from_slice(&body);
    }

    /// The first entry of a range that is not due.
    ///
    /// # Errors
    /// [`Code::OVERLOADED`] where the first [`SCAN_MAX`] are all due, and still to be removed.
    pub(in crate::resource) fn first(
        &self,
        page: &Page<'_>,
        now: LogTime,
    ) -> Result<Option<&Held<T>>, Code> {
        let found = page.with_bounds(|bounds| {
            let mut range = self.held.range(bounds);
            for _ in 0..SCAN_MAX {
                match if page.descending { range.next_back() } else { range.next() } {
                    Some(held) if held.is_due(now) => {}
                    found => return Ok(found),
                }
            }
            Err(Code::OVERLOADED)
        });
        found.unwrap_or(Ok(None))
    }

    /// Shows the entries of a range to `visit` until that says no. Returns the key to go on after,
    /// or `None` at the end.
    pub(in crate::resource) fn scan(
        &self,
        page: &Page<'_>,
        now: LogTime,
        mut visit: impl FnMut(&Held<T>) -> bool,
    ) -> Option<Vec<u8>> {
        let next = page.with_bounds(|bounds| {
            let mut range = self.held.range(bounds);
            let mut last: Option<&Held<T>> = None;
            for scanned in 0.. {
                let next = if page.descending { range.next_back() } else { range.next() };
                let held = next?;
                let stops = scanned == SCAN_MAX;
                if stops || (!held.is_due(now) && !visit(held)) {
                    break;
                }
                last = Some(held);
            }
            last.map(|held| held.pair.key().to_vec())
        });
        next.flatten()
    }

    /// Appends how many of the keys are answered, then version and value of each, without a value
    /// and with version 0 where there is none. All of them, unless they grow too large together.
    pub(in crate::resource) fn get_many<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        now: LogTime,
        out: &mut Vec<u8>,
    ) {
        let mut body = Vec::new();
        let mut count = 0_u32;
        for key in keys {
            let held = self.get(key, now);
            let size = held.map_or(0, |held| held.pair.value().len());
            if count > 0 && body.len() + size > PAGE_BYTES_MAX {
                break;
            }
            bytes::put_u64(&mut body, held.map_or(0, |held| held.version.0));
            bytes::put_bytes(&mut body, held.map_or(&[], |held| held.pair.value()));
            count += 1;
        }
        bytes::put_u32(out, count);
        out.extend_from_slice(&body);
    }

    /// Looks for an entry with a value, among the next [`SCAN_MAX`]. Appends its key or none, and
    /// the key to go on after or none.
    pub(in crate::resource) fn find_value(
        &self,
        value: &[u8],
        after: Option<&[u8]>,
        now: LogTime,
        out: &mut Vec<u8>,
    ) {
        let mut found = None;
        let next = self.scan(&Page { after, ..Page::default() }, now, |held| {
            if held.pair.value() == value {
                found = Some(held.pair.key().to_vec());
            }
            found.is_none()
        });
        bytes::put_optional(out, found.as_deref());
        bytes::put_optional(out, next.as_deref().filter(|_| found.is_none()));
    }
}
