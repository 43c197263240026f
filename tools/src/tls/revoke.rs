//! `margay tls revoke`: the list of all certificates that an authority has taken back.

use std::path::PathBuf;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use serde_json::json;

use super::authority::{Authority, failed, now, time};
use super::files::{self, Readers};
use super::{CERTIFICATE, Of, REVOKED, pem};
use crate::exit::Exit;
use crate::output::{self, Format};

/// Whose, and which.
#[derive(clap::Args, Debug)]
pub(super) struct Revoke {
    #[command(flatten)]
    of: Of,
    /// Certificates, or folders with one
    #[arg(value_name = "CERT.pem", required = true)]
    certificates: Vec<PathBuf>,
}

/// What was taken back before.
#[derive(Default)]
struct Known {
    number: u64,
    entries: Vec<RevokedCertParams>,
    /// Lists of other authorities, which are none of our business.
    others: Vec<Vec<u8>>,
}

pub(super) fn run(args: &Revoke, format: Format) -> Result<(), Exit> {
    let authority = Authority::open(&args.of.ca)?;
    let mut known = known(&authority)?;
    let mut names = Vec::new();
    let before = known.entries.len();
    // All are looked at before anything is done.
    for path in &args.certificates {
        let path = if path.is_dir() { path.join(CERTIFICATE) } else { path.clone() };
        let all = pem::certificates(&files::read(&path)?, &path)?;
        let certificate = pem::certificate(&all[0], &path)?;
        let own = pem::certificate(&authority.trusted[0], &path)?;
        if !pem::is_from(&certificate, &own) {
            let exit = pem::wrong(&path, "it is not from this authority");
            return Err(exit.hint("whom a node trusts is in its ca.pem"));
        }
        let serial = SerialNumber::from(certificate.tbs_certificate.serial.to_bytes_be());
        if known.entries.iter().all(|entry| entry.serial_number != serial) {
            known.entries.push(entry(serial, time(now())?));
        }
        names.push(pem::name_of(certificate.subject()));
    }
    let (all, fresh) = (known.entries.len(), known.entries.len() - before);
    if fresh > 0 {
        write(&authority, known)?;
    }
    let path = authority.folder().join(REVOKED);
    if format != Format::Table {
        return output::json(&json!({
            "file": path.display().to_string(),
            "names": names,
            "revoked": fresh,
            "all": all,
        }));
    }
    let (names, path) = (names.join(", "), path.display());
    let already = if fresh == 0 { ", as before" } else { "" };
    output::line(&format!("revoked: {names}{already}; {all} in all, in {path}"))?;
    output::line(&format!("copy {path} into the folder of every node: it counts where it is"))
}

fn entry(serial_number: SerialNumber, at: x509_parser::time::ASN1Time) -> RevokedCertParams {
    RevokedCertParams {
        serial_number,
        revocation_time: at.to_datetime(),
        reason_code: None,
        invalidity_date: None,
    }
}

fn known(authority: &Authority) -> Result<Known, Exit> {
    let mut known = Known::default();
    let path = authority.folder().join(REVOKED);
    let own = pem::certificate(&authority.trusted[0], &path)?;
    for der in authority.revoked()? {
        let list = pem::revoked(&der, &path)?;
        if list.issuer().as_raw() != own.subject().as_raw() {
            known.others.push(der);
            continue;
        }
        if list.verify_signature(own.public_key()).is_err() {
            return Err(pem::wrong(&path, "its signature is wrong"));
        }
        let number = list.crl_number().and_then(|number| number.iter_u64_digits().next());
        known.number = known.number.max(number.unwrap_or(0));
        known.entries.extend(
            list.iter_revoked_certificates().map(|revoked| {
                entry(revoked.serial().to_bytes_be().into(), revoked.revocation_date)
            }),
        );
    }
    Ok(known)
}

fn write(authority: &Authority, known: Known) -> Result<(), Exit> {
    let params = CertificateRevocationListParams {
        this_update: time(now())?.to_datetime(),
        // Nothing is taken back only for a while, and nobody must stop for want of a newer list.
        next_update: time(authority.until)?.to_datetime(),
        crl_number: (known.number + 1).into(),
        issuing_distribution_point: None,
        revoked_certs: known.entries,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&authority.issuer).map_err(failed)?.der().to_vec();
    let text = pem::text(pem::REVOKED, [&list].into_iter().chain(&known.others));
    files::write(authority.folder(), REVOKED, &text, Readers::All)
}
