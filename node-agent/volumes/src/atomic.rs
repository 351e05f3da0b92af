//! Replacing all files of a directory at once.
//!
//! ```text
//!  <dir>/..2026_11_23_18_44_09.000000001/key      the content
//!  <dir>/..data -> ..2026_11_23_18_44_09.000000001   swapped by rename: readers see all old or all new
//!  <dir>/key -> ..data/key                         what containers open
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::error::VolumeError;
use crate::ownership;
use crate::payload::File;

const DATA: &str = "..data";

/// Brings a directory to hold exactly these files; whether anything changed. `group` gets to read them.
pub(crate) fn write(directory: &Path, files: &[File], group: Option<u32>, now: Timestamp) -> Result<bool, VolumeError> {
    let data = directory.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, files) {
        return Ok(false);
    }
    let stamp = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let fresh = directory.join(&stamp);
    fs::create_dir(&fresh).map_err(VolumeError::host("create", &fresh))?;
    set_mode(&fresh, 0o755)?;
    for file in files {
        let path = fresh.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(VolumeError::host("create", parent))?;
        }
        fs::write(&path, &file.bytes).map_err(VolumeError::host("write", &path))?;
        set_mode(&path, file.mode)?;
    }
    if let Some(group) = group {
        ownership::give_to_group(&fresh, group, true)?;
    }
    let next = directory.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next).map_err(VolumeError::host("link", &next))?;
    fs::rename(&next, &data).map_err(VolumeError::host("swap", &data))?;
    links(directory, files)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(directory.join(old));
    }
    Ok(true)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(VolumeError::host("set the mode of", path))
}

/// The first part of each path is what containers see in the volume's directory.
fn links(directory: &Path, files: &[File]) -> Result<(), VolumeError> {
    let top: BTreeSet<&str> = files.iter().filter_map(|f| f.path.split('/').next()).collect();
    for name in &top {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), &link).map_err(VolumeError::host("link", &link))?;
        }
    }
    for entry in fs::read_dir(directory).map_err(VolumeError::host("list", directory))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !top.contains(name.as_ref()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Whether the directory holds exactly these files with this content.
fn same(data: &Path, files: &[File]) -> bool {
    files.iter().all(|f| fs::read(data.join(&f.path)).is_ok_and(|bytes| bytes == f.bytes)) && count(data) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), bytes: text.into(), mode: 0o600 }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn content_is_replaced_whole_and_old_content_goes() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert!(write(dir.path(), &[file("a", "1"), file("d/x", "2")], None, at(0)).unwrap());
        assert_eq!((read("a"), read("d/x")), (Some("1".into()), Some("2".into())));
        assert!(!write(dir.path(), &[file("a", "1"), file("d/x", "2")], None, at(1)).unwrap(), "nothing to do");
        assert!(write(dir.path(), &[file("a", "3")], None, at(2)).unwrap());
        assert_eq!((read("a"), read("d/x")), (Some("3".into()), None));
        let left: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with("..2"))
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
