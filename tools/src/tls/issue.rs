//! `margay tls issue`: a folder with somebody's identity, or a newer certificate in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use serde_json::json;

use super::authority::{Authority, CA_KEY, Wish, failed};
use super::files::{self, Readers};
use super::show::instant;
use super::{CA, CERTIFICATE, KEY, Of, REVOKED, Role, name, pem, valid};
use crate::exit::Exit;
use crate::output::{self, Format};

/// Where an authority keeps what it has given out.
const ISSUED: &str = "issued";
/// Digits of a serial number in a file's name.
const DIGITS: usize = 8;

/// For whom, by whom, and for how long.
#[derive(clap::Args, Debug)]
pub(super) struct Issue {
    /// The folder, which is made where it is not there
    dir: PathBuf,
    /// What its holder may do
    role: Role,
    #[command(flatten)]
    of: Of,
    /// Its name, for people and logs [default: that of the folder]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// How long it is valid
    #[arg(long, value_name = "TIME", value_parser = valid, default_value = "365d")]
    valid: Duration,
    /// Replace the certificate that is there
    #[arg(long)]
    renew: bool,
    /// Replace the key, too
    #[arg(long, requires = "renew")]
    new_key: bool,
}

/// What is in the folder already.
#[derive(Default)]
struct Found {
    name: Option<String>,
    key: Option<KeyPair>,
    trusted: Vec<Vec<u8>>,
    revoked: Vec<Vec<u8>>,
}

pub(super) fn run(args: &Issue, format: Format) -> Result<(), Exit> {
    let authority = Authority::open(&args.of.ca)?;
    let found = look(args)?;
    let name = match args.name.clone().or(found.name) {
        Some(name) => name,
        None => name_of(&args.dir)?,
    };
    let wish = Wish::new(&name, args.role, args.valid, &authority);
    let (key, is_new) = match found.key {
        Some(key) if !args.new_key => (key, false),
        _ => (KeyPair::generate().map_err(failed)?, true),
    };
    let (certificate, serial) = authority.sign(&wish, &key)?;
    let issued = authority.folder().join(ISSUED);
    files::folder(&issued)?;
    let copy = format!("{}-{}.pem", file_name(&name), &serial[..DIGITS]);
    files::write(&issued, &copy, &certificate, Readers::All)?;

    let dir = args.dir.as_path();
    files::folder(dir)?;
    // Whoever reads in between finds a certificate that fits to what else there is: the one from
    // before, as long as the key stays.
    let trusted = united(&authority.trusted, &found.trusted);
    files::write(dir, CA, &pem::text(pem::CERTIFICATE, trusted), Readers::All)?;
    let revoked = authority.revoked()?;
    let revoked = newest(&revoked, &found.revoked)?;
    if !revoked.is_empty() {
        files::write(dir, REVOKED, &pem::text(pem::REVOKED, revoked), Readers::All)?;
    }
    if is_new {
        files::write(dir, KEY, &key.serialize_pem(), Readers::Owner)?;
    }
    files::write(dir, CERTIFICATE, &certificate, Readers::All)?;
    report(args, &wish, &serial, is_new, format)
}

/// What is there, and whether it may be replaced.
fn look(args: &Issue) -> Result<Found, Exit> {
    let dir = args.dir.as_path();
    if dir.join(CA_KEY).exists() {
        let exit = Exit::usage(format!("{} is an authority's folder", dir.display()));
        return Err(exit.hint("take another: its key must not be where a node runs"));
    }
    let path = dir.join(CERTIFICATE);
    let certificate = files::find(&path)?;
    match (&certificate, args.renew) {
        (Some(_), false) => {
            let exit = Exit::usage(format!("{} is there already", path.display()));
            return Err(exit.hint("--renew replaces it"));
        }
        (None, true) => {
            let exit = Exit::usage(format!("there is no {} to renew", path.display()));
            return Err(exit.hint("without --renew a new one is made"));
        }
        _ => {}
    }
    let mut found = Found::default();
    if let Some(text) = certificate {
        let all = pem::certificates(&text, &path)?;
        let own = pem::certificate(&all[0], &path)?;
        if let Some(role) = pem::role_of(&own).filter(|role| *role != args.role) {
            let (is, asked) = (role.word(), args.role.word());
            let why = format!("{} is for role {is}, not {asked}", path.display());
            return Err(Exit::usage(why).hint("take another folder"));
        }
        found.name = super::name(&pem::name_of(own.subject())).ok();
    }
    if let Some(text) = files::find(&dir.join(KEY))? {
        let key = KeyPair::from_pem(&text);
        match key {
            Ok(key) => found.key = Some(key),
            Err(_) if args.new_key => {}
            Err(error) => return Err(pem::wrong(&dir.join(KEY), &error.to_string())),
        }
    }
    let path = dir.join(CA);
    let text = files::find(&path)?.unwrap_or_default();
    found.trusted = pem::all(&text, pem::CERTIFICATE, &path)?;
    let path = dir.join(REVOKED);
    let text = files::find(&path)?.unwrap_or_default();
    found.revoked = pem::all(&text, pem::REVOKED, &path)?;
    Ok(found)
}

/// The authority's, and others that are trusted already.
fn united<'a>(ours: &'a [Vec<u8>], found: &'a [Vec<u8>]) -> Vec<&'a Vec<u8>> {
    ours.iter().chain(found.iter().filter(|der| !ours.contains(der))).collect()
}

/// The authority's, and those of others that it has none of.
fn newest<'a>(ours: &'a [Vec<u8>], found: &'a [Vec<u8>]) -> Result<Vec<&'a Vec<u8>>, Exit> {
    let by = |der: &Vec<u8>| {
        pem::revoked(der, Path::new(REVOKED)).map(|list| list.issuer().as_raw().to_vec())
    };
    let known = ours.iter().map(by).collect::<Result<Vec<_>, Exit>>()?;
    let mut all: Vec<&Vec<u8>> = ours.iter().collect();
    for der in found {
        if !known.contains(&by(der)?) {
            all.push(der);
        }
    }
    Ok(all)
}

/// A folder's own name.
fn name_of(dir: &Path) -> Result<String, Exit> {
    let named = dir.file_name().and_then(|name| name.to_str()).map(name);
    named.and_then(Result::ok).ok_or_else(|| {
        let why = format!("'{}' is no name for a certificate", dir.display());
        Exit::usage(why).hint("say one with --name")
    })
}

/// What cannot be part of a file's name is not.
fn file_name(name: &str) -> String {
    let may = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    let name: String = name.chars().map(|c| if may(c) { c } else { '_' }).collect();
    name.trim_start_matches('.').to_owned()
}

fn report(
    args: &Issue,
    wish: &Wish<'_>,
    serial: &str,
    is_new: bool,
    format: Format,
) -> Result<(), Exit> {
    let (dir, role) = (args.dir.display(), wish.role.word());
    if format != Format::Table {
        return output::json(&json!({
            "folder": dir.to_string(),
            "name": wish.name,
            "role": role,
            "serial": serial,
            "valid_from": instant(wish.from),
            "valid_until": instant(wish.until),
            "new_key": is_new,
        }));
    }
    let until = instant(wish.until);
    output::line(&format!("{} ({role}): {dir}, valid until {until}", wish.name))?;
    output::line(&match (args.renew, wish.role) {
        (true, _) => "who uses this folder takes it up within seconds; copies need it, too".into(),
        (false, Role::Node) => format!("on its machine:  margay serve --tls {dir} …"),
        (false, Role::Operator) => format!("use it with:  margay cluster status --tls {dir}"),
        (false, Role::Client) => format!("use it with:  margay ls --tls {dir}"),
    })?;
    if matches!((args.renew, wish.role), (false, Role::Operator | Role::Client)) {
        output::line(&format!("or:  export MARGAY_TLS={dir}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_leads_nowhere_else() {
        assert_eq!(file_name("n1"), "n1");
        assert_eq!(file_name("../../etc/x y"), "_.._etc_x_y");
        assert_eq!(file_name("Ada Lovelace"), "Ada_Lovelace");
    }
}
