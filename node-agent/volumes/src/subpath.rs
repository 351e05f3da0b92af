//! `subPath`: a part of a volume. The pod may have put symlinks there, and may change them at any moment: the path is resolved by
//! the kernel, beneath the volume, and what it found is pinned by a bind mount of the open descriptor.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::VolumeError;
use crate::mounts;

/// Makes `target` show `sub` of the volume. What does not exist is made a directory.
pub(crate) fn pin(volume: &Path, sub: &str, target: &Path, create_mode: u32) -> Result<(), VolumeError> {
    let escapes = || VolumeError::SubPathEscapes { path: sub.into() };
    let parts: Vec<&str> = Path::new(sub)
        .components()
        .map(|c| match c {
            Component::Normal(part) => part.to_str().ok_or_else(escapes),
            Component::CurDir => Ok("."),
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => Err(escapes()),
        })
        .collect::<Result<_, _>>()?;
    let root = open(volume, &rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()))?;
    let mut at = String::new();
    let mut found = None;
    for part in parts {
        let before = std::mem::take(&mut at);
        at = if before.is_empty() { part.to_owned() } else { format!("{before}/{part}") };
        let resolved = match beneath(&root, &at) {
            Err(Errno::NOENT) => {
                let parent = if before.is_empty() { ".".to_owned() } else { before };
                let parent = open(volume, &beneath(&root, &parent))?;
                rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(create_mode))
                    .map_err(|e| VolumeError::host("create", &volume.join(&at))(e.into()))?;
                beneath(&root, &at)
            }
            other => other,
        };
        if matches!(resolved, Err(Errno::XDEV)) {
            return Err(escapes());
        }
        found = Some(open(volume, &resolved)?);
    }
    let Some(found) = found else { return Err(escapes()) };
    let meta = rustix::fs::fstat(&found).map_err(|e| VolumeError::host("look at", volume)(e.into()))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(meta.st_mode).is_dir();
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(VolumeError::host("create", parent))?;
    }
    if mounts::is_mount_point(target) {
        mounts::unmount_all(target)?;
    }
    match (is_dir, target.exists()) {
        (_, true) => {}
        (true, false) => fs::create_dir(target).map_err(VolumeError::host("create", target))?,
        (false, false) => fs::File::create(target).map(|_| ()).map_err(VolumeError::host("create", target))?,
    }
    mounts::bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), target)
}

fn beneath(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn open(volume: &Path, opened: &Result<OwnedFd, Errno>) -> Result<OwnedFd, VolumeError> {
    match opened {
        Ok(fd) => fd.try_clone().map_err(VolumeError::host("open", volume)),
        Err(error) => Err(VolumeError::host("open", volume)((*error).into())),
    }
}
