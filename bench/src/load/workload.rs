//! What the connections ask for.

use std::fmt;
use std::str::FromStr;

use margay::client::session::Call;
use margay::machine::{Level, ResourceId, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::counter::AddV1;
use margay::resource::map::{GetV1, PutV1};

/// Keys of a map workload.
pub const KEYS: u32 = 10_000;

/// Digits of a key: all keys are equally long, so that one operation is made from another by
/// writing its key over.
const KEY_DIGITS: usize = 12;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Writes values of the payload's size to 10,000 keys.
    MapPut,
    /// Reads them, linearizably. They are written before.
    MapGet,
    /// Adds 1 to one counter per group. The payload's size means nothing.
    CounterAdd,
}

impl Workload {
    /// All there are.
    pub const ALL: [Workload; 3] = [Workload::MapPut, Workload::MapGet, Workload::CounterAdd];

    /// As it is called on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::MapPut => "map-put",
            Workload::MapGet => "map-get",
            Workload::CounterAdd => "counter-add",
        }
    }

    /// The type and the name of the resource it uses in a group.
    pub(super) fn resource(self, group: u32) -> (u8, String) {
        match self {
            Workload::MapPut | Workload::MapGet => (kind::MAP, format!("bench-map@{group}")),
            Workload::CounterAdd => (kind::COUNTER, format!("bench-counter@{group}")),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        let known = Workload::ALL.into_iter().find(|workload| workload.name() == text);
        known.ok_or_else(|| "one of map-put, map-get, counter-add".to_string())
    }
}

/// An operation encoded once, to be copied for each key.
pub(super) struct Template {
    kind: u8,
    schema: u16,
    is_query: bool,
    bytes: Vec<u8>,
    /// Where the key stands in `bytes`, if there is one.
    key: Option<usize>,
}

impl Template {
    /// The operation that is measured.
    pub(super) fn of(workload: Workload, payload: usize) -> Template {
        match workload {
            Workload::MapPut => Template::put(payload),
            Workload::MapGet => Template::new(&GetV1 { key: key_of(0) }, true, true),
            Workload::CounterAdd => Template::new(&AddV1 { delta: 1 }, false, false),
        }
    }

    /// The operation that fills a map.
    pub(super) fn put(payload: usize) -> Template {
        // No digit: the key must be found.
        let value = vec![b'v'; payload];
        Template::new(
            &PutV1 { key: key_of(0), value, previous: false, ephemeral: false, ttl_ms: 0 },
            false,
            true,
        )
    }

    fn new<O: Encode + Operation>(operation: &O, is_query: bool, has_key: bool) -> Template {
        let bytes = operation.encode();
        let mut places =
            bytes.windows(KEY_DIGITS).enumerate().filter(|(_, part)| **part == *key_of(0));
        let key = has_key.then(|| places.next().expect("the key is in the operation's bytes").0);
        assert!(!has_key || places.next().is_none(), "the key is there once");
        Template { kind: O::KIND, schema: O::SCHEMA, is_query, bytes, key }
    }

    /// The operation on `resource` and a key. `buffer` is empty.
    pub(super) fn call(&self, resource: ResourceId, key: u32, mut buffer: Vec<u8>) -> Call {
        buffer.extend_from_slice(&self.bytes);
        if let Some(at) = self.key {
            write_key(&mut buffer[at..at + KEY_DIGITS], key);
        }
        let (kind, schema, payload) = (self.kind, self.schema, buffer);
        if self.is_query {
            let level = Level::Linearizable;
            Call::Query { level, kind, schema, resource, payload }
        } else {
            Call::Command { kind, schema, resource, payload }
        }
    }
}

fn key_of(number: u32) -> Vec<u8> {
    let mut key = vec![0; KEY_DIGITS];
    write_key(&mut key, number);
    key
}

fn write_key(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_with_another_key_is_the_operation_with_that_key() {
        let template = Template::of(Workload::MapPut, 40);
        let Call::Command { payload, .. } = template.call(ResourceId(7), 4_321, Vec::new()) else {
            panic!("a put is a command");
        };
        let (key, value) = (b"000000004321".to_vec(), vec![b'v'; 40]);
        assert_eq!(
            payload,
            PutV1 { key, value, previous: false, ephemeral: false, ttl_ms: 0 }.encode()
        );
    }

    #[test]
    fn gets_are_queries_and_adds_have_no_key() {
        let get = Template::of(Workload::MapGet, 0).call(ResourceId(7), 1, Vec::new());
        assert!(matches!(get, Call::Query { level: Level::Linearizable, .. }));
        let add = Template::of(Workload::CounterAdd, 64).call(ResourceId(7), 1, Vec::new());
        let Call::Command { payload, .. } = add else { panic!("an add is a command") };
        assert_eq!(payload, AddV1 { delta: 1 }.encode());
    }

    #[test]
    fn names_are_read_back() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert!("map-putt".parse::<Workload>().is_err());
    }
}
