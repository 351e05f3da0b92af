//! A private containerd: its own root, state, socket and cgroups in a temporary directory, with runc and one tiny image made from
//! the machine's static busybox. Tests that use it see what a node sees, and leave nothing behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The image that tests run.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// The image that sandboxes run.
pub const PAUSE: &str = "localhost/pause:1";

/// A running containerd. Dropping it kills everything that it started.
#[derive(Debug)]
pub struct PrivateContainerd {
    daemon: Child,
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl PrivateContainerd {
    /// Starts one and imports the images. Pods that are not in the node's network get an address in `10.<n>.0.0/24`, by the
    /// `ptp` plugin.
    pub fn start(n: u8) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("galley-cri-").tempdir()?;
        let path = directory.path().to_owned();
        let cni = path.join("cni");
        fs::create_dir_all(&cni)?;
        fs::write(cni.join("10-test.conflist"), cni_config(n, &path))?;
        fs::write(path.join("containerd.toml"), config(&path))?;
        let log = fs::File::create(path.join("containerd.log"))?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(path.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let running = Self { daemon, directory: Some(directory), path };
        running.wait_until_up()?;
        // Nobody pulls here, and nobody is asked to: the images come from a file.
        let archive = running.path.join("images.tar");
        fs::write(&archive, images(&fs::read("/bin/busybox")?))?;
        let import = Command::new("ctr")
            .args(["--address", &running.socket().display().to_string(), "--namespace", "k8s.io", "images", "import"])
            .arg(&archive)
            .output()?;
        if !import.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&import.stderr).into_owned()));
        }
        Ok(running)
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("containerd.sock")
    }

    /// A directory of this containerd's own, removed with it.
    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// A cgroup root of this containerd's own.
    pub fn cgroup_root(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn wait_until_up(&self) -> io::Result<()> {
        for _ in 0..300 {
            let version = Command::new("ctr")
                .args(["--address", &self.socket().display().to_string(), "version"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if version.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(io::Error::other(fs::read_to_string(self.path.join("containerd.log")).unwrap_or_default()))
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let own = self.path.display().to_string();
        // Shims carry the socket's path; containers are in cgroups below the root of our name.
        for _ in 0..50 {
            let pids = own_processes(&own, &self.cgroup_root());
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for point in mounts_below(&own) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        remove_cgroups(&self.cgroup_root());
        drop(self.directory.take());
    }
}

fn own_processes(path: &str, cgroup: &str) -> Vec<rustix::process::Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let is_shim =
            String::from_utf8_lossy(&read("cmdline")).split('\0').next().is_some_and(|c| c.contains("containerd-shim"))
                && String::from_utf8_lossy(&read("cmdline")).contains(path);
        let in_cgroup = String::from_utf8_lossy(&read("cgroup")).contains(&format!("/{cgroup}/"));
        if is_shim || in_cgroup {
            found.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    found
}

fn mounts_below(path: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|l| l.split(' ').nth(4));
    let mut found: Vec<String> = points.filter(|p| p.starts_with(path)).map(Into::into).collect();
    found.reverse();
    found
}

fn remove_cgroups(name: &str) {
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    for base in std::iter::once(PathBuf::from("/sys/fs/cgroup")).chain(controllers) {
        remove_cgroup(&base.join(name));
    }
}

fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn config(path: &Path) -> String {
    let path = path.display();
    // restrict_oom_score_adj: a containerd that is itself in a container may not lower scores.
    format!(
        r#"version = 2
root = "{path}/root"
state = "{path}/state"
[grpc]
  address = "{path}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{path}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
  path = "{path}/opt"
"#
    )
}

fn cni_config(n: u8, path: &Path) -> String {
    let data = path.join("cni-state");
    serde_json::json!({"cniVersion": "0.4.0", "name": "test", "plugins": [
        {"type": "ptp", "ipMasq": false,
         "ipam": {"type": "host-local", "subnet": format!("10.{n}.0.0/24"), "dataDir": data}}]})
    .to_string()
}

/// An archive of two OCI images: busybox, and the same as `pause`.
fn images(busybox: &[u8]) -> Vec<u8> {
    let mut layer = Tar::default();
    layer.directory("tmp", 0o1777);
    layer.directory("etc", 0o755);
    layer.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n", 0o644);
    layer.file("etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644);
    layer.file("bin/busybox", busybox, 0o755);
    let applets = [
        "sh", "sleep", "echo", "cat", "ls", "wget", "httpd", "nc", "id", "env", "true", "false", "stat", "mount",
        "hostname", "dd", "touch", "test", "kill", "ps", "tail", "head", "grep", "readlink", "date", "printf", "tar",
    ];
    for applet in applets {
        layer.link(&format!("bin/{applet}"), "/bin/busybox");
    }
    let layer = layer.finish();
    let mut blobs = Tar::default();
    blobs.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    let mut add = |bytes: &[u8], media: &str| {
        let digest = sha256(bytes);
        blobs.file(&format!("blobs/sha256/{digest}"), bytes, 0o644);
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{media}"),
            "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let layer_descriptor = add(&layer, "layer.v1.tar");
    let mut manifests = Vec::new();
    for (name, command) in [(BUSYBOX, vec!["/bin/sh"]), (PAUSE, vec!["/bin/sleep", "2147483647"])] {
        let config = serde_json::json!({"architecture": "amd64", "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]}});
        let config = add(config.to_string().as_bytes(), "config.v1+json");
        let manifest = serde_json::json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer_descriptor]});
        let mut manifest = add(manifest.to_string().as_bytes(), "manifest.v1+json");
        manifest["annotations"] = serde_json::json!({"io.containerd.image.name": name});
        manifests.push(manifest);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    blobs.file("index.json", index.to_string().as_bytes(), 0o644);
    blobs.finish()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A writer of ustar archives, as far as images need it.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    fn entry(&mut self, name: &str, kind: u8, mode: u32, link: &str, content: &[u8]) {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(157, link);
        put(257, "ustar");
        put(263, "00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        self.entry(name, b'0', mode, "", content);
    }

    fn directory(&mut self, name: &str, mode: u32) {
        self.entry(&format!("{name}/"), b'5', mode, "", &[]);
    }

    fn link(&mut self, name: &str, target: &str) {
        self.entry(name, b'2', 0o777, target, &[]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}
