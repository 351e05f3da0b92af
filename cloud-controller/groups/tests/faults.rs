//! Each call of a node group's life is failed before it did its work, after it did, without any answer, or the controller dies there;
//! afterwards the world converges, with no machine that nobody knows and none too many. By the real SDK against the emulator, in which
//! a new machine is invisible at first.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use galley_cloud::{Capacity, CloudError, Instance, InstanceOwner, InstanceSpec, Instances};
use galley_cloud_aws::Aws;
use galley_cloud_groups::{Drains, LedgerError, Ledgers, round};
use galley_cloud_plan::node_group::{Group, Ledger, Shortages};
use galley_harness::Emulator;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::json;

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Before,
    After,
    Dropped,
    KilledBefore,
    KilledAfter,
}

/// Those that differ: a read does nothing that could be lost, the ledger has no connection to be cut.
fn faults(step: &str) -> &'static [Fault] {
    match step {
        "DescribeInstances" => &[Fault::Before, Fault::Dropped, Fault::KilledBefore],
        "ledger write" => &[Fault::Before, Fault::After, Fault::KilledBefore, Fault::KilledAfter],
        _ => &[Fault::Before, Fault::After, Fault::Dropped, Fault::KilledBefore, Fault::KilledAfter],
    }
}

/// A fault at the step of this number, counted over all steps of the workflow.
#[derive(Debug, Clone, Copy)]
struct Injection {
    step: usize,
    fault: Fault,
}

/// Names and counts the steps, and breaks one.
#[derive(Default)]
struct Steps {
    seen: Mutex<Vec<String>>,
    injection: Option<Injection>,
    killed: Mutex<bool>,
}

impl Steps {
    /// The fault of this step, if it has one.
    fn step(&self, name: &str) -> Option<Fault> {
        let mut seen = self.seen.lock();
        seen.push(name.to_owned());
        self.injection.filter(|injection| injection.step + 1 == seen.len()).map(|injection| injection.fault)
    }

    fn kill(&self) -> bool {
        *self.killed.lock() = true;
        true
    }

    fn is_dead(&self) -> bool {
        *self.killed.lock()
    }
}

/// A database that survives the controller.
struct Database {
    rows: Mutex<BTreeMap<String, (Ledger, u64)>>,
    steps: Arc<Steps>,
}

fn unreachable() -> LedgerError {
    LedgerError::Unreachable("injected".into())
}

impl Ledgers for Database {
    type Version = u64;

    async fn ledger_read(&self, uid: &str) -> Result<(Ledger, u64), LedgerError> {
        Ok(self.rows.lock().get(uid).cloned().unwrap_or_default())
    }

    async fn ledger_write(&self, uid: &str, ledger: &Ledger, version: u64) -> Result<u64, LedgerError> {
        let fault = self.steps.step("ledger write");
        if self.steps.is_dead() || matches!(fault, Some(Fault::Before)) {
            return Err(unreachable());
        }
        if fault == Some(Fault::KilledBefore) && self.steps.kill() {
            return Err(unreachable());
        }
        let mut rows = self.rows.lock();
        let row = rows.entry(uid.to_owned()).or_default();
        if row.1 != version {
            return Err(LedgerError::Conflict);
        }
        *row = (ledger.clone(), version + 1);
        match fault {
            Some(Fault::KilledAfter) if self.steps.kill() => Err(unreachable()),
            Some(Fault::After | Fault::Dropped) => Err(unreachable()),
            _ => Ok(version + 1),
        }
    }
}

/// AWS, with the fault of the step set in the emulator just before the call.
struct Faulty {
    aws: Aws,
    emulator: Arc<Emulator>,
    steps: Arc<Steps>,
}

impl Faulty {
    async fn call<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let fault = self.steps.step(action);
        let dead = || CloudError::Failed { operation: action, source: "the controller is dead".into() };
        if self.steps.is_dead() || (fault == Some(Fault::KilledBefore) && self.steps.kill()) {
            return Err(dead());
        }
        let order = match fault {
            Some(Fault::Before) => Some(json!({ "action": action, "when": "before", "code": "RequestLimitExceeded" })),
            Some(Fault::After) => {
                Some(json!({ "action": action, "when": "after", "status": 500, "code": "InternalError" }))
            }
            Some(Fault::Dropped) => Some(json!({ "action": action, "when": "after" })),
            Some(Fault::KilledBefore | Fault::KilledAfter) | None => None,
        };
        if let Some(order) = order {
            self.emulator.control("/_fault", Some(&order.to_string())).unwrap();
        }
        let answer = call.await;
        if fault == Some(Fault::KilledAfter) && self.steps.kill() {
            return Err(dead());
        }
        answer
    }
}

impl Instances for Faulty {
    async fn instance_list(&self) -> Result<Vec<Instance>, CloudError> {
        self.call("DescribeInstances", self.aws.instance_list()).await
    }

    async fn instance_launch(&self, spec: &InstanceSpec) -> Result<Instance, CloudError> {
        self.call("RunInstances", self.aws.instance_launch(spec)).await
    }

    async fn instance_terminate(&self, id: &str) -> Result<(), CloudError> {
        self.call("TerminateInstances", self.aws.instance_terminate(id)).await
    }
}

/// Nodes without pods: cordoned is drained.
#[derive(Default)]
struct Nodes {
    drained: Mutex<BTreeSet<String>>,
}

impl Drains for Nodes {
    async fn drained(&self) -> BTreeSet<String> {
        self.drained.lock().clone()
    }

    async fn drain(&self, id: &str) {
        self.drained.lock().insert(id.to_owned());
    }
}

/// Sizes that the group is to have, one after the other; 0 at last, which is its deletion.
const SIZES: [usize; 3] = [2, 1, 0];
/// Every machine that a run should ever start.
const MACHINES: usize = 2;
/// A run that has no fault needs about fifteen rounds.
const ROUNDS: usize = 60;

struct Account {
    emulator: Arc<Emulator>,
    config: SdkConfig,
    ec2: aws_sdk_ec2::Client,
    subnets: Vec<String>,
    image: String,
}

/// What a run came to.
struct Outcome {
    steps: Vec<String>,
    orphans: usize,
    doubles: usize,
}

impl Account {
    async fn new() -> Self {
        let emulator = Emulator::start().unwrap();
        emulator.control("/_lag", Some(r#"{"hidden": 1, "pending": 1}"#)).unwrap();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(emulator.url())
            .credentials_provider(aws_sdk_ec2::config::Credentials::new("test", "test", None, None, "test"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        let ec2 = aws_sdk_ec2::Client::new(&config);
        let subnets = ec2.describe_subnets().send().await.unwrap();
        let images = ec2.describe_images().owners("amazon").send().await.unwrap();
        Self {
            emulator: Arc::new(emulator),
            config,
            ec2,
            subnets: subnets.subnets().iter().take(2).map(|subnet| subnet.subnet_id().unwrap().to_owned()).collect(),
            image: images.images()[0].image_id().unwrap().to_owned(),
        }
    }

    fn group(&self, installation: &str, desired: usize) -> Group {
        Group {
            owner: InstanceOwner { cluster: "c1".into(), group: "workers".into() },
            uid: installation.into(),
            desired,
            instance_types: vec!["t3.small".into()],
            capacity: Capacity::OnDemand,
            subnets: self.subnets.clone(),
            security_groups: Vec::new(),
            image: self.image.clone(),
            instance_profile: None,
            disk_gib: None,
            user_data: String::new(),
        }
    }

    /// The states of all machines that an installation ever started.
    async fn machines(&self, installation: &str) -> Vec<String> {
        let filter = aws_sdk_ec2::types::Filter::builder().name("tag:galley.dev/installation").values(installation);
        // The emulator hides a machine from its first describe.
        self.ec2.describe_instances().filters(filter.clone().build()).send().await.unwrap();
        let answer = self.ec2.describe_instances().filters(filter.build()).send().await.unwrap();
        let all = answer.reservations().iter().flat_map(|reservation| reservation.instances());
        all.map(|instance| instance.state().unwrap().name().unwrap().as_str().to_owned()).collect()
    }

    /// A group's whole life with one fault, as an installation of its own.
    async fn run(&self, installation: &str, injection: Option<Injection>) -> Outcome {
        let steps = Arc::new(Steps { injection, ..Steps::default() });
        let database = Database { rows: Mutex::default(), steps: steps.clone() };
        let aws = Aws::from_config(installation, &self.config).unwrap();
        let cloud = Faulty { aws, emulator: self.emulator.clone(), steps: steps.clone() };
        let nodes = Nodes::default();
        let mut now = Timestamp::UNIX_EPOCH;
        for size in SIZES {
            let group = self.group(installation, size);
            let mut shortages = Shortages::new();
            let mut settled = false;
            for _ in 0..ROUNDS {
                let planned = round(&group, &cloud, &database, &nodes, &mut shortages, now).await;
                *steps.killed.lock() = false;
                now += SignedDuration::from_secs(1);
                match planned {
                    Ok(plan) if plan.is_settled() => {
                        settled = true;
                        break;
                    }
                    Ok(plan) if plan.actions.is_empty() => now += SignedDuration::from_mins(6),
                    Ok(_) | Err(_) => {}
                }
            }
            assert!(settled, "{installation}: size {size} never settled; {injection:?}");
            let alive = self.machines(installation).await;
            let alive = alive.iter().filter(|state| matches!(state.as_str(), "pending" | "running")).count();
            assert_eq!(alive, size, "{installation}: {injection:?}");
        }
        let (ledger, _) = database.ledger_read(installation).await.unwrap();
        assert!(ledger.claims.is_empty(), "{installation}: {injection:?}: {ledger:?}");
        let machines = self.machines(installation).await;
        Outcome {
            orphans: machines.iter().filter(|state| *state != "terminated").count(),
            doubles: machines.len().saturating_sub(MACHINES),
            steps: steps.seen.lock().clone(),
        }
    }
}

/// By kind of call: how often it came in a life without faults, faults, orphans, doubles.
type Table = BTreeMap<String, [usize; 4]>;

/// Runs every other fault, in an account of its own.
async fn half(account: &Account, steps: &[String], half: usize) -> Table {
    let mut table = Table::new();
    let all =
        steps.iter().enumerate().flat_map(|(step, name)| faults(name).iter().map(move |fault| (step, name, *fault)));
    for (step, name, fault) in all.skip(half).step_by(2) {
        let outcome = account.run(&format!("s{step}-{fault:?}"), Some(Injection { step, fault })).await;
        let row = table.entry(name.clone()).or_default();
        row[1] += 1;
        row[2] += outcome.orphans;
        row[3] += outcome.doubles;
    }
    table
}

#[tokio::test]
async fn no_fault_at_any_step_of_a_node_group_leaves_an_orphan_or_makes_a_double() {
    let (one, two) = tokio::join!(Account::new(), Account::new());
    let clean = one.run("clean", None).await;
    assert_eq!((clean.orphans, clean.doubles), (0, 0));
    for call in ["ledger write", "DescribeInstances", "RunInstances", "TerminateInstances"] {
        assert!(clean.steps.iter().any(|step| step == call), "the workflow has no {call}: {:?}", clean.steps);
    }
    let (mut table, more) = tokio::join!(half(&one, &clean.steps, 0), half(&two, &clean.steps, 1));
    for (name, numbers) in more {
        let row = table.entry(name).or_default();
        row.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    for step in &clean.steps {
        table.entry(step.clone()).or_default()[0] += 1;
    }
    println!("{:<20} {:>6} {:>7} {:>8} {:>8}", "node group: call", "steps", "faults", "orphans", "doubles");
    for (name, [steps, faults, orphans, doubles]) in &table {
        println!("{name:<20} {steps:>6} {faults:>7} {orphans:>8} {doubles:>8}");
    }
    assert!(table.values().all(|[_, faults, orphans, doubles]| *faults > 0 && *orphans == 0 && *doubles == 0));
}
