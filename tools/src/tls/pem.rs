//! Certificates and lists of revoked ones: their bytes in PEM, and what is in them.

use std::path::Path;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::Role;
use crate::exit::Exit;
use crate::output;

/// What stands over a certificate in PEM.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";
/// What stands over a list of revoked certificates.
pub(super) const REVOKED: &str = "X509 CRL";

/// The bytes of all things of one kind in a text. `path` is for the error.
pub(super) fn all(text: &str, label: &str, path: &Path) -> Result<Vec<Vec<u8>>, Exit> {
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(text.as_bytes()) {
        let pem = pem.map_err(|error| wrong(path, &format!("not in PEM: {error}")))?;
        if pem.label == label {
            match label {
                CERTIFICATE => drop(certificate(&pem.contents, path)?),
                _ => drop(revoked(&pem.contents, path)?),
            }
            found.push(pem.contents);
        }
    }
    Ok(found)
}

/// The certificates in a text, of which there is at least one.
pub(super) fn certificates(text: &str, path: &Path) -> Result<Vec<Vec<u8>>, Exit> {
    let found = all(text, CERTIFICATE, path)?;
    if found.is_empty() { Err(wrong(path, "no certificate in PEM")) } else { Ok(found) }
}

/// What is in a certificate.
pub(super) fn certificate<'a>(der: &'a [u8], path: &Path) -> Result<X509Certificate<'a>, Exit> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(wrong(path, "something stands behind the certificate")),
        Err(error) => Err(wrong(path, &format!("no certificate: {error}"))),
    }
}

/// What is in a list of revoked certificates.
pub(super) fn revoked<'a>(
    der: &'a [u8],
    path: &Path,
) -> Result<CertificateRevocationList<'a>, Exit> {
    match CertificateRevocationList::from_der(der) {
        Ok((_, list)) => Ok(list),
        Err(error) => Err(wrong(path, &format!("no list of revoked certificates: {error}"))),
    }
}

/// A file is not what it should be.
pub(super) fn wrong(path: &Path, why: &str) -> Exit {
    Exit::usage(format!("{}: {why}", path.display()))
}

/// Bytes as PEM has them, one after the other.
pub(super) fn text<'a>(label: &str, all: impl IntoIterator<Item = &'a Vec<u8>>) -> String {
    const COLUMNS: usize = 64;
    let mut text = String::new();
    for der in all {
        let digits = output::base64(der);
        text.push_str(&format!("-----BEGIN {label}-----\n"));
        // They are ASCII.
        for at in (0..digits.len()).step_by(COLUMNS) {
            text.push_str(&digits[at..digits.len().min(at + COLUMNS)]);
            text.push('\n');
        }
        text.push_str(&format!("-----END {label}-----\n"));
    }
    text
}

/// Whose it is, as people call him.
pub(super) fn name_of(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().find_map(|part| part.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

/// What its holder may do, the most of it.
pub(super) fn role_of(certificate: &X509Certificate<'_>) -> Option<Role> {
    let names = certificate.subject_alternative_name().ok()??.value;
    let is = |role: &Role| {
        names.general_names.iter().any(|name| match name {
            GeneralName::DNSName(name) => name.eq_ignore_ascii_case(role.name()),
            _ => false,
        })
    };
    Role::ALL.into_iter().find(is)
}

/// Whether `issuer` has signed it.
pub(super) fn is_from(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_what_others_read() {
        let parts = [vec![0; 47], vec![0xff; 48], vec![7; 100], Vec::new()];
        let text = text("SOMETHING", &parts);
        assert!(text.lines().all(|line| line.len() <= 64), "{text}");
        let read = Pem::iter_from_buffer(text.as_bytes());
        let read: Vec<Vec<u8>> = read.map(|pem| pem.expect("PEM").contents).collect();
        assert_eq!(read, parts);
    }

    #[test]
    fn what_is_no_certificate_is_told_with_its_file() {
        let path = Path::new("x.pem");
        let text = text(CERTIFICATE, &[vec![1, 2, 3]]);
        for (text, words) in [
            (text.as_str(), "no certificate"),
            ("hello", "no certificate in PEM"),
            (&text[..40], "not in PEM"),
        ] {
            let said = certificates(text, path).expect_err("it is none").to_string();
            assert!(said.contains(words) && said.contains("x.pem"), "{words}: {said}");
        }
    }
}
