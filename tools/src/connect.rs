//! What the client commands share: where the cluster is, and getting to it.

use std::path::PathBuf;
use std::time::Duration;

use margay::client::{Client, Error, Group};
use margay::machine::{Level, ResourceId};
use margay::resource::{Directory, Failure};
use margay::tls::{Tls, TlsError};
use serde_json::Value;

use crate::exit::{Exit, NEGATIVE, UNREACHABLE};
use crate::output::{self, Format, Table};
use crate::units;

/// Where help lists them: behind the options of the command itself.
const HEADING: &str = "Cluster and output";

/// Where to go and how to answer.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Connect {
    /// Nodes of the cluster, HOST:PORT; one is enough to find the others
    #[arg(
        long,
        env = "MARGAY_ENDPOINTS",
        value_name = "A,B,C",
        value_delimiter = ',',
        default_value = "127.0.0.1:5150",
        global = true,
        help_heading = HEADING
    )]
    pub(crate) endpoints: Vec<String>,

    /// Folder with ca.pem, cert.pem and key.pem: connections are encrypted, and both ends show who
    /// they are
    #[arg(long, env = "MARGAY_TLS", value_name = "DIR", global = true, help_heading = HEADING)]
    pub(crate) tls: Option<PathBuf>,

    /// How long an operation may take
    #[arg(
        long,
        value_name = "TIME",
        value_parser = units::some_time,
        default_value = "5s",
        global = true,
        help_heading = HEADING
    )]
    pub(crate) timeout: Duration,

    /// For people, or for programs: one document, or one object per line
    #[arg(short, long, value_enum, default_value = "table", global = true, help_heading = HEADING)]
    pub(crate) output: Format,
}

impl Connect {
    /// A client of the cluster.
    pub(crate) fn client(&self) -> Result<Client, Exit> {
        self.client_with(Duration::from_secs(10))
    }

    /// A client whose sessions end when nothing was heard of it for this long.
    pub(crate) fn client_with(&self, session_timeout: Duration) -> Result<Client, Exit> {
        self.check()?;
        let builder = Client::builder().endpoints(self.endpoints.clone()).timeout(self.timeout);
        let builder = builder.session_timeout(session_timeout);
        let builder = match self.tls()? {
            Some(tls) => builder.tls(tls),
            None => builder,
        };
        Ok(builder.connect()?)
    }

    /// As whom the cluster is used, where that matters.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Exit> {
        Ok(self.tls.as_ref().map(Tls::open).transpose()?)
    }

    /// To be called before anything is asked or printed. Refuses addresses that cannot be any.
    pub(crate) fn check(&self) -> Result<(), Exit> {
        output::begin(self.output);
        match self.endpoints.iter().find(|endpoint| !is_address(endpoint)) {
            Some(endpoint) => Err(Exit::usage(format!("'{endpoint}' is no address"))
                .hint("--endpoints and MARGAY_ENDPOINTS look like 127.0.0.1:5150,127.0.0.1:5151")),
            None => Ok(()),
        }
    }

    /// The way to a resource of this name and type, if there is one, as of what a level says.
    /// Reading one must not create it, nor write anything: a full disk does not keep anybody from
    /// reading.
    pub(crate) fn existing(
        client: &Client,
        name: &str,
        kind: u8,
        level: Level,
    ) -> Result<Option<(Group, ResourceId)>, Exit> {
        let group = client.group_of(name)?;
        let directory = Directory::new(group.clone()).with_level(level);
        let found = directory.find(name, kind).wait()?;
        Ok(found.map(|listed| (group, listed.id)))
    }

    /// The same; where there is none, the command ends with a negative answer.
    pub(crate) fn must_exist(
        client: &Client,
        name: &str,
        kind: u8,
        level: Level,
    ) -> Result<(Group, ResourceId), Exit> {
        Self::existing(client, name, kind, level)?.ok_or(Exit::quiet(NEGATIVE))
    }

    /// Prints one thing: a table of one row, or one JSON object whose keys are the heads in lower
    /// case.
    pub(crate) fn record(&self, fields: &[(&'static str, Value)]) -> Result<(), Exit> {
        if self.is_json() {
            let pairs = fields.iter().map(|(head, value)| (head.to_lowercase(), value.clone()));
            return output::json(&Value::Object(pairs.collect()));
        }
        if let [(_, value)] = fields {
            return output::line(&cell(value));
        }
        let heads: Vec<&'static str> = fields.iter().map(|(head, _)| *head).collect();
        let mut table = Table::new(&heads);
        table.row(fields.iter().map(|(_, value)| cell(value)).collect());
        table.print()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output != Format::Table
    }
}

/// Whether it can be HOST:PORT, or HOST alone. Nobody should wait for an answer from a URL.
fn is_address(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address without a port.
        Some((before, _)) if before.contains(':') && !before.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let stray = |c: char| c.is_whitespace() || c == '/';
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && !text.contains(stray) && port.is_none_or(is_port)
}

/// A value as people read it: nothing as `-`, text without quotes.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::String(text) => output::cell(text.as_bytes()),
        other => other.to_string(),
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Exit {
        match error {
            Error::Operation(failure) => failure.into(),
            Error::NoSuchGroup { .. } | Error::NoEndpoints => Exit::usage(error.to_string()),
            Error::Unreachable { .. } | Error::Node { .. } => {
                Exit::new(UNREACHABLE, error.to_string())
                    .hint("check --endpoints, and that nodes run there: margay cluster status")
            }
            _ => Exit::from(Failure::new(error.code(), error.to_string())),
        }
    }
}

impl From<TlsError> for Exit {
    fn from(error: TlsError) -> Exit {
        Exit::usage(format!("--tls: {error}"))
            .hint("margay tls show DIR tells what is there; margay tls issue makes it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_cannot_be_any() {
        for address in ["n1", "n1:5150", "127.0.0.1:1", "[::1]:5150", "::1", "db-1.example:65535"] {
            assert!(is_address(address), "{address}");
        }
        for text in
            ["", " ", ":5150", "n1:", "n1:0", "n1:99999", "n1:http", "http://n1:5150", "a b"]
        {
            assert!(!is_address(text), "{text}");
        }
    }
}
