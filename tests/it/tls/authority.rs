//! An authority for tests, of this crate from inside and from outside.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority, and folders with its certificates.
pub(crate) struct Authority {
    root: PathBuf,
    pub(crate) pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(test: &str, name: &str) -> Authority {
        let root = std::env::temp_dir().join(format!("margay-tls-{}-{test}", std::process::id()));
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Authority { root, pem, issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate for this name into a folder, as changed by `change`. A node's is good
    /// for both ends of a connection.
    pub(crate) fn issue(
        &self,
        folder: &str,
        role: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> PathBuf {
        let folder = self.root.join(folder);
        std::fs::create_dir_all(&folder).expect("a new folder");
        let mut params = CertificateParams::new(vec![role.to_owned()]).expect("a name");
        params.distinguished_name = named("somebody");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role.starts_with("node.") {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        write(&folder, "ca.pem", &self.pem);
        write(&folder, "cert.pem", &certificate.pem());
        write(&folder, "key.pem", &key.serialize_pem());
        folder
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}
