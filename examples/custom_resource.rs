//! A type of resource of one's own, beside margay's: `cargo run --example custom_resource`.
//!
//! A ledger moves amounts between accounts and never overdraws one. It gets from margay what every
//! resource has: a name, durable commands applied once, linearizable reads, events, snapshots.

use std::collections::BTreeMap;

use margay::machine::bytes::{self, Reader};
use margay::machine::{Code, Commit, Effects, Query};
use margay::resource::own::OwnType;
use margay::resource::snapshot::Items;
use margay::resource::{Created, Resource};
use margay::server::Node;
use margay_log::id::Index;

/// The number of the type: stored with every operation, so it is never given another meaning.
const LEDGER: u8 = 130;
/// Command: an amount to put into an account.
const DEPOSIT: u16 = 0x0101;
/// Command: an amount, from one account to another.
const TRANSFER: u16 = 0x0201;
/// Query: what is in an account.
const BALANCE: u16 = 0x4001;

/// The state. Ordered maps, no clock, nothing random: it is the same on every node.
#[derive(Clone, Debug, Default)]
struct Ledger {
    accounts: BTreeMap<Vec<u8>, u64>,
}

impl OwnType for Ledger {
    const KIND: u8 = LEDGER;
    const NAME: &'static str = "ledger";

    fn check(schema: u16, payload: &[u8]) -> Result<(), Code> {
        read(schema, payload).map(|_| ())
    }

    fn create(_options: &[u8]) -> Created {
        Ok(Box::new(Ledger::default()))
    }
}

/// Amount, source, target: what a command carries. Bytes come from clients and are checked.
fn read(schema: u16, payload: &[u8]) -> Result<(u64, &[u8], &[u8]), Code> {
    let mut reader = Reader::new(payload);
    let command = match schema {
        DEPOSIT => (reader.u64()?, &[][..], reader.bytes()?),
        TRANSFER => (reader.u64()?, reader.bytes()?, reader.bytes()?),
        _ => return Err(Code::BAD_KIND),
    };
    reader.end()?;
    Ok(command)
}

impl Resource for Ledger {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let (amount, source, target) = match read(commit.schema, commit.payload) {
            Ok(command) => command,
            Err(code) => return effects.refuse(code, ""),
        };
        if commit.schema == TRANSFER {
            let there = self.accounts.get(source).copied().unwrap_or(0);
            let Some(left) = there.checked_sub(amount) else {
                return effects.refuse(Code::OVERFLOW, &format!("only {there} there"));
            };
            self.accounts.insert(source.to_vec(), left);
        }
        let balance = self.accounts.entry(target.to_vec()).or_default();
        *balance = balance.saturating_add(amount);
        bytes::put_u64(&mut effects.reply, *balance);
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        match query.schema {
            BALANCE => {
                let balance = self.accounts.get(query.payload).copied().unwrap_or(0);
                bytes::put_u64(&mut effects.reply, balance);
            }
            _ => effects.refuse(Code::BAD_KIND, ""),
        }
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        let rest = self.accounts.iter().filter(|(name, _)| after.is_none_or(|a| &name[..] > a));
        for (name, balance) in rest {
            items.put(|out| {
                bytes::put_bytes(out, name);
                bytes::put_u64(out, *balance);
            });
            if items.is_full() {
                return Some(name.clone());
            }
        }
        None
    }

    fn thaw(&mut self, item: &[u8], _applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let (name, balance) = (reader.bytes()?.to_vec(), reader.u64()?);
        self.accounts.insert(name, balance);
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().resource::<Ledger>()?.start()?;
    let client = node.client()?;
    let ledger = client.resource("savings", LEDGER, &[]).wait()?;

    let amount = |amount: u64| {
        let mut out = Vec::new();
        bytes::put_u64(&mut out, amount);
        out
    };
    let account = |mut out: Vec<u8>, name: &str| {
        bytes::put_bytes(&mut out, name.as_bytes());
        out
    };
    ledger.command_bytes(LEDGER, DEPOSIT, account(amount(100), "ada")).wait()?;
    let transfer = |n| account(account(amount(n), "ada"), "bob");
    ledger.command_bytes(LEDGER, TRANSFER, transfer(60)).wait()?;
    let refused = ledger.command_bytes(LEDGER, TRANSFER, transfer(60)).wait();
    println!("a second time: {}", refused.expect_err("only 40 are left"));

    let balance = ledger.query_bytes(LEDGER, BALANCE, b"bob".to_vec()).wait()?;
    println!("bob has {}", Reader::new(&balance.payload).u64()?);

    client.close()?;
    node.stop()?;
    Ok(())
}
