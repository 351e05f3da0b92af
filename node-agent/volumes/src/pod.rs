//! The volumes of one pod.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use galley_node_plan::downward::RuntimeFacts;
use galley_node_plan::env::expand;
use galley_node_plan::qos::pod_limits;
use galley_node_plan::quantity::whole;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use crate::error::{SetUpError, VolumeError};
use crate::payload::{Sources, claim_name, payload};
use crate::{atomic, hostpath, mounts, ownership, subpath};

/// How mounts travel between the node and the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// A path of the node to show in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// Where a pod's volumes are.
#[derive(Debug, Clone)]
pub struct PodVolumes {
    /// `<data dir>/pods/<uid>`.
    pod: PathBuf,
}

impl PodVolumes {
    /// The volumes of a pod below the node's pods directory.
    pub fn new(pods: &Path, uid: &str) -> Self {
        Self { pod: pods.join(uid) }
    }

    /// The pod's own directory: beside volumes it holds the hosts file and termination messages.
    pub fn directory(&self) -> &Path {
        &self.pod
    }

    fn path(&self, volume: &Volume) -> PathBuf {
        self.pod.join("volumes").join(&volume.name)
    }

    /// Mounts every volume of the pod, or brings those that are mounted up to date.
    pub fn mount(&self, pod: &Pod, sources: &Sources, facts: &RuntimeFacts, now: Timestamp) -> Result<(), SetUpError> {
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            self.mount_one(pod, volume, sources, facts, now)
                .map_err(|source| SetUpError { volume: volume.name.clone(), source })?;
        }
        Ok(())
    }

    fn mount_one(
        &self,
        pod: &Pod,
        volume: &Volume,
        sources: &Sources,
        facts: &RuntimeFacts,
        now: Timestamp,
    ) -> Result<(), VolumeError> {
        let group = fs_group(pod);
        if let Some(files) = payload(pod, volume, sources, facts)? {
            let path = self.path(volume);
            make_directory(&path)?;
            if is_secret(volume) && !mounts::is_mount_point(&path) {
                mounts::tmpfs(&path, 0, 0o755)?;
            }
            atomic::write(&path, &files, group, now)?;
            if let Some(group) = group.filter(|g| !ownership::belongs_to(&path, *g)) {
                ownership::give_to_group(&path, group, true)?;
            }
            return Ok(());
        }
        if let Some(source) = &volume.host_path {
            return hostpath::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default());
        }
        if let Some(source) = &volume.empty_dir {
            let path = self.path(volume);
            make_directory(&path)?;
            if source.medium.as_deref() == Some("Memory") && !mounts::is_mount_point(&path) {
                let limit = source.size_limit.as_ref().map_or(0, whole);
                let of_pod = pod.spec.as_ref().map_or(0, |s| pod_limits(s).memory_limit);
                let bytes = [limit, of_pod].into_iter().filter(|b| *b > 0).min().unwrap_or(0);
                mounts::tmpfs(&path, bytes, 0o1777)?;
            }
            set_mode(&path, 0o777)?;
            if let Some(group) = group.filter(|g| !ownership::belongs_to(&path, *g)) {
                ownership::give_to_group(&path, group, false)?;
            }
            return Ok(());
        }
        if claim_name(pod, volume).is_some() {
            let path = self.persistent(pod, volume, sources)?;
            if let Some(group) = group.filter(|g| !ownership::belongs_to(&path, *g)) {
                ownership::give_to_group(&path, group, false)?;
            }
            return Ok(());
        }
        Err(VolumeError::Unsupported)
    }

    /// The node's path of a claim's volume.
    fn persistent(&self, pod: &Pod, volume: &Volume, sources: &Sources) -> Result<PathBuf, VolumeError> {
        let name = claim_name(pod, volume).unwrap_or_default();
        let spec = sources.claims.get(&name).ok_or(VolumeError::ClaimUnbound { name })?;
        if let Some(source) = &spec.host_path {
            let path = PathBuf::from(&source.path);
            hostpath::check(&path, source.type_.as_deref().unwrap_or_default())?;
            return Ok(path);
        }
        if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            hostpath::check(&path, "Directory")?;
            return Ok(path);
        }
        Err(VolumeError::Unsupported)
    }

    /// What to show in a container. Volumes must be mounted. `attempt` keeps the pinned sub-paths of instances apart.
    pub fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        environment: &[(String, String)],
        sources: &Sources,
    ) -> Result<Vec<Mount>, VolumeError> {
        let mut found = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let volume = volumes
                .find(|v| v.name == mount.name)
                .ok_or_else(|| VolumeError::NoVolume { name: mount.name.clone() })?;
            let (root, volume_read_only) = self.host_side(pod, volume, sources)?;
            let sub = sub_path(mount.sub_path.as_deref(), mount.sub_path_expr.as_deref(), environment)?;
            let host_path = match sub {
                None => root,
                Some(sub) => {
                    let target = self
                        .pod
                        .join("volume-subpaths")
                        .join(&volume.name)
                        .join(&container.name)
                        .join(index.to_string());
                    subpath::pin(&root, &sub, &target, 0o750)?;
                    if let Some(group) = fs_group(pod).filter(|_| volume.empty_dir.is_some()) {
                        ownership::give_to_group(&target, group, false)?;
                    }
                    target
                }
            };
            found.push(Mount {
                host_path,
                container_path: mount.mount_path.clone(),
                read_only: mount.read_only == Some(true) || volume_read_only,
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::Private,
                },
            });
        }
        Ok(found)
    }

    fn host_side(&self, pod: &Pod, volume: &Volume, sources: &Sources) -> Result<(PathBuf, bool), VolumeError> {
        if let Some(source) = &volume.host_path {
            return Ok((PathBuf::from(&source.path), false));
        }
        if claim_name(pod, volume).is_some() {
            let read_only = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only) == Some(true);
            return Ok((self.persistent(pod, volume, sources)?, read_only));
        }
        // Content of API objects is the agent's to change, never the container's.
        let read_only = volume.empty_dir.is_none();
        Ok((self.path(volume), read_only))
    }

    /// Takes the volumes away, with what is in them, and the pod's directory. Repeating it is harmless. Paths of the node and
    /// persistent volumes stay: they were only ever bound, and the binds go first.
    pub fn remove(&self) -> Result<(), VolumeError> {
        mounts::unmount_all(&self.pod)?;
        match fs::remove_dir_all(&self.pod) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(VolumeError::host("remove", &self.pod)(error)),
        }
    }

    /// Disk use in bytes of each emptyDir that has a limit, with the limit.
    pub fn over_limit(&self, pod: &Pod) -> Option<(String, String)> {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        for volume in volumes {
            let Some(source) = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref() != Some("Memory")) else {
                continue;
            };
            let Some(limit) = source.size_limit.as_ref().filter(|l| whole(l) > 0) else { continue };
            if used(&self.path(volume)) > whole(limit) {
                return Some((volume.name.clone(), limit.0.clone()));
            }
        }
        None
    }
}

fn used(path: &Path) -> i64 {
    let mut total = 0;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        total += if meta.is_dir() { used(&entry.path()) } else { i64::try_from(meta.len()).unwrap_or(i64::MAX) };
    }
    total
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// What must never touch a disk.
fn is_secret(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some()
}

fn sub_path(
    path: Option<&str>,
    expression: Option<&str>,
    environment: &[(String, String)],
) -> Result<Option<String>, VolumeError> {
    if let Some(expression) = expression.filter(|e| !e.is_empty()) {
        let missing = std::cell::Cell::new(false);
        let expanded = expand(expression, |name| {
            let value = environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            missing.set(missing.get() || value.is_none());
            value
        });
        if missing.get() {
            return Err(VolumeError::SubPathVariable { expression: expression.into() });
        }
        return Ok(Some(expanded));
    }
    Ok(path.filter(|p| !p.is_empty()).map(Into::into))
}

fn make_directory(path: &Path) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(VolumeError::host("create", path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let old = fs::metadata(path).map(|m| m.permissions().mode() & 0o777);
    if old.is_ok_and(|old| old == mode) {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(VolumeError::host("set the mode of", path))
}

#[cfg(test)]
mod tests {
    //! These mount: they run as root, as the agent does.
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn secrets_are_in_memory_and_go_with_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = PodVolumes::new(dir.path(), "u");
        let p = pod(json!({"containers": [{"name": "c", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "login"}}]}));
        let mut sources = Sources::default();
        let facts = RuntimeFacts::default();
        let missing = volumes.mount(&p, &sources, &facts, now()).unwrap_err().to_string();
        assert_eq!(missing, "MountVolume.SetUp failed for volume \"s\" : secret \"login\" not found");
        let secret = Secret { data: Some([("k".into(), ByteString(b"v".to_vec()))].into()), ..Default::default() };
        sources.secrets.insert("login".into(), secret);
        volumes.mount(&p, &sources, &facts, now()).unwrap();
        let container = &p.spec.as_ref().unwrap().containers[0];
        let shown = volumes.container_mounts(&p, container, &[], &sources).unwrap();
        assert_eq!(fs::read(shown[0].host_path.join("k")).unwrap(), b"v");
        assert!(shown[0].read_only && mounts::is_mount_point(&shown[0].host_path));
        volumes.remove().unwrap();
        assert!(!volumes.directory().exists() && mounts::below(dir.path()).is_empty());
    }

    #[test]
    fn an_empty_dir_in_memory_has_its_size_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = PodVolumes::new(dir.path(), "u");
        let p = pod(json!({"securityContext": {"fsGroup": 4242}, "containers": [],
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}}]}));
        volumes.mount(&p, &Sources::default(), &RuntimeFacts::default(), now()).unwrap();
        let path = volumes.directory().join("volumes/m");
        assert!(ownership::belongs_to(&path, 4242));
        assert!(fs::write(path.join("big"), vec![0; 1 << 20]).is_err(), "larger than the limit");
        volumes.remove().unwrap();
    }

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = PodVolumes::new(dir.path(), "u");
        let p = pod(json!({"containers": [
                {"name": "good", "volumeMounts": [{"name": "e", "mountPath": "/e", "subPathExpr": "a/$(POD)"}]},
                {"name": "bad", "volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "link/etc"}]}],
            "volumes": [{"name": "e", "emptyDir": {}}]}));
        let sources = Sources::default();
        volumes.mount(&p, &sources, &RuntimeFacts::default(), now()).unwrap();
        let root = volumes.directory().join("volumes/e");
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        let containers = &p.spec.as_ref().unwrap().containers;
        let environment = [("POD".to_owned(), "web".to_owned())];
        let shown = volumes.container_mounts(&p, &containers[0], &environment, &sources).unwrap();
        fs::write(shown[0].host_path.join("f"), "x").unwrap();
        assert_eq!(fs::read_to_string(root.join("a/web/f")).unwrap(), "x");
        let again = volumes.container_mounts(&p, &containers[0], &environment, &sources).unwrap();
        assert_eq!(again, shown);
        let error = volumes.container_mounts(&p, &containers[1], &[], &sources).unwrap_err();
        assert!(matches!(error, VolumeError::SubPathEscapes { .. }), "{error}");
        volumes.remove().unwrap();
        assert!(mounts::below(dir.path()).is_empty());
    }

    #[test]
    fn a_claim_shows_the_volume_that_it_is_bound_to() {
        let dir = tempfile::tempdir().unwrap();
        let disk = tempfile::tempdir().unwrap();
        let volumes = PodVolumes::new(dir.path(), "u");
        let p = pod(json!({"containers": [{"name": "c", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}));
        let mut sources = Sources::default();
        assert!(volumes.mount(&p, &sources, &RuntimeFacts::default(), now()).is_err());
        sources.claims.insert("data".into(), serde_json::from_value(json!({"local": {"path": disk.path()}})).unwrap());
        volumes.mount(&p, &sources, &RuntimeFacts::default(), now()).unwrap();
        let container = &p.spec.as_ref().unwrap().containers[0];
        let shown = volumes.container_mounts(&p, container, &[], &sources).unwrap();
        assert_eq!(shown[0].host_path, disk.path());
        volumes.remove().unwrap();
        assert!(disk.path().exists());
    }
}
