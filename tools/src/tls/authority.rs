//! `margay tls init`, and the authority that it makes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use serde_json::json;
use x509_parser::time::ASN1Time;

use super::files::{self, Readers};
use super::show::instant;
use super::{CA, REVOKED, Role, pem, valid};
use crate::exit::Exit;
use crate::output::{self, Format};

/// With what an authority signs.
pub(super) const CA_KEY: &str = "ca.key";
/// Clocks differ: what was made just now is valid on a machine whose clock is behind.
const BEFORE: i64 = 3_600;

/// Where, and for how long.
#[derive(clap::Args, Debug)]
pub(super) struct Init {
    /// Its folder, which is made
    dir: PathBuf,
    /// How long it is valid
    #[arg(long, value_name = "TIME", value_parser = valid, default_value = "3650d")]
    valid: Duration,
}

pub(super) fn init(args: &Init, format: Format) -> Result<(), Exit> {
    let dir = args.dir.as_path();
    if let Some(there) = [CA_KEY, CA].map(|name| dir.join(name)).iter().find(|path| path.exists()) {
        let exit = Exit::usage(format!("{} is there already", there.display()));
        return Err(exit.hint("an authority is never replaced: take another folder"));
    }
    // Of two authorities of the same name nobody could say whose list of revoked ones he reads.
    let name = format!("margay authority {}", output::hex(&random::<4>()?));
    let key = KeyPair::generate().map_err(failed)?;
    let (from, until) = (now() - BEFORE, now() + seconds(args.valid));
    let mut params = params(&name, from, until)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(failed)?;
    files::folder(dir)?;
    files::write(dir, CA_KEY, &key.serialize_pem(), Readers::Owner)?;
    files::write(dir, CA, &certificate.pem(), Readers::All)?;
    if format != Format::Table {
        return output::json(&json!({
            "folder": dir.display().to_string(),
            "name": name,
            "valid_from": instant(from),
            "valid_until": instant(until),
        }));
    }
    let dir = dir.display();
    output::line(&format!(
        "{name}: {dir}/{CA}, valid until {}
whoever has {dir}/{CA_KEY} can be any node: keep it where none runs

now a folder for each node, and for each operator and program that uses the cluster:
  margay tls issue n1 node --ca {dir}
  margay tls issue admin operator --ca {dir}
  margay tls issue app client --ca {dir}",
        instant(until)
    ))
}

/// Whoever gives out certificates.
pub(super) struct Authority {
    folder: PathBuf,
    /// All that its `ca.pem` says to trust, the own one first.
    pub(super) trusted: Vec<Vec<u8>>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Until when it is valid, in seconds from 1970 on.
    pub(super) until: i64,
}

impl Authority {
    pub(super) fn open(folder: &Path) -> Result<Authority, Exit> {
        let (path, key_path) = (folder.join(CA), folder.join(CA_KEY));
        let hint = "margay tls init makes an authority";
        let text = files::read(&path).map_err(|exit| exit.hint(hint))?;
        let key = KeyPair::from_pem(&files::read(&key_path).map_err(|exit| exit.hint(hint))?);
        let key = key.map_err(|error| pem::wrong(&key_path, &error.to_string()))?;
        let mut trusted = pem::certificates(&text, &path)?;
        let mut own = None;
        for (at, der) in trusted.iter().enumerate() {
            if pem::certificate(der, &path)?.public_key().raw == key.subject_public_key_info() {
                own = Some(at);
            }
        }
        let own =
            own.ok_or_else(|| pem::wrong(&path, "no certificate there has the key ca.key"))?;
        trusted.swap(0, own);
        let certificate = pem::certificate(&trusted[0], &path)?;
        let until = certificate.validity().not_after.timestamp();
        if until < now() {
            let exit = pem::wrong(&path, &format!("the authority expired at {}", instant(until)));
            return Err(exit.hint("make another with margay tls init"));
        }
        if !certificate.is_ca() {
            return Err(pem::wrong(&path, "its certificate is not an authority's"));
        }
        let issuer = Issuer::from_ca_cert_der(&trusted[0].as_slice().into(), key);
        let issuer = issuer.map_err(|error| pem::wrong(&path, &error.to_string()))?;
        Ok(Authority { folder: folder.to_owned(), trusted, issuer, until })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `crl.pem` beside it holds.
    pub(super) fn revoked(&self) -> Result<Vec<Vec<u8>>, Exit> {
        let path = self.folder.join(REVOKED);
        let text = files::find(&path)?.unwrap_or_default();
        pem::all(&text, pem::REVOKED, &path)
    }

    /// A certificate for a key, in PEM, with its serial number.
    pub(super) fn sign(&self, wish: &Wish<'_>, key: &KeyPair) -> Result<(String, String), Exit> {
        let mut params = params(wish.name, wish.from, wish.until)?;
        let name = wish.role.name().try_into().map_err(failed)?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match wish.role {
            Role::Node => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Operator | Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let certificate = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), output::hex(&serial)))
    }
}

/// What a certificate shall say. Times are in seconds from 1970 on.
pub(super) struct Wish<'a> {
    pub(super) name: &'a str,
    pub(super) role: Role,
    pub(super) from: i64,
    pub(super) until: i64,
}

impl<'a> Wish<'a> {
    /// From now on, for a while, but not for longer than the authority.
    pub(super) fn new(name: &'a str, role: Role, valid: Duration, of: &Authority) -> Wish<'a> {
        let until = (now() + seconds(valid)).min(of.until);
        Wish { name, role, from: now() - BEFORE, until }
    }
}

fn params(name: &str, from: i64, until: i64) -> Result<CertificateParams, Exit> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (time(from)?.to_datetime(), time(until)?.to_datetime());
    // A renewed certificate has the same key, and must have another number.
    let mut serial = random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(serial.to_vec().into());
    Ok(params)
}

/// Seconds from 1970 on, by the calendar.
pub(super) fn now() -> i64 {
    ASN1Time::now().timestamp()
}

pub(super) fn time(seconds: i64) -> Result<ASN1Time, Exit> {
    ASN1Time::from_timestamp(seconds).map_err(|_| Exit::usage("no calendar goes so far"))
}

pub(super) fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Exit> {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes))?;
    Ok(bytes)
}

/// Making a certificate fails for no reason that lies in what it shall say.
pub(super) fn failed(error: rcgen::Error) -> Exit {
    Exit::usage(format!("no certificate can be made: {error}"))
}
