//! A whole installation for one test: PostgreSQL, server, local cloud, nodes; gone when the test ends.

mod machine;

pub use machine::Machine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use galley_cloud_local::{LocalCloud, LocalNode, oci};
use galley_harness::{Installation, Kubectl, Options};
use serde_json::Value;

/// The image of the tests' containers: busybox.
pub const BUSYBOX: &str = "galley.dev/busybox:1";
/// An image that does not say what to run.
pub const EMPTY: &str = "galley.dev/empty:1";
/// The image with a program that uses the Kubernetes API through an unmodified client library.
pub const CLIENT: &str = "galley.dev/in-cluster-client:1";

/// An installation that ends with its test.
pub struct World {
    /// The processes.
    pub galley: Installation,
    /// kubectl on the first cluster.
    pub kubectl: Kubectl,
    /// The nodes.
    pub nodes: Vec<LocalNode>,
    /// Files of this test. A fixed place, so that a run finds what an earlier one left when it was killed.
    pub directory: PathBuf,
}

/// Where cargo puts the product's binaries: beside this test's `deps` directory.
pub fn binaries() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let deps = test.parent().context("the test's directory")?;
    Ok(deps.parent().context("the target directory")?.to_owned())
}

impl World {
    /// An installation with a first cluster. `prefix` and `network` keep its names and addresses apart from others'.
    pub fn start(prefix: &str, network: u8, server_arguments: &[&str]) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("galley-test-{prefix}"));
        let root = directory.clone();
        let galley = Installation::new(Options {
            cloud: LocalCloud::of_prefix(prefix, network, root.join("cloud")),
            binaries: binaries()?,
            port: 16000 + u16::from(network),
            database_url: None,
            mirrors: Vec::new(),
            server_arguments: server_arguments.iter().map(|a| (*a).to_owned()).collect(),
            root,
        });
        // What an earlier run left when it was killed.
        galley.stop(true)?;
        std::fs::create_dir_all(&directory)?;
        let started = Started { galley: &galley, keep: false };
        galley.database_start()?;
        galley.server_start()?;
        let kubectl = galley.cluster("test")?;
        started.keep();
        Ok(Self { galley, kubectl, nodes: Vec::new(), directory })
    }

    /// Starts nodes `node-1`, ... with the tests' images, and waits until they are ready.
    pub fn start_nodes(&mut self, count: usize) -> Result<()> {
        let images = self.image_archives()?;
        for number in 1..=count {
            let node = self.galley.node_start("test", &format!("node-{number}"), &[], &images)?;
            self.nodes.push(node);
        }
        self.wait_nodes_ready(count)
    }

    /// Waits until so many nodes are ready.
    pub fn wait_nodes_ready(&self, count: usize) -> Result<()> {
        self.kubectl
            .wait_for(&["nodes"], Duration::from_secs(90), "the nodes to be ready", |nodes| {
                items(nodes).iter().filter(|node| condition(node, "Ready") == "True").count() >= count
            })
            .map(drop)
            .with_context(|| self.logs())
    }

    /// The tests' images as archives.
    pub fn image_archives(&self) -> Result<Vec<PathBuf>> {
        let busybox = oci::busybox_image(BUSYBOX, Path::new("/bin/busybox"))?;
        let client = client_image()?;
        let mut paths = Vec::new();
        let empty = oci::image(EMPTY, &[oci::Layer::new().file("nothing", 0o644, b"")], &oci::Config::default());
        for (name, archive) in [("busybox.tar", busybox), ("client.tar", client), ("empty.tar", empty)] {
            let path = self.directory.join(name);
            std::fs::write(&path, archive)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut text = format!("server:\n{}\n", self.galley.server().tail());
        for node in &self.nodes {
            let log = std::fs::read_to_string(node.agent_log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(25)..].join("\n");
            text.push_str(&format!("agent of {}:\n{end}\n", node.name()));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::env::var_os("GALLEY_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.directory.display());
            return;
        }
        if let Err(error) = self.galley.stop(true) {
            eprintln!("the installation did not stop cleanly: {error:#}");
        }
    }
}

/// Stops a half-started installation.
struct Started<'a> {
    galley: &'a Installation,
    keep: bool,
}

impl Started<'_> {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if !self.keep {
            eprintln!("{}", self.galley.server().tail());
            let _ = self.galley.stop(true);
        }
    }
}

/// `in-cluster-client` with the libraries that it needs from this machine.
fn client_image() -> Result<Vec<u8>> {
    let program = binaries()?.join("in-cluster-client");
    let listed = std::process::Command::new("ldd").arg(&program).output().context("ldd")?;
    let mut layer = oci::Layer::new().file("in-cluster-client", 0o755, std::fs::read(&program)?);
    for library in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        layer = layer.file(library.trim_start_matches('/'), 0o755, std::fs::read(library)?);
    }
    let config = oci::Config { entrypoint: vec!["/in-cluster-client".into()], ..oci::Config::default() };
    Ok(oci::image(CLIENT, &[layer], &config))
}

/// `items` of a list.
pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// The status of a condition: `True`, `False`, `Unknown`, or nothing.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// Names of a list's objects.
pub fn names(list: &Value) -> Vec<String> {
    items(list).iter().map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}
