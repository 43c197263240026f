//! `margay journal`: replicated logs. (`margay log` is about the files of a node.)

use std::io::{self, BufRead};
use std::time::Duration;

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::Log;
use margay::resource::log::{Appended, Record, Retention};
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Fresh, Listing};
use crate::exit::{Exit, NEGATIVE};
use crate::{output, units};

/// Logs that all clients share: records in one order, each at a position
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay journal append audit 'ada logged in'      # prints its position: 1
  margay journal append audit --keep-age 720h < events.txt
  margay journal follow audit --from 1             # what is there, then what comes
  margay journal append audit 'only if nobody was faster' --at 7

The type of these resources is called log; margay log looks at a node's files.")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    Append(Append),
    /// Print records; exit code 1 where there is no such log, or it does not keep the position
    Read {
        /// Name of the log
        name: String,
        /// The first position; without, the first that is kept
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
        /// No more than so many; without, up to the end
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print records, those there are and those to come, a line each, until interrupted; exit code
    /// 1 where the next one is not kept any more
    Follow {
        /// Name of the log
        name: String,
        /// The first position; without, what comes from now on
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
        /// End after so many records
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Take away all records before a position; prints the first that is left
    Trim {
        /// Name of the log
        name: String,
        /// The first position to stay
        before: u64,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the log
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

/// Append records; prints the position of the first
#[derive(clap::Args, Debug)]
struct Append {
    /// Name of the log
    name: String,
    /// Records; without, the lines of standard input are appended, a thousand at a time
    records: Vec<String>,
    /// Only if the first gets this position; exit code 1, and where the log ends, if not
    #[arg(long, value_name = "POSITION", requires = "records",
          value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Where the log is created now: keep so many of the last records; without any of these, it
    /// keeps all and takes no more when it is full
    #[arg(long, value_name = "N")]
    keep_records: Option<u64>,
    /// Where the log is created now: keep so many bytes of the last records
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    keep_bytes: Option<usize>,
    /// Where the log is created now: keep no record for longer
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    keep_age: Option<Duration>,
}

/// Records of one append, at most, and bytes of them, unless it is one record.
const APPEND_MAX: usize = 1_000;
const APPEND_BYTES: usize = 512 << 10;

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    let client = connect.client()?;
    match &args.verb {
        Verb::Append(args) => append(connect, &client, args),
        Verb::Read { name, from, limit, fresh } => {
            let log = existing(&client, name, fresh.level())?;
            // 0: wherever it begins.
            read(connect, &log, from.unwrap_or(0), limit.unwrap_or(u64::MAX))
        }
        Verb::Follow { name, from, count } => {
            let log = client.log(name).wait()?;
            if let Some(from) = from {
                let next = log.status().wait()?.next;
                if *from > next {
                    output::aside(&format!(
                        "note: {from} is ahead of {name}, whose next record is {next}: nothing is \
                         shown before that\n"
                    ));
                }
            }
            let mut records = log.follow(*from);
            for _ in 0..count.unwrap_or(u64::MAX) {
                show(connect, &records.wait_next()?)?;
            }
            Ok(())
        }
        Verb::Trim { name, before } => {
            let first = existing(&client, name, Level::default())?.trim(*before).wait()?;
            data::number(connect, "first", first)
        }
        Verb::Status { name, fresh } => {
            let status = existing(&client, name, fresh.level())?.status().wait()?;
            connect.record(&[
                ("FIRST", json!(status.first)),
                ("NEXT", json!(status.next)),
                ("BYTES", json!(status.bytes)),
            ])
        }
    }
}

fn existing(client: &Client, name: &str, level: Level) -> Result<Log<Group>, Exit> {
    let (group, id) = Connect::must_exist(client, name, kind::LOG, level)?;
    Ok(Log::new(group, id).with_level(level))
}

fn append(connect: &Connect, client: &Client, args: &Append) -> Result<(), Exit> {
    let mut retention = Retention::new();
    retention = args.keep_records.map_or(retention, |records| retention.records(records));
    retention = args.keep_bytes.map_or(retention, |bytes| retention.bytes(bytes as u64));
    retention = args.keep_age.map_or(retention, |age| retention.age(age));
    let log = client.log_with(&args.name, retention).wait()?;
    let Some(at) = args.at else {
        let first = match args.records.is_empty() {
            true => append_input(&log)?,
            false => Some(log.append_all(&args.records).wait()?.start),
        };
        return first.map_or(Ok(()), |first| connect.record(&[("POSITION", json!(first))]));
    };
    match log.append_at(at, &args.records).wait()? {
        Appended::Done(positions) => connect.record(&[("POSITION", json!(positions.start))]),
        Appended::Conflict { next } => {
            connect.record(&[("NEXT", json!(next))])?;
            Err(Exit::quiet(NEGATIVE))
        }
    }
}

/// Appends the lines of standard input, as many at a time as there are. Returns the first position.
fn append_input(log: &Log<Group>) -> Result<Option<u64>, Exit> {
    let mut input = io::stdin().lock();
    let (mut first, mut lines, mut bytes) = (None, Vec::<Vec<u8>>::new(), 0);
    loop {
        let mut line = Vec::new();
        let is_over = input.read_until(b'\n', &mut line)? == 0;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let is_full = lines.len() == APPEND_MAX || bytes + line.len() > APPEND_BYTES;
        if (is_full || is_over) && !lines.is_empty() {
            let appended = log.append_all(&lines).wait()?;
            first = first.or(Some(appended.start));
            (lines, bytes) = (Vec::new(), 0);
        }
        if is_over {
            return Ok(first);
        }
        bytes += line.len();
        lines.push(line);
    }
}

/// Page by page: each is as of one moment, all of them together are not.
fn read(connect: &Connect, log: &Log<Group>, from: u64, limit: u64) -> Result<(), Exit> {
    let mut listing = Listing::begin(connect, &["POSITION", "RECORD"]);
    let (mut from, mut left) = (from, limit);
    while left > 0 {
        let page = log.read(from, u32::try_from(left).unwrap_or(u32::MAX)).wait()?;
        left = left.saturating_sub(page.records.len() as u64);
        listing.page(page.records.iter().map(|record| {
            let cells = vec![record.position.to_string(), output::cell(&record.bytes)];
            (cells, to_json(record))
        }))?;
        match page.go_on() {
            Some(next) => from = next,
            None => break,
        }
    }
    listing.end()
}

fn to_json(record: &Record) -> serde_json::Value {
    json!({
        "position": record.position,
        "time_us": record.time.0,
        "record": output::to_json(&record.bytes),
    })
}

fn show(connect: &Connect, record: &Record) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&to_json(record)),
        false => output::bytes(&record.bytes),
    }
}
