//! Container images from files, without a registry and without a builder.
//!
//! The archive is an OCI image layout (OCI image specification 1.1) in a tar file, which `ctr images import` and every other tool
//! takes. Equal input gives equal bytes: no times, no users.

mod tar;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The pause image: what holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "galley.dev/pause:1";

static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Files of one layer.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    archive: tar::Archive,
}

impl Layer {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; the path is relative to the root of the container.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.archive.file(path, mode, content.as_ref());
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.archive.directory(path, mode);
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.archive.symlink(path, target);
        self
    }
}

/// How containers of an image run, unless the pod says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `uid`, `uid:gid` or names.
    pub user: String,
    pub labels: BTreeMap<String, String>,
}

/// An image of these layers, called `reference` (with host and tag), as a tar archive.
pub fn image(reference: &str, layers: &[Layer], config: &Config) -> Vec<u8> {
    let mut archive = tar::Archive::default();
    archive.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes());
    archive.directory("blobs", 0o755);
    archive.directory("blobs/sha256", 0o755);
    let mut blob = |media_type: &str, content: &[u8]| {
        let digest = hex(&Sha256::digest(content));
        archive.file(&format!("blobs/sha256/{digest}"), 0o644, content);
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| blob("application/vnd.oci.image.layer.v1.tar", &layer.archive.clone().finish()))
        .collect();
    // Layers are not compressed, so that a layer's digest is also the one of its content.
    let content: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "WorkingDir": config.working_dir,
            "User": config.user,
            "Labels": config.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": content },
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers });
    let mut manifest = blob(manifest_type, manifest.to_string().as_bytes());
    let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] =
        json!({ "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    archive.file("index.json", 0o644, index.to_string().as_bytes());
    archive.finish()
}

/// The pause image.
pub fn pause_image() -> Vec<u8> {
    let layer = Layer::new().file("pause", 0o755, PAUSE);
    let config = Config { entrypoint: vec!["/pause".into()], user: "65535:65535".into(), ..Config::default() };
    image(PAUSE_IMAGE, &[layer], &config)
}

/// A busybox could not be made into a layer.
#[derive(Debug, thiserror::Error)]
#[error("{path} is no static busybox that can be read and run")]
pub struct BusyboxError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// A small user land for tests: this machine's static busybox under all its names, `/tmp`, and the users root and nobody.
pub fn busybox_layer(busybox: &Path) -> Result<Layer, BusyboxError> {
    let error = |source| BusyboxError { path: busybox.display().to_string(), source };
    let content = std::fs::read(busybox).map_err(error)?;
    let output = Command::new(busybox).arg("--list").output().map_err(error)?;
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("tmp", 0o1777)
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        .file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
        .file("bin/busybox", 0o755, content);
    for name in String::from_utf8_lossy(&output.stdout).lines().filter(|name| *name != "busybox") {
        layer = layer.symlink(&format!("bin/{name}"), "busybox");
    }
    Ok(layer)
}

/// An image of [`busybox_layer`] that starts a shell.
pub fn busybox_image(reference: &str, busybox: &Path) -> Result<Vec<u8>, BusyboxError> {
    let config = Config { cmd: vec!["/bin/sh".into()], env: vec!["PATH=/bin".into()], ..Config::default() };
    Ok(image(reference, &[busybox_layer(busybox)?], &config))
}

/// This machine's, in the words of Go, which the specification uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_every_time_and_tar_reads_it() {
        let layer = Layer::new().file("bin/hello", 0o755, "hello").symlink("bin/hi", "hello");
        let archive = image("example.org/hello:1", std::slice::from_ref(&layer), &Config::default());
        assert_eq!(archive, image("example.org/hello:1", &[layer], &Config::default()));

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image.tar");
        std::fs::write(&file, &archive).unwrap();
        let extracted = Command::new("tar").arg("-C").arg(directory.path()).arg("-xf").arg(&file).status().unwrap();
        assert!(extracted.success());
        let read = |path: &str| -> Value {
            serde_json::from_slice(&std::fs::read(directory.path().join(path)).unwrap()).unwrap()
        };
        let index = read("index.json");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.org/hello:1");
        let path = |value: &Value| format!("blobs/{}", value["digest"].as_str().unwrap().replace(':', "/"));
        let manifest = read(&path(&index["manifests"][0]));
        let layer = directory.path().join(path(&manifest["layers"][0]));
        let listing = Command::new("tar").arg("-tf").arg(layer).output().unwrap();
        assert_eq!(String::from_utf8(listing.stdout).unwrap(), "bin/hello\nbin/hi\n");
    }

    #[test]
    fn the_pause_program_runs_without_any_library_and_ends_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pause");
        let layer = Layer::new().file("pause", 0o755, PAUSE);
        std::fs::write(directory.path().join("layer.tar"), layer.archive.finish()).unwrap();
        let tar =
            |arguments: &[&str]| Command::new("tar").current_dir(directory.path()).args(arguments).status().unwrap();
        assert!(tar(&["-xf", "layer.tar"]).success());
        // An interpreter would be a dynamic loader.
        assert!(!PAUSE.windows(7).any(|window| window == b"/ld-lin"));
        let mut child = Command::new(&file).spawn().unwrap();
        let terminate = || {
            let id = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        };
        terminate();
        // With a handler it ends with success; killed before it could set one, by the signal.
        let status = child.wait().unwrap();
        assert!(status.success() || status.code().is_none());
    }
}
