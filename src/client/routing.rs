//! Which group a name lives in.

use crc32c::crc32c;
use margay_log::id::GroupId;

/// The group of `name` in a cluster of `groups` groups; `None` when the name asks for one there is
/// not.
///
/// Names are spread by their checksum. Digits behind the last `@` name the group instead: `jobs@3`
/// lives in group 3, and so do other names that end so, which is what operations over several names
/// need. Changing this would lose every name: a golden test holds it.
#[must_use]
pub fn route(name: &str, groups: u32) -> Option<GroupId> {
    if let Some((_, digits)) = name.rsplit_once('@')
        && !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return digits.parse().ok().filter(|group| *group < groups).map(GroupId);
    }
    let spread = (u64::from(crc32c(name.as_bytes())) * u64::from(groups)) >> 32;
    (groups > 0).then_some(GroupId(spread as u32))
}
