//! `up` and `down`: the whole of Galley on this machine.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use galley_cloud_local::{LocalCloud, oci};
use galley_harness::installation::CLUSTER;
use galley_harness::postgres::is_root;
use galley_harness::{Installation, Options};

use crate::{UpArguments, packages};

fn data_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    let dir = given.map_or_else(|| Ok(crate::root()?.join(".galley")), Ok::<_, anyhow::Error>)?;
    std::path::absolute(dir).context("the data directory")
}

fn installation(root: PathBuf, arguments: Option<&UpArguments>) -> Result<Installation> {
    let profile = if arguments.is_some_and(|a| a.release) { "release" } else { "debug" };
    let binaries = match arguments.and_then(|a| a.binaries.clone()) {
        Some(given) => std::path::absolute(given)?,
        None => crate::target_directory()?.join(profile),
    };
    Ok(Installation::new(Options {
        cloud: LocalCloud::new(root.join("cloud")),
        binaries,
        port: arguments.map_or(6443, |a| a.port),
        database_url: std::env::var("DATABASE_URL").ok(),
        mirrors: arguments.map_or_else(Vec::new, |a| a.registry_mirrors.clone()),
        server_arguments: Vec::new(),
        root,
    }))
}

/// Prints a step and how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{what:<44}");
    std::io::stdout().flush()?;
    let start = Instant::now();
    let done = work();
    match &done {
        Ok(_) => println!(" {:>5.1} s", start.elapsed().as_secs_f64()),
        Err(_) => println!(" failed"),
    }
    done
}

/// Starts everything, or what is missing of it.
pub fn up(arguments: &UpArguments) -> Result<()> {
    let root = data_dir(arguments.data_dir.clone())?;
    let galley = installation(root.clone(), Some(arguments))?;
    if !is_root() {
        println!(
            "not root: without containers, node network and load balancers; the control plane is whole, and its nodes are \
             simulated"
        );
    }
    if arguments.binaries.is_none() {
        packages::ensure(packages::For::Running)?;
        step("building", || build(arguments.release))?;
    } else {
        packages::ensure(packages::For::Binaries)?;
    }
    std::fs::create_dir_all(&root)?;
    step("database", || galley.database_start())?;
    step("server", || galley.server_start())?;
    let kubectl = step("tenant and cluster", || galley.cluster(CLUSTER))?;
    if is_root() {
        step("cloud controller (local cloud)", || galley.cloud_controller_start())?;
        let busybox = root.join("busybox.tar");
        let archive = oci::busybox_image("galley.dev/busybox:1", "/bin/busybox".as_ref())?;
        std::fs::write(&busybox, archive)?;
        for number in 1..=arguments.nodes {
            let name = format!("node-{number}");
            step(&format!("node {name}"), || {
                galley.node_start(CLUSTER, &name, &[], std::slice::from_ref(&busybox)).map(drop)
            })?;
        }
    } else {
        step("simulated nodes", || galley.simulated_start(CLUSTER, arguments.nodes, "node").map(drop))?;
    }
    let wanted = arguments.nodes as usize;
    step("nodes ready", || {
        kubectl
            .wait_for(&["nodes"], Duration::from_secs(90), "the nodes to be ready", |nodes| {
                let ready = |node: &serde_json::Value| {
                    node["status"]["conditions"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
                };
                nodes["items"].as_array().is_some_and(|items| items.iter().filter(|n| ready(n)).count() >= wanted)
            })
            .map(drop)
    })?;
    next_steps(&galley);
    Ok(())
}

fn build(release: bool) -> Result<()> {
    let mut build = crate::cargo()?;
    // As `test` builds: cargo chooses dependencies' features for all that it builds at once, and another choice would compile
    // them again.
    build.args(["build", "--quiet", "--workspace", "--bins"]);
    if release {
        build.arg("--release");
    }
    crate::run(&mut build)
}

/// What to type now.
fn next_steps(galley: &Installation) {
    println!(
        "\nGalley runs at {url}. Next:\n\n  \
         export KUBECONFIG={kubeconfig}\n  \
         kubectl get nodes -o wide\n  \
         kubectl create deployment web --image=galley.dev/busybox:1 --replicas=2 -- sleep infinity\n  \
         kubectl get pods -o wide --watch\n\n\
         Another cluster:\n\n  \
         export GALLEY_SERVER={url} GALLEY_CA={ca} GALLEY_TOKEN=$(cat {root}/server/dev.token)\n  \
         {cli} cluster create second\n",
        url = galley.url(),
        kubeconfig = galley.kubeconfig(CLUSTER).display(),
        ca = galley.ca().display(),
        root = galley.options().root.display(),
        cli = cli(galley),
    );
    // Only root can make the bridge; without it the server is on loopback, where no other machine reaches it.
    if is_root() {
        println!(
            "A machine of your own joins with the command that this prints:\n\n  {} node join-command {CLUSTER}\n",
            cli(galley)
        );
    }
    println!("Stop: cargo xtask down (with --purge to delete the data).");
}

fn cli(galley: &Installation) -> String {
    galley.options().binaries.join("galley").display().to_string()
}

/// Stops everything.
pub fn down(data: Option<PathBuf>, purge: bool) -> Result<()> {
    let root = data_dir(data)?;
    let galley = installation(root.clone(), None)?;
    let own_database = root.join("postgres").exists() || !root.exists();
    step("stopping", || galley.stop(purge))?;
    if !purge {
        println!("data is kept in {}", root.display());
    } else if !own_database {
        println!(
            "the database of DATABASE_URL is not ours to delete; the keys to it are gone, so drop it and make an empty one \
             before the next `up`"
        );
    }
    Ok(())
}
