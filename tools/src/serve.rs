//! `margay serve`: one node.

mod file;

use std::io::{ErrorKind, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use margay::error::Error;
use margay::forming::Peer;
use margay::server::{Server, ServerConfig, run as run_server};
use margay::tls::Tls;
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, NEGATIVE};
use crate::units;
use file::File;

/// What a node is called where nobody says.
const NAME: &str = "n1";
/// Where its data is then.
const DATA: &str = "margay-data";

/// Run a node
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay serve                                # a cluster of one on this machine
  margay serve --name n1 --data /var/lib/margay --listen 10.0.0.1:5150 --tls /etc/margay/tls \\
      --peers n1=10.0.0.1:5150,n2=10.0.0.2:5150,n3=10.0.0.3:5150

  margay serve --name n4 --data /var/lib/margay --listen 10.0.0.4:5150 --tls /etc/margay/tls \\
      --join 10.0.0.1:5150,10.0.0.2:5150      # then: margay cluster promote n4

  margay serve --config margay.toml           # keys are named like the flags; a flag wins:
                                              #   name = \"n1\"
                                              #   data = \"/var/lib/margay\"
                                              #   tls = \"/etc/margay/tls\"
                                              #   peers = { n1 = \"10.0.0.1:5150\", n2 = \"…\" }

The same line on every founder but for --name and --listen; their order does not matter. What --tls
names is made with 'margay tls'; it is read again while the node runs, so that it may be renewed.
Exit codes: 0 stopped in order · 1 cannot start, or had to stop · 2 usage or configuration
            6 the storage is not to be trusted: damaged, or a write has failed
MARGAY_LOG sets what is logged, as in MARGAY_LOG=debug or MARGAY_LOG=warn,margay::shard=trace.")]
pub(crate) struct Args {
    /// A TOML file with what is not said by flags
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this node, unique in the cluster [default: n1]
    #[arg(long)]
    name: Option<String>,
    /// Where its identity and its logs are [default: margay-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where it listens, for clients and peers [default: 127.0.0.1:5150]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
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
    /// Take a snapshot after so many bytes of log, or as many as the state has if that is more
    /// [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    snapshot_after: Option<usize>,
    /// Take a round for reads at level lease, too: where clocks stop with the machine
    #[arg(long)]
    no_lease: bool,
    /// Folder with ca.pem, cert.pem and key.pem: all connections are encrypted, and both ends show
    /// who they are
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Listen on an address that other machines reach, although without --tls nobody is
    /// authenticated
    #[arg(long)]
    unsafe_no_auth: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| {
        let named = text.split_once(':').is_some_and(|(host, _)| !host.is_empty());
        if named { error.to_string() } else { "not HOST:PORT, as in 127.0.0.1:5150".to_owned() }
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
    let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let config = configure(args, file)?;
    match run_server(&config, |server| announce(&config, server)) {
        Ok(()) => tracing::info!("stopped"),
        // Who is told to stop while it waits for others has done what it was told.
        Err(end @ Error::Interrupted) => tracing::info!("{end}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What the flags say, then what the file says, then the defaults.
fn configure(args: &Args, file: File) -> Result<ServerConfig, Exit> {
    let path = &args.config.as_deref().unwrap_or(Path::new("")).display();
    let wrong = |key: &'static str| move |why: String| Exit::usage(format!("{path}: {key}: {why}"));
    let name = args.name.clone().or(file.name).unwrap_or_else(|| NAME.to_owned());
    let data = args.data.clone().or(file.data).unwrap_or_else(|| DATA.into());
    let mut config = ServerConfig::new(name, data);
    let listen = file.listen.as_deref().map(address).transpose().map_err(wrong("listen"))?;
    config.listen = args.listen.or(listen).unwrap_or(config.listen);
    let peers = file.peers.iter().map(|(name, address)| {
        let text = format!("{name}={address}");
        peer(&text).map_err(|why| format!("{text}: {why}"))
    });
    let peers = peers.collect::<Result<Vec<Peer>, String>>().map_err(wrong("peers"))?;
    config.peers = if args.peers.is_empty() { peers } else { args.peers.clone() };
    config.join = if args.join.is_empty() { file.join } else { args.join.clone() };
    config.advertise = args.advertise.clone().or(file.advertise);
    config.groups = args.groups.or(file.groups);
    config.shards = args.shards.or(file.shards).map(usize::from);
    config.cpus = args.cpus.clone().or(file.cpus);
    config.tls = args.tls.as_ref().or(file.tls.as_ref()).map(Tls::open).transpose()?;
    config.unsafe_no_auth = args.unsafe_no_auth || file.unsafe_no_auth.unwrap_or(false);
    let after = file.snapshot_after.as_deref().map(units::size).transpose();
    let after = args.snapshot_after.or(after.map_err(wrong("snapshot-after"))?);
    config.lease = !(args.no_lease || file.no_lease.unwrap_or(false));
    config.snapshot_after = after.map_or(config.snapshot_after, |bytes| bytes as u64);
    Ok(config)
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

fn announce(config: &ServerConfig, server: &Server) {
    server.notes().iter().for_each(|note| tracing::warn!("{note}"));
    tracing::info!(
        "margay {} node {} listening on {} · cluster {} · {} groups · {} shards · data in {}",
        env!("CARGO_PKG_VERSION"),
        config.name,
        server.address(),
        server.cluster(),
        server.groups(),
        server.shards(),
        config.data.display(),
    );
}

impl From<Error> for Exit {
    fn from(error: Error) -> Exit {
        let exit = Exit::new(error.exit_code().max(NEGATIVE), error.to_string());
        match &error {
            Error::Data { cause, .. } if cause.kind() == ErrorKind::PermissionDenied => exit
                .hint("whoever runs the node must be able to write there; or use another --data"),
            _ => exit,
        }
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
