//! What can be done to resources as such, and with what bounds.

#[cfg(doc)]
use super::PAGE_MAX;
use crate::machine::{Code, NAME_MAX, kind};
use crate::resource::codec::{Limits, limits, operation};
use crate::resource::{own, type_of};

/// Options of a resource, in bytes, at most.
pub const OPTIONS_MAX: usize = 4 << 10;

/// Opens a resource; creates it where the name is free. Answers its id, and 1 where it was created.
/// Where it exists, `options` are ignored: who created it chose.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct OpenV1 {
    /// 1 to 256 bytes of UTF-8 without control characters.
    pub name: Vec<u8>,
    /// Its type.
    pub kind: u8,
    /// Belong to the type; fixed at creation.
    pub options: Vec<u8>,
}

/// Deletes a resource with all it holds.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DeleteV1 {
    /// Its id.
    pub resource: u64,
}

/// Query: the resource of a name. Answers id and kind.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct FindV1 {
    /// Its name.
    pub name: Vec<u8>,
    /// The type it must have; 0 for any.
    pub kind: u8,
}

/// Query: resources in order of their names. Answers the name to go on after, or none at the end;
/// a count; then id, kind, name of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ListV1 {
    /// What the names begin with.
    pub prefix: Vec<u8>,
    /// Their type; 0 for any.
    pub kind: u8,
    /// The page begins after this name; empty for the first page.
    pub after: Vec<u8>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
}

operation!(OpenV1, kind::REGISTRY, 0x0101, "open");
operation!(DeleteV1, kind::REGISTRY, 0x0201, "delete");
operation!(FindV1, kind::REGISTRY, 0x0301, "find");
operation!(ListV1, kind::REGISTRY, 0x0401, "list");

impl Limits for ArchivedOpenV1 {
    fn limits(&self) -> Result<(), Code> {
        check_name(&self.name)?;
        // One that is in the log was admitted, so it is not left out for being unknown here.
        if type_of(self.kind).is_none() && !own::is_own(self.kind) {
            return Err(Code::BAD_KIND);
        }
        if self.options.len() > OPTIONS_MAX {
            return Err(Code::OPTIONS_TOO_LARGE);
        }
        Ok(())
    }
}

limits! {
    ArchivedDeleteV1:;
    ArchivedFindV1: name(name);
}

impl Limits for ArchivedListV1 {
    fn limits(&self) -> Result<(), Code> {
        let long = self.prefix.len().max(self.after.len()) > NAME_MAX;
        if long { Err(Code::BAD_NAME) } else { Ok(()) }
    }
}

/// Whether a resource may have this name.
///
/// # Errors
/// [`Code::BAD_NAME`].
pub fn check_name(name: &[u8]) -> Result<(), Code> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Code::BAD_NAME);
    }
    let text = std::str::from_utf8(name).map_err(|_| Code::BAD_NAME)?;
    if text.chars().any(char::is_control) { Err(Code::BAD_NAME) } else { Ok(()) }
}
