//! `fsGroup`: a volume's files belong to the group, which may do what their owner may.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::error::VolumeError;

/// Gives a tree to a group. Read-only content is only made readable.
pub(crate) fn give_to_group(path: &Path, group: u32, read_only: bool) -> Result<(), VolumeError> {
    let meta = fs::symlink_metadata(path).map_err(VolumeError::host("look at", path))?;
    lchown(path, None, Some(group)).map_err(VolumeError::host("give to the group", path))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mode = meta.permissions().mode() | if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        // New files in the directory belong to the group too.
        mode |= 0o2110;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
        .map_err(VolumeError::host("set the mode of", path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(VolumeError::host("list", path))?.flatten() {
            give_to_group(&entry.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Whether the root of a tree already belongs to the group (`fsGroupChangePolicy: OnRootMismatch`).
pub(crate) fn belongs_to(path: &Path, group: u32) -> bool {
    fs::metadata(path).is_ok_and(|m| m.gid() == group && m.permissions().mode() & 0o2000 != 0)
}
