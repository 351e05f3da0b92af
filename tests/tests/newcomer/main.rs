//! What a newcomer does, on a whole installation: PostgreSQL, server, two nodes with containers, unmodified kubectl.
//!
//! One installation serves all sections, which run in order, each in a namespace of its own. A section that fails does not
//! keep the next ones from running; the test fails with all that failed.

mod bad_input;
mod in_cluster;
mod join;
mod kubectl;
mod live;
mod management;
mod nodes;
mod services;
mod streams;
mod workloads;

use std::time::Instant;

use anyhow::Result;
use galley_tests::World;

type Section = (&'static str, fn(&mut World) -> Result<()>);

/// Without a node: what the control plane alone answers for.
const CONTROL_PLANE: &[Section] = &[
    ("management: clusters come and go over REST", management::clusters),
    ("management: strangers are told nothing", management::strangers),
    ("kubectl: the verbs on objects", kubectl::objects),
    ("kubectl: apply on either side, and who owns what", kubectl::apply),
    ("kubectl: explain, api-resources, auth, tokens, top", kubectl::discovery),
    ("bad input: what kubectl shows", bad_input::manifests),
];

/// On two nodes with containers.
const NODES: &[Section] = &[
    ("workloads: a pod with everything", workloads::everything),
    ("workloads: a deployment rolls, heals and goes back", workloads::deployment),
    ("workloads: jobs, daemons and stateful sets", workloads::others),
    ("streams: logs, exec, attach, cp, port-forward", streams::all),
    ("services: cluster IP by name, headless, node port, load balancer", services::reachable),
    ("services: a rolling update loses no request", services::rolling_update),
    ("in the cluster: an unmodified client library", in_cluster::client_library),
    ("bad input: containers that cannot run", bad_input::containers),
    ("nodes: a log is rotated while it is followed", live::log_rotation),
    ("nodes: gRPC probes", live::grpc_probes),
    ("nodes: a certificate is renewed under running pods", live::renewal),
    ("nodes: a server of one's own joins over a network", join::own_server),
    ("nodes: cordon, drain, restart of the agent", nodes::maintenance),
    ("nodes: a node that dies", nodes::death),
];

#[test]
fn a_newcomer_creates_clusters_and_uses_them_with_kubectl() {
    let mut world = World::start("e2e", 90, &[]).expect("an installation starts");
    run(&mut world, CONTROL_PLANE);
}

#[test]
fn a_newcomer_runs_real_containers_on_two_nodes() {
    // Short enough to wait for in a test; the defaults are 40 s and a week.
    let short = ["--node-monitor-grace-period", "12s", "--node-certificate-duration", "1m"];
    let mut world = World::start("e2n", 91, &short).expect("an installation starts");
    world.start_nodes(2).expect("two nodes join");
    world.galley.cloud_controller_start().expect("the cloud controller starts");
    run(&mut world, NODES);
}

/// Runs the sections, or those whose names contain `GALLEY_TEST_SECTION`.
fn run(world: &mut World, sections: &[Section]) {
    let only = std::env::var("GALLEY_TEST_SECTION").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, section) in sections.iter().filter(|(name, _)| name.contains(&only)) {
        let start = Instant::now();
        let outcome = section(world);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("ok      {seconds:>6.1} s  {name}"),
            Err(error) => {
                println!("FAILED  {seconds:>6.1} s  {name}\n{error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        println!("{}", world.logs());
    }
    assert!(failed.is_empty(), "failed sections: {failed:#?}");
}

/// A namespace for a section, deleted in the background when the section is over.
struct Namespace<'a> {
    world: &'a World,
    name: &'static str,
}

impl<'a> Namespace<'a> {
    fn new(world: &'a World, name: &'static str) -> Result<Self> {
        world.kubectl.run(&["create", "namespace", name])?;
        Ok(Self { world, name })
    }

    /// `kubectl --namespace ...`.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        self.world.kubectl.run(&[&["--namespace", self.name], arguments].concat())
    }

    fn fails(&self, arguments: &[&str]) -> Result<String> {
        self.world.kubectl.run_failing(&[&["--namespace", self.name], arguments].concat())
    }

    fn input(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.world.kubectl.run_with_input(&[&["--namespace", self.name], arguments].concat(), input)
    }

    fn apply(&self, manifest: &str) -> Result<String> {
        self.input(&["apply", "-f", "-"], manifest)
    }

    fn get(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.run(&[&["get"], arguments, &["-o", "json"]].concat())?)?)
    }

    /// Asks until the objects are so.
    fn until(
        &self,
        arguments: &[&str],
        seconds: u64,
        what: &str,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let all = [&["--namespace", self.name], arguments].concat();
        let limit = std::time::Duration::from_secs(seconds);
        self.world.kubectl.wait_for(&all, limit, what, condition)
    }

    /// `kubectl rollout status` with a time limit.
    fn rolled_out(&self, workload: &str) -> Result<()> {
        let status = self.run(&["rollout", "status", workload, "--timeout=90s"]);
        status.map(drop).map_err(|error| {
            let pods = self.run(&["describe", "pods"]).unwrap_or_default();
            error.context(format!("{workload} did not roll out; its pods:\n{pods}"))
        })
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self.world.kubectl.run(&["delete", "namespace", self.name, "--wait=false"]);
    }
}

/// Fails unless `text` contains `wanted`.
fn contains(text: &str, wanted: &str) -> Result<()> {
    anyhow::ensure!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    Ok(())
}
