//! What a node that died leaves on the machine: mounts and cgroups.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

/// Cgroups are empty a moment after their last process ended.
const CGROUP_PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// The mount points at or below `root`, deepest first.
fn mounts_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // The kernel writes blanks as octal.
        .map(|path| PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t")))
        .filter(|path| path.starts_with(root))
        .collect();
    found.reverse();
    found
}

/// Unmounts everything at or below `root`.
pub fn unmount_below(root: &Path) {
    // A mount may hide another on the same path.
    for _ in 0..8 {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts = mounts_below(&mountinfo, root);
        if mounts.is_empty() {
            return;
        }
        for path in mounts {
            if let Err(error) = unmount(&path, UnmountFlags::DETACH) {
                tracing::debug!(path = %path.display(), %error, "a mount stays");
            }
        }
    }
}

/// Removes a cgroup and all below it, in each hierarchy of version 1 and in version 2.
pub fn remove_cgroups(root: &str) {
    let relative = root.trim_start_matches('/');
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for hierarchy in hierarchies.filter(|path| path.is_dir()).chain([base.to_owned()]) {
        let path = hierarchy.join(relative);
        if !path.is_dir() {
            continue;
        }
        let begun = Instant::now();
        while let Err(error) = remove_tree(&path) {
            if begun.elapsed() > CGROUP_PATIENCE {
                tracing::warn!(path = %path.display(), %error, "a cgroup stays");
                break;
            }
            std::thread::sleep(LOOK);
        }
        // The cloud's own cgroup, when this was its last node; refused when it is not.
        if let Some(parent) = path.parent().filter(|parent| *parent != hierarchy) {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// Control files go with their directory: only directories are removed.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_undone_from_the_last_to_the_first_and_neighbours_stay() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
             2 1 0:5 / /run/g/n\\040x rw - tmpfs t rw\n\
             3 2 0:6 / /run/g/n\\040x/y rw - tmpfs t rw\n\
             4 1 0:7 / /run/g/n\\040x2 rw - tmpfs t rw\n";
        let found = mounts_below(mountinfo, Path::new("/run/g/n x"));
        assert_eq!(found, [PathBuf::from("/run/g/n x/y"), PathBuf::from("/run/g/n x")]);
    }
}
