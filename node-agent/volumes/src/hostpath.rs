//! `hostPath`: a path of the node, checked against the type that the pod expects.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::error::VolumeError;

/// Checks (and for `...OrCreate` makes) a path of the node.
pub(crate) fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let wrong = |wanted| VolumeError::HostPathType { path: path.display().to_string(), wanted };
    let meta = fs::metadata(path);
    match kind {
        "DirectoryOrCreate" => {
            if meta.is_err() {
                fs::create_dir_all(path).map_err(VolumeError::host("create", path))?;
            }
            if path.is_dir() { Ok(()) } else { Err(wrong("directory")) }
        }
        "FileOrCreate" => {
            if meta.is_err() {
                fs::File::create(path).map_err(VolumeError::host("create", path))?;
            }
            if path.is_file() { Ok(()) } else { Err(wrong("file")) }
        }
        "Directory" if !path.is_dir() => Err(wrong("directory")),
        "File" if !path.is_file() => Err(wrong("file")),
        "Socket" if !meta.as_ref().is_ok_and(|m| m.file_type().is_socket()) => Err(wrong("socket file")),
        "CharDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_char_device()) => Err(wrong("character device")),
        "BlockDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_block_device()) => Err(wrong("block device")),
        // No type: the runtime makes a missing path a directory, as with docker's bind mounts.
        "" if meta.is_err() => fs::create_dir_all(path).map_err(VolumeError::host("create", path)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(check(&at("made"), "DirectoryOrCreate").is_ok() && at("made").is_dir());
        assert!(check(&at("file"), "FileOrCreate").is_ok() && at("file").is_file());
        let error = check(&at("file"), "Directory").unwrap_err().to_string();
        assert!(error.ends_with("file is not a directory"), "{error}");
        assert!(check(&at("none"), "File").is_err());
        assert!(check(&at("made"), "Socket").is_err());
    }
}
