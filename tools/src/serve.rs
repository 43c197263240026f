//! `margay serve`: one node.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use margay::error::Error;
use margay::forming::Peer;
use margay::server::{Server, ServerConfig, run as run_server};
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, NEGATIVE};
use crate::units;

/// Run a node
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay serve                                # a cluster of one on this machine
  margay serve --name n1 --data /var/lib/margay --listen 10.0.0.1:5150 --unsafe-no-auth \\
      --peers n1=10.0.0.1:5150,n2=10.0.0.2:5150,n3=10.0.0.3:5150

  margay serve --name n4 --data /var/lib/margay --listen 10.0.0.4:5150 --unsafe-no-auth \\
      --join 10.0.0.1:5150,10.0.0.2:5150      # then: margay cluster promote n4

The same line on every founder but for --name and --listen; their order does not matter.
MARGAY_LOG sets what is logged, as in MARGAY_LOG=debug or MARGAY_LOG=warn,margay::shard=trace.")]
pub(crate) struct Args {
    /// Name of this node, unique in the cluster
    #[arg(long, default_value = "n1")]
    name: String,
    /// Where its identity and its logs are
    #[arg(long, value_name = "DIR", default_value = "margay-data")]
    data: PathBuf,
    /// Where it listens, for clients and peers
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5150", value_parser = address)]
    listen: SocketAddr,
    /// All nodes that found the cluster, this one among them
    #[arg(long, value_name = "NAME=HOST:PORT,…", value_delimiter = ',', value_parser = peer)]
    peers: Vec<Peer>,
    /// Nodes of a cluster to join, any of them; this one begins as a learner. Not needed any more
    /// once it has joined
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', conflicts_with = "peers")]
    join: Vec<String>,
    /// Where other nodes and clients reach it, for --join [default: as --listen]
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    advertise: Option<String>,
    /// Raft groups; decided at the founding [default: one per shard of each node]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    groups: Option<u32>,
    /// Executors [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    shards: Option<u16>,
    /// CPUs to pin them to
    #[arg(long, value_name = "0,1,…", value_delimiter = ',')]
    cpus: Option<Vec<usize>>,
    /// Take a snapshot after so many bytes of entries, or as many as the state has if that is more
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = units::size)]
    snapshot_after: usize,
    /// Take a round for reads at level lease, too: where clocks stop with the machine
    #[arg(long)]
    no_lease: bool,
    /// Listen on an address that other machines reach, although nobody is authenticated
    #[arg(long)]
    unsafe_no_auth: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| {
        let form = "HOST:PORT, as in 127.0.0.1:5150";
        if text.contains(':') { error.to_string() } else { format!("not {form}") }
    })?;
    addresses.next().ok_or_else(|| "the name has no address".to_string())
}

fn peer(text: &str) -> Result<Peer, String> {
    let parts = text.split_once('=').filter(|(name, address)| {
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        !name.is_empty() && matches!(port, Some(Ok(port)) if port > 0)
    });
    let (name, address) = parts.ok_or("not NAME=HOST:PORT, as in n1=127.0.0.1:5150")?;
    Ok(Peer { name: name.to_string(), address: address.to_string() })
}

/// A binary with known bugs in it must not keep anybody's data. Debug builds may: they are tested
/// with all features.
pub(crate) fn refuse_bugs() -> Result<(), Exit> {
    if cfg!(all(feature = "breaks", not(debug_assertions))) {
        return Err(Exit::usage("this margay was built with known bugs in it, for margay sim")
            .hint("build it without the feature breaks"));
    }
    Ok(())
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    refuse_bugs()?;
    log()?;
    let mut config = ServerConfig::new(args.name.clone(), args.data.clone());
    config.listen = args.listen;
    config.peers = args.peers.clone();
    config.join = args.join.clone();
    config.advertise = args.advertise.clone();
    config.groups = args.groups;
    config.shards = args.shards.map(usize::from);
    config.cpus = args.cpus.clone();
    config.unsafe_no_auth = args.unsafe_no_auth;
    config.lease = !args.no_lease;
    config.snapshot_after = args.snapshot_after as u64;
    run_server(&config, |server| announce(args, server))?;
    tracing::info!("stopped");
    Ok(())
}

/// Text, in colour on a terminal. Standard error, as standard output belongs to results.
fn log() -> Result<(), Exit> {
    let filter = match std::env::var("MARGAY_LOG") {
        Ok(wished) => EnvFilter::try_new(&wished)
            .map_err(|error| Exit::usage(format!("MARGAY_LOG={wished}: {error}")))?,
        Err(_) => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        // A log that nobody reads any more must not end the node: the report of a failed write goes
        // to the same place and panics.
        .log_internal_errors(false)
        .init();
    Ok(())
}

fn announce(args: &Args, server: &Server) {
    server.notes().iter().for_each(|note| tracing::warn!("{note}"));
    tracing::info!(
        "margay {} node {} listening on {} · cluster {} · {} groups · {} shards · data in {}",
        env!("CARGO_PKG_VERSION"),
        args.name,
        server.address(),
        server.cluster(),
        server.groups(),
        server.shards(),
        args.data.display(),
    );
}

impl From<Error> for Exit {
    fn from(error: Error) -> Exit {
        let hint = match &error {
            Error::Listen { .. } => "another process has the port; use another --listen",
            _ => "",
        };
        Exit::new(error.exit_code().max(NEGATIVE), error.to_string()).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_a_name_a_host_and_a_port() {
        let peer = |text| peer(text).map(|peer| (peer.name, peer.address));
        let named = |name: &str, address: &str| Ok((name.to_string(), address.to_string()));
        assert_eq!(peer("n1=db1.example:5150"), named("n1", "db1.example:5150"));
        assert_eq!(peer("n1=[::1]:5150"), named("n1", "[::1]:5150"));
        for text in ["n1", "n1=", "=h:1", "n1=h", "n1=h:0", "n1=h:port", "n1=h:99999"] {
            assert!(peer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_needs_a_port() {
        assert!(address("127.0.0.1").unwrap_err().contains("HOST:PORT"));
        assert!(address("127.0.0.1:http!").is_err());
        assert_eq!(address("127.0.0.1:5150"), Ok(([127, 0, 0, 1], 5150).into()));
    }
}
