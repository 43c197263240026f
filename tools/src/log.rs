//! `margay log`: looking at a log's directory, and repairing it, with nothing running.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use margay_log::Error;
use margay_log::commit_log::{ReadOnlyLog, Record};
use margay_log::disk::view::View;
use margay_log::error::segment_file;
use margay_log::id::Index;
use margay_log::recover::{Report, Torn};
use margay_log::repair::Repair;
use serde_json::{Value, json};

use crate::exit::{Exit, NEGATIVE, USAGE};
use crate::output::{self, Format, Table};
use crate::units;

/// Look at a log's directory, or repair it
#[derive(clap::Args, Debug)]
#[command(after_help = "\
DIR is the directory of one log: of a program that embeds margay-log, or DIR/group-N of a node.
Nothing is changed and nobody is kept from it, except by repair, which needs it closed.
Logs that all clients of a cluster share are another thing: margay journal.

Examples:
  margay log inspect /var/lib/margay/group-0
  margay log dump --from 100 --to 110 /var/lib/margay/group-0
  margay log verify /srv/events && echo sound
  margay log repair /srv/events              # says what it would lose, and asks

Exit codes: 0 sound or done · 1 damaged, or not repaired · 2 no log there, or it cannot be read")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Say whose it is, what files there are and what opening it would find
    Inspect(Place),
    /// Read and check every byte that counts
    Verify(Place),
    /// Print entries
    Dump {
        #[command(flatten)]
        place: Place,
        /// First index
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Last index
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
        /// How to show payloads
        #[arg(long, value_enum, default_value_t = Payload::Text)]
        payload: Payload,
    },
    /// Count entries, bytes, and what they are
    Stats(Place),
    /// Make a damaged log usable again; its originals are kept beside it
    Repair {
        #[command(flatten)]
        place: Place,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args, Debug)]
struct Place {
    /// The log's directory
    dir: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Payload {
    Text,
    Hex,
    None,
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::Inspect(place) => inspect(place),
        Verb::Verify(place) => verify(place),
        Verb::Dump { place, from, to, payload } => dump(place, Index(*from)..=Index(*to), *payload),
        Verb::Stats(place) => stats(place),
        Verb::Repair { place, yes } => repair(place, *yes),
    }
}

impl Place {
    fn is_json(&self) -> bool {
        self.output != Format::Table
    }

    fn open(&self) -> Result<ReadOnlyLog, Exit> {
        let bar = Rc::new(Bar::new("reading"));
        let shown = Rc::clone(&bar);
        let opened = ReadOnlyLog::open_with(&self.dir, |view| {
            let shown = Rc::clone(&shown);
            view.on_progress(move |read, total| shown.show(read, total));
        });
        bar.clear();
        opened.map_err(|error| self.unreadable(&error))
    }

    /// What keeps it from being read. A node has a log for each group.
    fn unreadable(&self, error: &Error) -> Exit {
        let exit = unreadable(error);
        match self.dir.join("group-0").is_dir() {
            true => exit.hint("it is a node's: name the log of one group, as in DIR/group-0"),
            false => exit,
        }
    }

    /// The same of a repair, which is not to be tried again.
    fn unrepairable(&self, error: &Error) -> Exit {
        match error {
            Error::Path { .. } => self.unreadable(error),
            _ => Exit::new(USAGE, error.to_string()),
        }
    }
}

/// What keeps a log, or part of it, from being read.
fn unreadable(error: &Error) -> Exit {
    let (code, text) = match error {
        Error::Unreadable { .. } => (NEGATIVE, error.to_string()),
        _ => (USAGE, error.to_string()),
    };
    match error {
        Error::Path { .. } | Error::Newer { .. } => Exit::new(code, text),
        _ => Exit::new(code, text).hint("`margay log repair DIR` says what could be saved"),
    }
}

/// A line on the terminal that follows long work.
struct Bar {
    what: &'static str,
    is_shown: bool,
    percent: std::cell::Cell<u64>,
}

impl Bar {
    fn new(what: &'static str) -> Bar {
        let is_shown = output::is_terminal();
        Bar { what, is_shown, percent: std::cell::Cell::new(u64::MAX) }
    }

    fn show(&self, done: u64, of: u64) {
        let percent = done.saturating_mul(100) / of.max(1);
        if self.is_shown && self.percent.replace(percent) != percent {
            output::aside(&format!("\r\x1b[K{} {percent} %", self.what));
        }
    }

    fn clear(&self) {
        if self.is_shown {
            output::aside("\r\x1b[K");
        }
    }
}

fn inspect(place: &Place) -> Result<(), Exit> {
    let mut view = View::open(&place.dir).map_err(|error| place.unreadable(&error))?;
    let hard = view.newest_hard_state();
    let files = view.files().map_err(|error| Exit::new(USAGE, error.to_string()))?;
    let walked = place.open();
    let mut table = Table::new(&["SEGMENT", "BYTES", "HEADER"]);
    let mut segments = Vec::new();
    for (number, size, header) in &files {
        let said = match header {
            Some(header) if header.segment != *number => format!("of segment {}", header.segment.0),
            Some(header) if header.size != *size => format!("made with {} bytes", header.size),
            Some(_) => "good".to_string(),
            None => "unreadable".to_string(),
        };
        segments.push(json!({ "file": segment_file(*number), "bytes": size, "header": said }));
        table.row(vec![segment_file(*number), units::grouped(*size), said]);
    }
    let report = walked.as_ref().ok().map(|log| report_json(log.report()));
    if place.is_json() {
        output::json(&json!({
            "hard_state": hard.as_ref().ok().map(hard_json),
            "segments": segments,
            "log": report,
            "first_index": walked.as_ref().ok().map(|log| log.first().0),
            "error": walked.as_ref().err().map(Exit::message),
        }))?;
    } else {
        match &hard {
            Ok(hard) => print_hard(hard)?,
            Err(error) => output::line(&format!("hard state   {error}"))?,
        }
        table.print()?;
        if let Ok(log) = &walked {
            print_report(log)?;
        }
    }
    let log = walked?;
    damage(log.report())
}

fn hard_json(hard: &margay_log::hard_state::HardState) -> Value {
    json!({
        "cluster": hard.cluster.to_string(), "group": hard.group.0,
        "incarnation": hard.incarnation.to_string(), "update": hard.update,
        "durable_index": hard.durable.id.index.0, "start_index": hard.start.id.index.0,
        "repair_index": hard.repair.0, "meta_bytes": hard.meta.len(),
    })
}

fn print_hard(hard: &margay_log::hard_state::HardState) -> Result<(), Exit> {
    output::line(&format!("incarnation  {}", hard.incarnation))?;
    if hard.cluster.0 != 0 {
        output::line(&format!("cluster      {}, group {}", hard.cluster, hard.group.0))?;
    }
    output::line(&format!(
        "hard state   update {}, durable up to {}, {} bytes of the owner's",
        hard.update,
        hard.durable.id.index,
        hard.meta.len()
    ))
}

fn report_json(report: &Report) -> Value {
    json!({
        "last_index": report.last.index.0, "batches": report.batches,
        "superseded_batches": report.superseded,
        "torn": report.torn.iter().map(|torn| json!({
            "segment": segment_file(torn.segment), "offset": torn.offset, "bytes": torn.length,
        })).collect::<Vec<_>>(),
        "damage": report.damage.map(|damage| json!({
            "segment": segment_file(damage.segment), "offset": damage.offset,
            "first_index": damage.index.0, "last_index": damage.until.0,
            "cause": damage.cause.to_string(),
        })),
    })
}

fn print_report(log: &ReadOnlyLog) -> Result<(), Exit> {
    let report = log.report();
    let last = report.last.index;
    output::line(&format!(
        "entries      {} to {last} in {} batches",
        log.first(),
        units::grouped(report.batches)
    ))?;
    if report.superseded > 0 {
        let count = units::grouped(report.superseded);
        output::line(&match report.damage {
            None => format!("superseded   {count} batches"),
            Some(_) => format!("left out     {count} batches, superseded or behind the damage"),
        })?;
    }
    let is_damage = |torn: &&Torn| {
        report
            .damage
            .is_some_and(|found| (found.segment, found.offset) == (torn.segment, torn.offset))
    };
    for torn in report.torn.iter().filter(|torn| !is_damage(torn)) {
        let (segment, offset) = (segment_file(torn.segment), torn.offset);
        output::line(&format!("torn         {} bytes in {segment} at {offset}", torn.length))?;
    }
    Ok(())
}

/// A damaged log is a negative answer.
fn damage(report: &Report) -> Result<(), Exit> {
    let Some(damage) = report.damage else { return Ok(()) };
    let place = format!("{} at offset {}", segment_file(damage.segment), damage.offset);
    let (index, until) = (damage.index, damage.until);
    let text = format!("damaged: entries {index} to {until} are {}, {place}", damage.cause);
    Err(Exit::new(NEGATIVE, text).hint(
        "a node of a cluster gets them back from its peers; `margay log repair DIR` goes on \
         without them",
    ))
}

fn verify(place: &Place) -> Result<(), Exit> {
    let log = place.open()?;
    let bar = Bar::new("checking");
    let first = log.first();
    let verified = log.verify(|at, last| {
        bar.show(at.since(first), last.since(first));
        true
    });
    bar.clear();
    let verified = verified.map_err(|error| unreadable(&error))?;
    let unreadable: Vec<String> = verified.unreadable.iter().map(Error::to_string).collect();
    if place.is_json() {
        output::json(&json!({
            "first_index": first.0, "last_index": log.last().0, "entries": verified.entries,
            "payload_bytes": verified.payload_bytes, "unreadable": unreadable,
            "log": report_json(log.report()),
        }))?;
    } else {
        output::line(&format!(
            "{} entries, {} bytes of payload",
            units::grouped(verified.entries),
            units::grouped(verified.payload_bytes)
        ))?;
        unreadable.iter().try_for_each(|text| output::line(text))?;
    }
    damage(log.report())?;
    if unreadable.is_empty() { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

fn dump(
    place: &Place,
    range: std::ops::RangeInclusive<Index>,
    payload: Payload,
) -> Result<(), Exit> {
    let log = place.open()?;
    let first = log.first().max(*range.start());
    let mut reader = log.read(first..=*range.end());
    let mut array = output::Array::begin(place.output);
    let read = loop {
        match reader.read_next() {
            Ok(Some(record)) if place.is_json() => array.add(&record_json(&record, payload))?,
            Ok(Some(record)) => output::line(&record_line(&record, payload))?,
            Ok(None) => break Ok(()),
            Err(Error::Gone { index, first }) => {
                let last = first.prev();
                output::aside(&format!("entries {index} to {last} were removed meanwhile\n"));
                reader.seek(first);
            }
            Err(Error::Cut { after }) => {
                output::aside(&format!("entries behind {after} were cut off meanwhile\n"));
                reader.seek(after.next());
            }
            Err(error) => break Err(unreadable(&error)),
        }
    };
    array.end()?;
    read?;
    damage(log.report())
}

fn record_json(record: &Record<'_>, payload: Payload) -> Value {
    let header = record.header;
    json!({
        "index": record.index.0, "time_us": record.time, "kind": header.kind,
        "schema": header.schema, "resource": header.resource, "session": header.session,
        "sequence": header.sequence, "bytes": record.payload.len(),
        "payload": match payload {
            Payload::Text => output::to_json(record.payload),
            Payload::Hex => Value::from(output::hex(record.payload)),
            Payload::None => Value::Null,
        },
    })
}

fn record_line(record: &Record<'_>, payload: Payload) -> String {
    let header = record.header;
    let mut line = format!("{:>10}  {:>3}", record.index.0, header.kind);
    if header.session != 0 || header.resource != 0 {
        line += &format!("  session {} resource {}", header.session, header.resource);
    }
    line += &format!("  {} B", record.payload.len());
    match payload {
        Payload::Text => line += &format!("  {}", output::cell(record.payload)),
        Payload::Hex => line += &format!("  {}", output::hex(record.payload)),
        Payload::None => {}
    }
    line
}

fn stats(place: &Place) -> Result<(), Exit> {
    let log = place.open()?;
    let stats = log.stats();
    let mut kinds = std::collections::BTreeMap::<u8, (u64, u64)>::new();
    let mut reader = log.read(..);
    while let Some(record) = reader.read_next().map_err(|error| unreadable(&error))? {
        let (entries, bytes) = kinds.entry(record.header.kind).or_default();
        *entries += 1;
        *bytes += record.payload.len() as u64;
    }
    if place.is_json() {
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(kind, (entries, bytes))| {
                json!({ "kind": kind, "entries": entries, "payload_bytes": bytes })
            })
            .collect();
        output::json(&json!({
            "first_index": stats.first.0, "last_index": stats.last.0, "batches": stats.batches,
            "segments": stats.segments, "file_bytes": stats.file_bytes, "kinds": kinds,
        }))?;
        return damage(log.report());
    }
    output::line(&format!(
        "{} to {} in {} batches, {} segments, {} bytes of files",
        stats.first,
        stats.last,
        units::grouped(stats.batches),
        stats.segments,
        units::grouped(stats.file_bytes)
    ))?;
    let mut table = Table::new(&["KIND", "ENTRIES", "PAYLOAD BYTES"]);
    for (kind, (entries, bytes)) in kinds {
        table.row(vec![kind.to_string(), units::grouped(entries), units::grouped(bytes)]);
    }
    table.print()?;
    damage(log.report())
}

fn repair(place: &Place, yes: bool) -> Result<(), Exit> {
    let planned = Repair::plan(&place.dir).map_err(|error| place.unrepairable(&error))?;
    let Some(repair) = planned else {
        return report_repair(place, &[], None, "nothing to repair");
    };
    let steps: Vec<String> = repair.steps().iter().map(|step| step.to_string()).collect();
    if !place.is_json() {
        steps.iter().try_for_each(|step| output::line(&format!("- {step}")))?;
        let (first, last) = (repair.first(), repair.last());
        let holds = match first <= last {
            true => format!("holds {first} to {last}"),
            false => format!("is empty and goes on with {first}"),
        };
        output::line(&format!("the log then {holds}; the originals are kept"))?;
        if is_of_a_node(&place.dir) {
            output::line("it belongs to a node: entries lost here may be what its peers rely on")?;
        }
    }
    let kept = (repair.first(), repair.last());
    if !yes && !confirmed()? {
        if place.is_json() {
            report_repair(place, &steps, Some((kept, None)), "not repaired")?;
        }
        return Err(Exit::new(NEGATIVE, "not repaired").hint("--yes does it without asking"));
    }
    let originals = repair.finish().map_err(|error| Exit::new(NEGATIVE, error.to_string()))?;
    report_repair(place, &steps, Some((kept, Some(&originals))), "repaired")
}

/// The first and last entry that the log then holds, and where the originals are.
type Kept<'a> = ((Index, Index), Option<&'a Path>);

fn report_repair(
    place: &Place,
    steps: &[String],
    kept: Option<Kept<'_>>,
    said: &str,
) -> Result<(), Exit> {
    if place.is_json() {
        return output::json(&json!({
            "result": said, "steps": steps,
            "first_index": kept.map(|((first, _), _)| first.0),
            "last_index": kept.map(|((_, last), _)| last.0),
            "originals": kept.and_then(|(_, path)| path).map(|path| path.display().to_string()),
        }));
    }
    match kept.and_then(|(_, path)| path) {
        Some(path) => output::line(&format!("{said}; the originals are in {}", path.display())),
        None => output::line(said),
    }
}

/// Whether any of it names a cluster, whatever else is lost.
fn is_of_a_node(dir: &Path) -> bool {
    let Ok(mut view) = View::open(dir) else { return false };
    let hard = view.newest_hard_state().is_ok_and(|hard| hard.cluster.0 != 0);
    let mut headers = view.files().into_iter().flatten().filter_map(|(_, _, header)| header);
    hard || headers.any(|header| header.cluster.0 != 0)
}

/// Asks on the terminal. Where there is none, the answer is no.
fn confirmed() -> Result<bool, Exit> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Ok(false);
    }
    output::aside("repair it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
