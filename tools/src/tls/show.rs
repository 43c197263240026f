//! `margay tls show`: whose certificates these are, and for how long they are good.

use std::path::{Path, PathBuf};
use std::time::Duration;

use margay::tls::Tls;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;

use super::authority::{CA_KEY, now, seconds};
use super::{CA, CERTIFICATE, REVOKED, files, pem};
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Array, Format, Table};
use crate::units;

/// What to look at.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    /// Folders for --tls, folders of authorities, or files with certificates
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Exit code 1 also where one is good for less than this
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "0s")]
    left: Duration,
}

/// One certificate.
struct Row {
    file: String,
    name: String,
    role: Option<&'static str>,
    serial: String,
    issuer: String,
    from: i64,
    until: i64,
    /// Whether an authority in `ca.pem` has signed it; unknown where there is no such file.
    is_trusted: Option<bool>,
    /// Why it is not good.
    fault: Option<String>,
}

/// What stands beside a certificate.
struct Beside {
    trusted: Vec<Vec<u8>>,
    revoked: Vec<Vec<u8>>,
    /// Whether there is a `ca.pem`.
    is_known: bool,
}

pub(super) fn run(args: &Show, format: Format) -> Result<(), Exit> {
    let mut rows = Vec::new();
    for path in &args.paths {
        look(path, &mut rows)?;
    }
    for row in rows.iter_mut().filter(|row| row.fault.is_none()) {
        if row.until - now() < seconds(args.left) {
            let days = days_until(row.until);
            row.fault = Some(format!("expires soon: in {days} days"));
        }
    }
    if format == Format::Table {
        let heads = ["FILE", "NAME", "ROLE", "ISSUER", "FROM", "UNTIL", "DAYS", "STATE"];
        let mut table = Table::new(&heads);
        rows.iter().for_each(|row| table.row(row.cells()));
        table.print()?;
    } else {
        let mut array = Array::begin(format);
        rows.iter().try_for_each(|row| array.add(&row.to_json()))?;
        array.end()?;
    }
    let bad =
        |row: &Row| row.fault.as_ref().map(|why| format!("{}: {}: {why}", row.file, row.name));
    match rows.iter().find_map(bad) {
        Some(why) => Err(Exit::new(NEGATIVE, why)),
        None => Ok(()),
    }
}

/// Everything in a folder, or in a file.
fn look(path: &Path, rows: &mut Vec<Row>) -> Result<(), Exit> {
    if !path.is_dir() {
        let folder = path.parent().unwrap_or(Path::new(""));
        return read(path, &Beside::read(folder)?, rows);
    }
    let beside = Beside::read(path)?;
    let own = path.join(CERTIFICATE);
    let is_authority = path.join(CA_KEY).exists();
    if own.exists() || !is_authority {
        let first = rows.len();
        read(&own, &beside, rows)?;
        if !beside.is_known {
            return Err(Exit::usage(format!("there is no {}", path.join(CA).display())));
        }
        // Whoever uses the folder has the last word.
        if let Err(error) = Tls::open(path) {
            rows[first].fault.get_or_insert(error.to_string());
        }
    }
    read(&path.join(CA), &beside, rows)
}

fn read(path: &Path, beside: &Beside, rows: &mut Vec<Row>) -> Result<(), Exit> {
    let all = pem::certificates(&files::read(path)?, path)?;
    let trusted = trusted(path, &all, &beside.trusted)?;
    for der in &all {
        rows.push(row(path, &pem::certificate(der, path)?, &trusted, beside)?);
    }
    Ok(())
}

/// Authorities, and those in the same file that they have made authorities.
fn trusted(path: &Path, all: &[Vec<u8>], from: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Exit> {
    let mut trusted = from.to_vec();
    // The one next to the authority comes last.
    for der in all.iter().rev() {
        let certificate = pem::certificate(der, path)?;
        for issuer in trusted.clone() {
            let is_made = pem::is_from(&certificate, &pem::certificate(&issuer, path)?);
            if is_made && certificate.is_ca() && !trusted.contains(der) {
                trusted.push(der.clone());
            }
        }
    }
    Ok(trusted)
}

impl Beside {
    fn read(folder: &Path) -> Result<Beside, Exit> {
        let all = |name: &str, label: &str| -> Result<_, Exit> {
            let path = folder.join(name);
            let text = files::find(&path)?;
            let all = pem::all(text.as_deref().unwrap_or_default(), label, &path)?;
            Ok((all, text.is_some()))
        };
        let (trusted, is_known) = all(CA, pem::CERTIFICATE)?;
        let (revoked, _) = all(REVOKED, pem::REVOKED)?;
        Ok(Beside { trusted, revoked, is_known })
    }
}

fn row(
    path: &Path,
    certificate: &X509Certificate<'_>,
    trusted: &[Vec<u8>],
    beside: &Beside,
) -> Result<Row, Exit> {
    let (from, until) = (&certificate.validity().not_before, &certificate.validity().not_after);
    let mut is_trusted = false;
    for der in trusted {
        is_trusted |= pem::is_from(certificate, &pem::certificate(der, path)?);
    }
    let role = pem::role_of(certificate);
    let mut row = Row {
        file: path.display().to_string(),
        name: pem::name_of(certificate.subject()),
        role: match role {
            None if certificate.is_ca() => Some("authority"),
            role => role.map(super::Role::word),
        },
        serial: output::hex(certificate.raw_serial()),
        issuer: pem::name_of(certificate.issuer()),
        from: from.timestamp(),
        until: until.timestamp(),
        is_trusted: beside.is_known.then_some(is_trusted),
        fault: None,
    };
    let is_revoked = is_revoked(path, certificate, beside)?;
    row.fault = match () {
        () if row.until < now() => Some("expired".to_owned()),
        () if row.from > now() => Some("not valid yet".to_owned()),
        () if is_revoked => Some("revoked".to_owned()),
        () if row.is_trusted == Some(false) => Some(format!("not from an authority in {CA}")),
        () if row.role.is_none() => Some("for no role of margay".to_owned()),
        () => None,
    };
    Ok(row)
}

fn is_revoked(
    path: &Path,
    certificate: &X509Certificate<'_>,
    beside: &Beside,
) -> Result<bool, Exit> {
    for der in &beside.revoked {
        let list = pem::revoked(der, path)?;
        let has = |serial: &[u8]| serial == certificate.raw_serial();
        if list.issuer().as_raw() == certificate.issuer().as_raw()
            && list.iter_revoked_certificates().any(|entry| has(entry.raw_serial()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            self.file.clone(),
            output::cell(self.name.as_bytes()),
            self.role.unwrap_or("none").to_owned(),
            output::cell(self.issuer.as_bytes()),
            day(self.from),
            day(self.until),
            units::grouped(days_until(self.until).max(0).unsigned_abs()),
            self.fault.clone().unwrap_or_else(|| "good".to_owned()),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "file": self.file,
            "name": self.name,
            "role": self.role,
            "serial": self.serial,
            "issuer": self.issuer,
            "valid_from": instant(self.from),
            "valid_until": instant(self.until),
            "days_left": days_until(self.until),
            "trusted": self.is_trusted,
            "good": self.fault.is_none(),
            "fault": self.fault,
        })
    }
}

/// Whole days that are left. The second that has begun is not whole.
fn days_until(seconds: i64) -> i64 {
    const DAY: i64 = 86_400;
    match seconds - now() {
        left @ 1.. => (left - 1) / DAY,
        left => left.div_euclid(DAY),
    }
}

/// A day, as `2027-11-29`.
fn day(seconds: i64) -> String {
    instant(seconds).split('T').next().unwrap_or_default().to_owned()
}

/// A point in time, as `2027-11-29T00:32:03Z`.
pub(super) fn instant(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return "never".to_owned() };
    let time = time.to_datetime();
    let (day, month, year) = (time.day(), u8::from(time.month()), time.year());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_others_write_them() {
        assert_eq!(instant(0), "1970-01-01T00:00:00Z");
        assert_eq!(instant(1_764_374_523), "2025-11-29T00:02:03Z");
        assert_eq!(day(1_764_374_523), "2025-11-29");
    }
}
