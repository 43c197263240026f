//! `margay tls`: an authority, the certificates that it gives out and takes back, and a look at
//! them. What is done with them on a connection is the library's affair.
//!
//! An identity is a folder: `ca.pem` (whom to trust), `cert.pem`, `key.pem` and, where some have
//! been taken back, `crl.pem`. Who reads it while it is renewed sees each file as it was or as it
//! will be, never half of it.

mod authority;
mod files;
mod issue;
mod pem;
mod revoke;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use margay::tls;

use crate::exit::Exit;
use crate::output::Format;
use crate::units;

/// Whom to trust.
const CA: &str = "ca.pem";
/// The own certificate.
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
/// What has been taken back.
const REVOKED: &str = "crl.pem";

/// Make, renew and look at the certificates of a cluster
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A node, an operator or a program that uses a cluster is known by a folder with ca.pem, cert.pem and
key.pem; 'margay serve --tls DIR' and '--tls DIR' of all other commands take one.
Examples:
  margay tls init ca                              # an authority: once for a cluster
  margay tls issue n1 node --ca ca                # a folder for each node
  margay tls issue admin operator --ca ca         # may change who is a member, and who leads
  margay tls issue app client --ca ca             # may use resources
  margay tls show n1                              # for how long it is good")]
pub(crate) struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Make an authority
    #[command(after_help = "\
Writes ca.pem, the certificate, and ca.key, with which everything else is signed: whoever has that
can be any node. It is needed for 'issue' and 'revoke' only; keep it where no node runs.
Examples:
  margay tls init ca
  margay tls init ca --valid 7300d")]
    Init(authority::Init),
    /// Give out a certificate: a folder for --tls
    #[command(after_help = "\
DIR is made where it is not there. What it holds is for one machine or program, and goes there as
a whole. A certificate never outlives its authority.

--renew replaces a certificate and keeps its key and its name, so that both fit together at any
time; nodes and clients that run take it up by themselves within seconds. Whoever else is trusted
in ca.pem stays so. The key is replaced with --new-key: after somebody else has seen it, and then
revoke the certificate from before, too.

Each certificate is kept in issued/ beside the authority, for 'revoke'.
Examples:
  margay tls issue n1 node --ca ca
  margay tls issue admin operator --ca ca --name 'Ada Lovelace' --valid 30d
  margay tls issue n1 node --ca ca --renew")]
    Issue(issue::Issue),
    /// Take certificates back
    #[command(after_help = "\
Writes crl.pem beside the authority: a list of all that was ever taken back, which 'issue' puts into
the folders it writes. It has an effect on a node, and on connections made from then on, once it
is in that node's folder.
Examples:
  margay tls revoke --ca ca ca/issued/n3-4711aa0b.pem
  for n in n1 n2 n3; do scp ca/crl.pem $n:/etc/margay/tls/; done")]
    Revoke(revoke::Revoke),
    /// Show certificates; exit code 1 where one is not good
    #[command(after_help = "\
Not good is what has expired or been taken back, is not from an authority in ca.pem, or has another
key than key.pem. ca.pem is looked for in the same folder.
Examples:
  margay tls show /etc/margay/tls
  margay tls show /etc/margay/tls --left 30d      # also 1 where less than 30 days are left
  margay tls show ca/issued/*.pem
  margay tls show n1 -o json      # file, name, role, serial, issuer, valid_from, valid_until, …")]
    Show(show::Show),
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    crate::output::begin(args.output);
    match &args.verb {
        Verb::Init(init) => authority::init(init, args.output),
        Verb::Issue(issue) => issue::run(issue, args.output),
        Verb::Revoke(revoke) => revoke::run(revoke, args.output),
        Verb::Show(show) => show::run(show, args.output),
    }
}

/// What the holder of a certificate may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Role {
    /// Be a node of the cluster
    Node,
    /// Change who is a member and who leads, and use resources
    Operator,
    /// Use resources
    Client,
}

impl Role {
    const ALL: [Role; 3] = [Role::Node, Role::Operator, Role::Client];

    /// As people say.
    fn word(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Operator => "operator",
            Role::Client => "client",
        }
    }

    /// The name that its certificates are for.
    fn name(self) -> &'static str {
        let role = match self {
            Role::Node => tls::Role::Node,
            Role::Operator => tls::Role::Operator,
            Role::Client => tls::Role::Client,
        };
        role.name()
    }
}

/// The folder of an authority.
#[derive(clap::Args, Debug)]
struct Of {
    /// The authority's folder, with ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
}

/// `--valid`. Calendars end somewhere.
fn valid(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(100 * 365 * 86_400);
    match units::duration(text)? {
        time if time < Duration::from_secs(1) => Err("at least 1s".to_owned()),
        time if time > MOST => Err("at most 36500d".to_owned()),
        time => Ok(time),
    }
}

/// A certificate's name, for people. X.509 has 64 characters for it.
fn name(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0 => Err("it is empty".to_owned()),
        65.. => Err("at most 64 characters".to_owned()),
        _ if text.chars().any(char::is_control) => Err("it has control characters".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_for_a_while() {
        assert_eq!(valid("365d"), Ok(Duration::from_secs(365 * 86_400)));
        assert!(valid("36500d").is_ok());
        for text in ["0s", "999ms", "36501d", "1", "1y"] {
            assert!(valid(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_for_people() {
        assert!(name("Ada Lovelace").is_ok());
        assert!(name(&"é".repeat(64)).is_ok());
        for text in ["", "a\nb", &"n".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
