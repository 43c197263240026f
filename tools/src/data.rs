//! What the commands of value, counter, map, multimap, set and tree share: how fresh what is read
//! is, how long what is written stays, lists of any length, and following events.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use margay::client::session::SessionState;
use margay::client::{Client, Group};
use margay::machine::{Filter, Level, ResourceId};
use serde_json::{Value, json};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Array, Table};
use crate::{manage, sys, units};

/// How fresh what is read must be.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Fresh {
    /// How fresh: with all that was acknowledged to anybody (linearizable); the same while clocks
    /// run about equally fast, with fewer messages (lease); from any node, with all that this
    /// session has seen (sequential)
    #[arg(long, value_enum, default_value_t = Freshness::Linearizable)]
    level: Freshness,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Freshness {
    Linearizable,
    Lease,
    Sequential,
}

impl Fresh {
    pub(crate) fn level(self) -> Level {
        match self.level {
            Freshness::Linearizable => Level::Linearizable,
            Freshness::Lease => Level::Lease,
            Freshness::Sequential => Level::Sequential,
        }
    }
}

/// How long what is written stays.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Life {
    /// It is gone after this time: 1ms to ten years
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(crate) ttl: Option<Duration>,
    /// It is gone when this command ends: keeps running until interrupted
    #[arg(long)]
    pub(crate) ephemeral: bool,
}

impl Life {
    /// To be called before anything else: from now on an interruption ends [`Hold::until_stopped`].
    pub(crate) fn prepare(&self) -> Result<Hold, Exit> {
        if !self.ephemeral {
            return Ok(Hold(None));
        }
        let (sender, ends) = channel();
        sys::divert_signals(sender.clone(), |_| End::Stopped)?;
        Ok(Hold(Some((sender, ends))))
    }
}

/// Why nothing is kept any longer.
enum End {
    Stopped,
    Expired,
}

/// Keeps a session, and what ends with it, while somebody wants it.
pub(crate) struct Hold(Option<(Sender<End>, Receiver<End>)>);

impl Hold {
    /// Waits for an interruption, then ends the session; does nothing for what lasts. Fails where
    /// the session expires before.
    pub(crate) fn until_stopped(self, client: &Client) -> Result<(), Exit> {
        let Some((sender, ends)) = self.0 else { return Ok(()) };
        let mut changes = client.state_changes();
        thread::spawn(move || {
            while let Some(change) = changes.wait_next() {
                // The main thread may have left.
                if change.state == SessionState::Expired && sender.send(End::Expired).is_err() {
                    return;
                }
            }
        });
        if let Ok(End::Expired) = ends.recv() {
            let text = "the session has expired: what was to end with this command is gone";
            return Err(Exit::new(NEGATIVE, text));
        }
        Ok(client.close()?)
    }
}

/// A list of any length, printed as its pages come.
pub(crate) struct Listing {
    array: Array,
    heads: &'static [&'static str],
    is_first: bool,
    is_table: bool,
}

impl Listing {
    pub(crate) fn begin(connect: &Connect, heads: &'static [&'static str]) -> Listing {
        let array = Array::begin(connect.output);
        Listing { array, heads, is_first: true, is_table: !connect.is_json() }
    }

    /// Prints a page: the cells of each row, and the same for programs.
    pub(crate) fn page(
        &mut self,
        rows: impl IntoIterator<Item = (Vec<String>, Value)>,
    ) -> Result<(), Exit> {
        let table = Table::new(self.heads);
        let mut table = if self.is_first { table } else { table.without_heads() };
        let mut is_empty = true;
        for (cells, item) in rows {
            is_empty = false;
            match self.is_table {
                true => table.row(cells),
                false => self.array.add(&item)?,
            }
        }
        if self.is_table && !is_empty {
            self.is_first = false;
            table.print()?;
        }
        Ok(())
    }

    pub(crate) fn end(self) -> Result<(), Exit> {
        self.array.end()
    }
}

/// Which events to print.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Follow {
    /// Only what is about this key
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub(crate) key: Option<String>,
    /// Only what is about keys that begin so
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

impl Follow {
    pub(crate) fn filter(&self) -> Filter {
        match (&self.key, &self.prefix) {
            (Some(key), _) => Filter::Key(key.clone().into_bytes()),
            (None, Some(prefix)) => Filter::Prefix(prefix.clone().into_bytes()),
            (None, None) => Filter::All,
        }
    }

    pub(crate) fn run(
        &self,
        connect: &Connect,
        (group, id, kind): (Group, ResourceId, u8),
    ) -> Result<(), Exit> {
        manage::follow(connect, group, (id, kind), self.filter(), None, self.count)
    }
}

/// A yes or no: as an exit code, and in JSON under `what`.
pub(crate) fn answer(connect: &Connect, what: &str, yes: bool) -> Result<(), Exit> {
    if connect.is_json() {
        output::json(&json!({ what: yes }))?;
    }
    if yes { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

/// A number, in JSON under `what`.
pub(crate) fn number(connect: &Connect, what: &str, number: u64) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&json!({ what: number })),
        false => output::line(&number.to_string()),
    }
}
