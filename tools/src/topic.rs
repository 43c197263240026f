//! `margay topic`: messages in one order for all who listen.

use margay::machine::Filter;
use margay::resource::topic::TopicEvent;
use margay_log::id::Index;
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::{manage, output};

/// Messages in one order for all who listen
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay topic subscribe news --after 0      # from the oldest message that is kept
  margay topic publish news 'it works'")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Publish a message; prints its position
    Publish {
        /// Name of the topic
        name: String,
        /// The message
        value: String,
        /// What subscribers can choose by
        #[arg(long, default_value = "")]
        key: String,
    },
    /// Print messages, a line each, until interrupted
    Subscribe {
        /// Name of the topic
        name: String,
        /// Begin behind this position; without, with what comes from now on
        #[arg(long, value_name = "POSITION")]
        after: Option<u64>,
        /// Only messages whose keys begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// End after so many messages
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let client = args.connect.client()?;
    match &args.verb {
        Verb::Publish { name, value, key } => {
            let topic = client.topic(name).wait()?;
            let position = topic.publish_under(key.as_bytes(), value.as_bytes()).wait()?;
            args.connect.record(&[("POSITION", json!(position.0))])
        }
        Verb::Subscribe { name, after, prefix, count } => {
            let filter = match prefix.is_empty() {
                true => Filter::All,
                false => Filter::Prefix(prefix.clone().into_bytes()),
            };
            let topic = client.topic(name).wait()?;
            if let Some(after) = after {
                manage::note_ahead(&client.group_of(name)?, name, Index(*after))?;
            }
            let mut messages = topic.subscribe(after.map(Index), filter);
            let mut left = count.unwrap_or(u64::MAX);
            while left > 0 {
                left -= u64::from(print(&args.connect, messages.wait_next()?)?);
            }
            Ok(())
        }
    }
}

/// Returns whether it was a message.
fn print(connect: &Connect, event: TopicEvent) -> Result<bool, Exit> {
    match event {
        TopicEvent::Message { position, key, value } if connect.is_json() => {
            let (key, value) = (output::to_json(&key), output::to_json(&value));
            output::json(&json!({ "position": position.0, "key": key, "value": value }))?;
            Ok(true)
        }
        TopicEvent::Message { value, .. } => output::bytes(&value).map(|()| true),
        TopicEvent::Lagged { oldest } => {
            output::aside(&format!("warning: messages before position {oldest} were missed\n"));
            Ok(false)
        }
        _ => Err(Exit::new(NEGATIVE, "the topic was deleted")),
    }
}
