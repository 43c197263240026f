//! What stands for TLS in a build without it: types of which there is no value. What their methods
//! would do is said where they do it.
#![allow(missing_docs)]

use std::path::Path;

use super::{Broken, Role, TlsError};

/// Who somebody is and whom he trusts. This build is without the feature `tls`: there is none.
#[derive(Clone, Debug)]
pub enum Tls {}

impl Tls {
    /// Reads a folder.
    ///
    /// # Errors
    /// Always: this build has no TLS.
    pub fn open(folder: impl AsRef<Path>) -> Result<Tls, TlsError> {
        let path = folder.as_ref().to_owned();
        Err(TlsError::Unusable { path, why: "this build is without the feature tls".to_owned() })
    }

    /// The role that the certificate gives.
    #[must_use]
    pub fn role(&self) -> Role {
        match *self {}
    }

    pub fn refresh(&self) -> Result<bool, TlsError> {
        match *self {}
    }

    #[must_use]
    pub fn is_good_in(&self, _: std::time::Duration) -> bool {
        match *self {}
    }

    pub fn dial(&self) -> Secure {
        match *self {}
    }

    pub fn accept(&self) -> Secure {
        match *self {}
    }
}

/// One end of a connection.
#[derive(Debug)]
pub enum Secure {}

impl Secure {
    pub fn feed(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Broken> {
        match *self {}
    }

    pub fn put(&mut self, _: &[u8]) {
        match *self {}
    }

    pub fn has_output(&self) -> bool {
        match *self {}
    }

    pub fn drain(&mut self, _: &mut Vec<u8>) {
        match *self {}
    }

    pub fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub fn role(&self) -> Option<Role> {
        match *self {}
    }
}
