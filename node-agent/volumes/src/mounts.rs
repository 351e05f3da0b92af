//! The kernel's mounts, looked at and changed.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::VolumeError;

/// Paths in the mount table have spaces and the like as octal escapes.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten();
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mount points at or below a path, deepest last.
pub(crate) fn below(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p)));
    let mut found: Vec<PathBuf> = points.filter(|p| p.starts_with(path)).collect();
    found.sort();
    found
}

pub(crate) fn is_mount_point(path: &Path) -> bool {
    below(path).iter().any(|p| p == path)
}

/// A file system in memory. `bytes` 0 leaves the size to the kernel (half of the memory).
pub(crate) fn tmpfs(path: &Path, bytes: i64, mode: u32) -> Result<(), VolumeError> {
    let size = if bytes > 0 { format!(",size={bytes}") } else { String::new() };
    let options = CString::new(format!("mode={mode:o}{size}")).unwrap_or_default();
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|e| VolumeError::host("mount a tmpfs at", path)(e.into()))
}

pub(crate) fn bind(source: &Path, target: &Path) -> Result<(), VolumeError> {
    rustix::mount::mount_bind_recursive(source, target).map_err(|e| VolumeError::host("bind", target)(e.into()))
}

/// Takes away every mount at or below a path. What is in use goes when its last user does.
pub(crate) fn unmount_all(path: &Path) -> Result<(), VolumeError> {
    for point in below(path).into_iter().rev() {
        rustix::mount::unmount(&point, UnmountFlags::DETACH)
            .map_err(|e| VolumeError::host("unmount", &point)(e.into()))?;
    }
    Ok(())
}
