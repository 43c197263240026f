//! What the client commands share: where the cluster is, and getting to it.

use std::time::Duration;

use margay::client::{Client, Error};
use margay::resource::{Directory, Failure};

use crate::exit::{Exit, UNREACHABLE};
use crate::output::Format;
use crate::units;

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
        global = true
    )]
    pub(crate) endpoints: Vec<String>,

    /// How long an operation may take
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s", global = true)]
    pub(crate) timeout: Duration,

    /// For people, or for programs
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    pub(crate) output: Format,
}

impl Connect {
    /// A client of the cluster.
    pub(crate) fn client(&self) -> Result<Client, Exit> {
        self.check()?;
        let builder = Client::builder().endpoints(self.endpoints.clone()).timeout(self.timeout);
        Ok(builder.connect()?)
    }

    /// Refuses addresses that cannot be any.
    pub(crate) fn check(&self) -> Result<(), Exit> {
        let bad =
            |endpoint: &&String| endpoint.is_empty() || endpoint.contains(char::is_whitespace);
        match self.endpoints.iter().find(bad) {
            Some(endpoint) => Err(Exit::usage(format!("'{endpoint}' is no address"))
                .hint("--endpoints and MARGAY_ENDPOINTS look like 127.0.0.1:5150,127.0.0.1:5151")),
            None => Ok(()),
        }
    }

    /// Whether a resource of this name and type exists. Reading one must not create it.
    pub(crate) fn exists(client: &Client, name: &str, kind: u8) -> Result<bool, Exit> {
        let directory = Directory::new(client.group_of(name)?);
        Ok(directory.find(name, kind).wait()?.is_some())
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Format::Json
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
