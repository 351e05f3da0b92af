//! The plan, stepped through small worlds.

use super::*;

const ID: &str = "i-1";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn group(desired: usize) -> Group {
    Group {
        owner: InstanceOwner { cluster: "c".into(), group: "g".into() },
        uid: "u".into(),
        desired,
        instance_types: vec!["small".into(), "large".into()],
        capacity: Capacity::OnDemand,
        subnets: vec!["a".into(), "b".into()],
        security_groups: Vec::new(),
        image: "ami".into(),
        instance_profile: None,
        disk_gib: None,
        user_data: String::new(),
    }
}

fn machine(id: &str, claim: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.into(),
        owner: group(0).owner,
        claim: claim.into(),
        state,
        instance_type: "small".into(),
        zone: "z".into(),
        provider_id: format!("aws:///z/{id}"),
    }
}

/// A group whose claims are at these stages.
struct World {
    group: Group,
    ledger: Ledger,
    instances: Vec<Instance>,
    drained: BTreeSet<String>,
    shortages: Shortages,
    now: Timestamp,
}

impl World {
    fn new(desired: usize, stages: impl IntoIterator<Item = Stage>) -> Self {
        let mut ledger = Ledger::default();
        for stage in stages {
            let spec = Self::specs(&plan(&Observed {
                group: &group(ledger.claims.len() + 1),
                ledger: &ledger,
                instances: &[],
                drained: &BTreeSet::new(),
                shortages: &Shortages::new(),
                now: at(0),
            }));
            let spec = spec.into_iter().next_back().unwrap();
            ledger.made += 1;
            ledger.claims.insert(spec.claim.clone(), Claim { spec, stage });
        }
        Self {
            group: group(desired),
            ledger,
            instances: Vec::new(),
            drained: BTreeSet::new(),
            shortages: Shortages::new(),
            now: at(1000),
        }
    }

    fn with(mut self, id: &str, claim: &str, state: InstanceState) -> Self {
        self.instances.push(machine(id, claim, state));
        self
    }

    fn drained(mut self, id: &str) -> Self {
        self.drained.insert(id.into());
        self
    }

    fn specs(plan: &Plan) -> Vec<InstanceSpec> {
        let adds = plan.actions.iter().filter_map(|(action, _)| match action {
            Action::ClaimAdd(spec) => Some(spec.clone()),
            _ => None,
        });
        adds.collect()
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            group: &self.group,
            ledger: &self.ledger,
            instances: &self.instances,
            drained: &self.drained,
            shortages: &self.shortages,
            now: self.now,
        })
    }
}

fn launched() -> Stage {
    Stage::Launched { id: ID.into(), at: at(0) }
}

fn ending() -> Stage {
    Stage::Ending { id: ID.into(), at: at(0) }
}

fn trying(seconds: i64) -> Stage {
    Stage::Trying { at: at(seconds) }
}

fn claim() -> String {
    "u-0".into()
}

#[test]
fn each_stage_has_its_next_step() {
    use InstanceState::{Pending, Running, Stopped, Stopping};
    let id = || ID.to_owned();
    let orphan = || Some((Action::Terminate { id: id() }, Reason::Orphan));
    let launch = || Some((Action::Launch { claim: claim() }, Reason::NotLaunched));
    let adopt = || Some((Action::Adopt { claim: claim(), id: id() }, Reason::Found));
    let end = |reason| Some((Action::End { claim: claim(), id: id() }, reason));
    let forget = |reason| Some((Action::Forget { claim: claim() }, reason));
    let drain = || Some((Action::Drain { id: id() }, Reason::Draining));
    let terminate = || Some((Action::Terminate { id: id() }, Reason::Ends));
    for (what, world, expected) in [
        ("a new claim is asked for", World::new(1, [Stage::Wanted]), launch()),
        ("a lost answer is asked for again", World::new(1, [trying(0)]), launch()),
        ("a machine is adopted", World::new(1, [trying(0)]).with(ID, "u-0", Pending), adopt()),
        ("a surplus machine is adopted to be ended", World::new(0, [trying(0)]).with(ID, "u-0", Pending), adopt()),
        ("a good machine is left alone", World::new(1, [launched()]).with(ID, "u-0", Running), None),
        ("a halted machine is ended", World::new(1, [launched()]).with(ID, "u-0", Stopped), end(Reason::Halted)),
        ("a lost machine is given up", World::new(1, [launched()]), end(Reason::Gone)),
        ("what was never asked for is forgotten", World::new(0, [Stage::Wanted]), forget(Reason::Surplus)),
        ("what never came is forgotten", World::new(0, [trying(0)]), forget(Reason::Surplus)),
        ("what may still come is waited for", World::new(0, [trying(900)]), None),
        ("one too many is ended", World::new(0, [launched()]).with(ID, "u-0", Running), end(Reason::Surplus)),
        ("pods leave first", World::new(0, [ending()]).with(ID, "u-0", Running), drain()),
        ("then the machine goes", World::new(0, [ending()]).with(ID, "u-0", Running).drained(ID), terminate()),
        ("a halted machine has no pods", World::new(0, [ending()]).with(ID, "u-0", Stopped), terminate()),
        ("its end takes a while", World::new(0, [ending()]).with(ID, "u-0", Stopping), None),
        ("then it is forgotten", World::new(0, [ending()]), forget(Reason::Gone)),
        ("a machine without a claim is ended", World::new(0, []).with(ID, "u-7", Running), orphan()),
    ] {
        assert_eq!(world.plan().actions, Vec::from_iter(expected), "{what}");
    }
}

#[test]
fn a_machine_that_was_only_just_launched_may_be_unlisted() {
    let world = World::new(1, [Stage::Launched { id: ID.into(), at: at(900) }]);
    assert_eq!(world.plan().actions, []);
    assert_eq!(world.plan().waits, [(Some(claim()), Reason::Unknown)]);
}

#[test]
fn a_second_machine_of_a_claim_is_ended() {
    let world = World::new(1, [launched()]).with(ID, "u-0", InstanceState::Running);
    let world = world.with("i-2", "u-0", InstanceState::Running);
    assert_eq!(world.plan().actions, [(Action::Terminate { id: "i-2".into() }, Reason::Double)]);
}

#[test]
fn a_machine_that_ends_is_replaced_at_once() {
    let world = World::new(1, [ending()]).with(ID, "u-0", InstanceState::Running);
    assert_eq!(World::specs(&world.plan()).iter().map(|spec| spec.claim.as_str()).collect::<Vec<_>>(), ["u-1"]);
}

#[test]
fn the_newest_of_the_cheapest_to_give_up_goes_first() {
    let running = |n: u32| Stage::Launched { id: format!("i-{n}"), at: at(0) };
    let mut world = World::new(1, [running(0), running(1), Stage::Wanted]);
    for n in 0..2 {
        world = world.with(&format!("i-{n}"), &format!("u-{n}"), InstanceState::Running);
    }
    let expected = [
        (Action::End { claim: "u-1".into(), id: "i-1".into() }, Reason::Surplus),
        (Action::Forget { claim: "u-2".into() }, Reason::Surplus),
    ];
    assert_eq!(world.plan().actions, expected);
}

#[test]
fn machines_are_spread_over_subnets_and_avoid_shortages() {
    let chosen = |world: &World| {
        let specs = World::specs(&world.plan());
        specs.iter().map(|spec| format!("{}/{}", spec.instance_type, spec.subnet)).collect::<Vec<_>>()
    };
    let mut world = World::new(3, []);
    assert_eq!(chosen(&world), ["small/a", "small/b", "small/a"]);
    world.shortages.insert(("small".into(), "a".into()), at(990));
    assert_eq!(chosen(&world), ["small/b", "small/b", "small/b"]);
    world.shortages.insert(("small".into(), "b".into()), at(990));
    assert_eq!(chosen(&world), ["large/a", "large/b", "large/a"]);
    for subnet in ["a", "b"] {
        world.shortages.insert(("large".into(), subnet.into()), at(990));
    }
    assert_eq!(chosen(&world), [] as [&str; 0]);
    assert_eq!(world.plan().waits, [(None, Reason::NoCapacity)]);
    world.now = at(1400);
    assert_eq!(chosen(&world).len(), 3, "a shortage ends");
}

#[test]
fn a_group_without_subnets_or_types_waits() {
    let mut world = World::new(1, []);
    world.group.subnets.clear();
    assert_eq!(world.plan().waits, [(None, Reason::NoCapacity)]);
}
