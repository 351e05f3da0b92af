//! The pods' cgroups, v1 and v2: one for each QoS class below the agent's root, one for each pod below that. The runtime makes
//! the containers' own below the pod's.
//!
//! ```text
//!  <root>/pod<uid>              Guaranteed
//!  <root>/burstable/pod<uid>
//!  <root>/besteffort/pod<uid>
//! ```
//!
//! Without the pod's cgroup a pod's containers could together use more than the pod's limits, and an emptyDir in memory would
//! be charged to nobody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use galley_node_plan::qos::{CgroupLimits, QosClass};

/// A file or directory of the cgroup file system that could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {source}")]
pub struct CgroupError {
    pub path: String,
    #[source]
    pub source: io::Error,
}

/// Where the kernel shows which controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    V1 { cpu: Option<PathBuf>, memory: Option<PathBuf>, all: Vec<PathBuf> },
    V2 { root: PathBuf },
}

/// The agent's part of the cgroup tree.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchy: Hierarchy,
    /// Relative to every hierarchy, no slash at either end.
    root: String,
}

const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

impl Cgroups {
    /// Finds the machine's hierarchies. `root` is a path like `galley/node-1`.
    pub fn detect(root: &str) -> Result<Self, CgroupError> {
        let mounts = "/proc/self/mountinfo";
        let text = fs::read_to_string(mounts).map_err(|source| CgroupError { path: mounts.into(), source })?;
        Ok(Self { hierarchy: parse_mounts(&text), root: root.trim_matches('/').to_owned() })
    }

    /// `v1` or `v2`, for the log.
    pub fn version(&self) -> &'static str {
        match self.hierarchy {
            Hierarchy::V1 { .. } => "v1",
            Hierarchy::V2 { .. } => "v2",
        }
    }

    fn class_path(&self, class: QosClass) -> String {
        match class {
            QosClass::Guaranteed => self.root.clone(),
            QosClass::Burstable => format!("{}/burstable", self.root),
            QosClass::BestEffort => format!("{}/besteffort", self.root),
        }
    }

    /// The pod's cgroup as the runtime takes it for `cgroup_parent` (cgroupfs driver).
    pub fn pod_path(&self, class: QosClass, uid: &str) -> String {
        format!("/{}/pod{uid}", self.class_path(class))
    }

    /// Makes the pod's cgroup (and those above it) and sets its limits. Repeating it is harmless.
    pub fn pod_create(&self, class: QosClass, uid: &str, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let path = self.pod_path(class, uid);
        let path = path.trim_matches('/');
        match &self.hierarchy {
            Hierarchy::V1 { cpu, memory, all } => {
                for controller in all {
                    make(&controller.join(path))?;
                }
                if let Some(cpu) = cpu {
                    let best_effort = cpu.join(self.class_path(QosClass::BestEffort));
                    if best_effort.is_dir() {
                        write(&best_effort.join("cpu.shares"), "2")?;
                    }
                    let pod = cpu.join(path);
                    write(&pod.join("cpu.shares"), &limits.cpu_shares.to_string())?;
                    if limits.cpu_quota > 0 {
                        write(&pod.join("cpu.cfs_period_us"), &limits.cpu_period.to_string())?;
                        write(&pod.join("cpu.cfs_quota_us"), &limits.cpu_quota.to_string())?;
                    }
                }
                if let Some(memory) = memory.as_ref().filter(|_| limits.memory_limit > 0) {
                    write(&memory.join(path).join("memory.limit_in_bytes"), &limits.memory_limit.to_string())?;
                }
            }
            Hierarchy::V2 { root } => {
                self.make_v2(root, path)?;
                let pod = root.join(path);
                // As in v1: what asked for nothing gets what others leave.
                let best_effort = root.join(self.class_path(QosClass::BestEffort));
                if best_effort.is_dir() {
                    write(&best_effort.join("cpu.weight"), &weight(2).to_string())?;
                }
                write(&pod.join("cpu.weight"), &weight(limits.cpu_shares).to_string())?;
                if limits.cpu_quota > 0 {
                    write(&pod.join("cpu.max"), &format!("{} {}", limits.cpu_quota, limits.cpu_period))?;
                }
                if limits.memory_limit > 0 {
                    write(&pod.join("memory.max"), &limits.memory_limit.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// v2 passes a controller on to children only where `cgroup.subtree_control` says so, at every level.
    fn make_v2(&self, root: &Path, path: &str) -> Result<(), CgroupError> {
        let mut at = root.to_owned();
        for part in path.split('/') {
            enable_controllers(&at)?;
            at.push(part);
            make(&at)?;
        }
        enable_controllers(&at)
    }

    /// Removes the pod's cgroup, in whichever class it is. What still has processes stays for the next time.
    pub fn pod_remove(&self, uid: &str) {
        let roots: Vec<&PathBuf> = match &self.hierarchy {
            Hierarchy::V1 { all, .. } => all.iter().collect(),
            Hierarchy::V2 { root } => vec![root],
        };
        for root in roots {
            for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
                let path = root.join(self.pod_path(class, uid).trim_matches('/'));
                if path.is_dir() {
                    remove_tree(&path);
                }
            }
        }
    }
}

/// cpu.weight is 1 to 10000 where shares are 2 to 262144 (Kubernetes enhancement 2254).
fn weight(shares: i64) -> i64 {
    1 + (shares - 2).max(0) * 9999 / 262_142
}

fn parse_mounts(mountinfo: &str) -> Hierarchy {
    let mut v1: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default().split(',').map(Into::into).collect();
                v1.push((point.into(), options));
            }
            Some("cgroup2") => v2 = v2.or(Some(PathBuf::from(point))),
            _ => {}
        }
    }
    let find = |name: &str| v1.iter().find(|(_, o)| o.iter().any(|c| c == name)).map(|(p, _)| p.clone());
    match (find("memory"), v2) {
        (None, Some(root)) => Hierarchy::V2 { root },
        (memory, _) => Hierarchy::V1 {
            cpu: find("cpu"),
            memory,
            // cpuset wants values copied from the parent before it takes processes: left to the runtime.
            all: ["cpu", "cpuacct", "memory", "pids"].iter().filter_map(|c| find(c)).collect(),
        },
    }
}

fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError { path: path.display().to_string(), source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError { path: path.display().to_string(), source })
}

fn enable_controllers(path: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for name in CONTROLLERS {
        let listed = |list: &str| list.split_whitespace().any(|c| c == name);
        if listed(&available) && !listed(&enabled) {
            write(&path.join("cgroup.subtree_control"), &format!("+{name}"))?;
        }
    }
    Ok(())
}

/// A cgroup's directory is removed when it has no child and no process; its files go with it.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_in_the_unified_tree_has_its_limits_and_passes_controllers_on() {
        let tree = tempfile::tempdir().unwrap();
        let file = |path: &str| fs::read_to_string(tree.path().join(path)).unwrap_or_default();
        fs::write(tree.path().join("cgroup.controllers"), "cpuset cpu io memory hugetlb pids rdma misc\n").unwrap();
        fs::write(tree.path().join("cgroup.subtree_control"), "cpuset cpu io memory pids\n").unwrap();
        let cgroups =
            Cgroups { hierarchy: Hierarchy::V2 { root: tree.path().to_owned() }, root: "galley/node-1".to_owned() };
        let limits = CgroupLimits {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit: 64 << 20,
            ..CgroupLimits::default()
        };
        cgroups.pod_create(QosClass::Burstable, "u1", &limits).unwrap();
        // What is passed on already is left alone.
        assert_eq!(file("cgroup.subtree_control"), "+hugetlb");
        assert_eq!(file("galley/node-1/burstable/podu1/cpu.weight"), "39");
        assert_eq!(file("galley/node-1/burstable/podu1/cpu.max"), "50000 100000");
        assert_eq!(file("galley/node-1/burstable/podu1/memory.max"), "67108864");
        cgroups
            .pod_create(QosClass::BestEffort, "u2", &CgroupLimits { cpu_shares: 2, ..CgroupLimits::default() })
            .unwrap();
        assert_eq!(file("galley/node-1/besteffort/cpu.weight"), "1");
        assert_eq!(file("galley/node-1/besteffort/podu2/memory.max"), "", "no limit");
    }

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Hierarchy::V1 { cpu, memory, all } = parse_mounts(v1) else { panic!("v1") };
        assert_eq!(cpu, Some("/sys/fs/cgroup/cpu".into()));
        assert_eq!(memory, Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(all.len(), 2);
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mounts(v2), Hierarchy::V2 { root: "/sys/fs/cgroup".into() });
    }
}
