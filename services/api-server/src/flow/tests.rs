use std::future::pending;

use tokio::task::{JoinSet, yield_now};

use super::*;

type Order = Arc<Mutex<Vec<&'static str>>>;

fn id(number: u128) -> TenantId {
    TenantId::from_trusted_row(uuid::Uuid::from_u128(number))
}

fn control(config: FlowConfig) -> Arc<FlowControl> {
    FlowControl::new(FlowConfig { seats: 1, ..config })
}

fn flow(control: &Arc<FlowControl>, tenant: u128, user: &str) -> Arc<Flow> {
    let mut actor = Actor { username: user.into(), ..Actor::default() };
    if user.starts_with("system:node:") {
        actor.groups.push("system:nodes".into());
    }
    control.of(id(tenant), ClusterId::from_trusted_row(uuid::Uuid::from_u128(tenant)), &actor, "/api/v1/pods")
}

/// A turn under way, of a thread that computes.
async fn busy(flow: &Flow) -> Seat {
    let mut turns = Turns::new(&flow.control, flow.who, false);
    poll_fn(|context| turns.poll(context)).await.expect("a turn")
}

fn spawn(tasks: &mut JoinSet<Result<(), Status>>, flow: &Arc<Flow>, name: &'static str, order: &Order) {
    let (flow, order) = (Arc::clone(flow), Arc::clone(order));
    tasks.spawn(async move { flow.serve(async { order.lock().push(name) }).await });
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_quiet_tenants_request_is_served_next_however_many_of_a_noisy_one_wait() {
    let control = control(FlowConfig::default());
    let (noisy, quiet) = (flow(&control, 1, "jane"), flow(&control, 2, "joe"));
    let (mut tasks, order) = (JoinSet::new(), Order::default());
    let turn = busy(&noisy).await;
    (0..1000).for_each(|_| spawn(&mut tasks, &noisy, "noisy", &order));
    until(|| control.stats().waiting == 1000).await;
    spawn(&mut tasks, &quiet, "quiet", &order);
    until(|| control.stats().waiting == 1001).await;
    turn.end(Duration::from_millis(1), 0);
    while tasks.join_next().await.is_some() {}
    let order = order.lock();
    assert_eq!((order[0], order.len()), ("quiet", 1001));
}

#[tokio::test]
async fn nodes_are_served_before_a_storm_of_their_own_tenants_users() {
    let control = control(FlowConfig::default());
    let (user, node) = (flow(&control, 1, "jane"), flow(&control, 1, "system:node:a"));
    let (mut tasks, order) = (JoinSet::new(), Order::default());
    let turn = busy(&user).await;
    (0..100).for_each(|_| spawn(&mut tasks, &user, "user", &order));
    until(|| control.stats().waiting == 100).await;
    spawn(&mut tasks, &node, "node", &order);
    until(|| control.stats().waiting == 101).await;
    turn.end(Duration::from_millis(1), 0);
    while tasks.join_next().await.is_some() {}
    assert_eq!(order.lock()[0], "node");
}

#[tokio::test]
async fn what_waits_for_something_else_holds_no_turn() {
    let control = control(FlowConfig::default());
    let flow = flow(&control, 1, "jane");
    let mut slow = Box::pin(flow.serve(pending::<()>()));
    assert!(futures::poll!(&mut slow).is_pending());
    let mut body = Box::pin(flow.pieces(stream::pending::<Result<Bytes, ()>>()));
    assert!(futures::poll!(futures::StreamExt::next(&mut body)).is_pending());
    assert_eq!(flow.serve(async { 7 }).await.ok(), Some(7));
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_place_back() {
    let control = control(FlowConfig { waiting: 1, ..FlowConfig::default() });
    let flow = flow(&control, 1, "jane");
    let turn = busy(&flow).await;
    let mut left = Box::pin(flow.serve(pending::<()>()));
    assert!(futures::poll!(&mut left).is_pending());
    drop(left);
    drop(turn);
    assert_eq!(control.stats().waiting, 0);
    let turn = busy(&flow).await;
    let mut waits = Box::pin(flow.serve(async { 7 }));
    assert!(futures::poll!(&mut waits).is_pending(), "there is room for it");
    drop(turn);
    assert_eq!(waits.await.ok(), Some(7));
    // One that left after the turn was given to it passes it on.
    let turn = busy(&flow).await;
    let mut left = Box::pin(flow.serve(pending::<()>()));
    assert!(futures::poll!(&mut left).is_pending());
    drop(turn);
    drop(left);
    assert_eq!(flow.serve(async { 7 }).await.ok(), Some(7));
}

#[tokio::test]
async fn a_panic_gives_its_turn_back() {
    let control = control(FlowConfig::default());
    let flow = flow(&control, 1, "jane");
    let panics = std::panic::AssertUnwindSafe(flow.serve(async { panic!("on purpose") }));
    assert!(panics.catch_unwind().await.is_err());
    assert_eq!(flow.serve(async { 7 }).await.ok(), Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_long_wait_are_429_that_say_when_to_come_again() {
    let control = control(FlowConfig { waiting: 1, ..FlowConfig::default() });
    let flow = flow(&control, 1, "jane");
    let _turn = busy(&flow).await;
    let mut waits = Box::pin(flow.serve(async {}));
    assert!(futures::poll!(&mut waits).is_pending());
    let full = flow.serve(async {}).await.expect_err("full");
    assert_eq!((full.code, full.reason, full.retry_after_seconds), (429, Reason::TooManyRequests, 1));
    assert_eq!(
        full.message,
        "Too many requests, please try again later: 1 requests of this tenant wait, and no more may"
    );
    let other = super::tests::flow(&control, 2, "joe");
    let mut others = Box::pin(other.serve(async {}));
    assert!(futures::poll!(&mut others).is_pending(), "another tenant has room of its own");
    let late = waits.await.expect_err("after fifteen seconds");
    assert_eq!((late.code, late.reason), (429, Reason::TooManyRequests));
    let stats = control.stats();
    assert_eq!((stats.refused_queue, stats.refused_wait), (1, 1));
}

#[tokio::test]
async fn probes_are_answered_when_nothing_else_is() {
    let control = control(FlowConfig { waiting: 0, ..FlowConfig::default() });
    let user = flow(&control, 1, "jane");
    let _turn = busy(&user).await;
    let probe = control.of(id(1), ClusterId::from_trusted_row(uuid::Uuid::nil()), &Actor::default(), "/healthz");
    assert_eq!(probe.serve(async { 7 }).await.ok(), Some(7));
    assert!(user.serve(async {}).await.is_err());
}

#[tokio::test]
async fn watches_of_a_tenant_are_bounded_and_users_leave_some_for_nodes() {
    let control = control(FlowConfig { watches: 16, ..FlowConfig::default() });
    let (user, node) = (flow(&control, 1, "jane"), flow(&control, 1, "system:node:a"));
    let held: Vec<HeldWatch> = std::iter::from_fn(|| user.watch().ok()).collect();
    assert_eq!(held.len(), 14);
    let refused = user.watch().expect_err("too many");
    assert_eq!(
        refused.message,
        "Too many requests, please try again later: this tenant has 14 watches under way, and may have 14"
    );
    assert!(flow(&control, 2, "joe").watch().is_ok());
    let nodes: Vec<HeldWatch> = std::iter::from_fn(|| node.watch().ok()).collect();
    assert_eq!(nodes.len(), 2);
    drop((held, nodes));
    assert_eq!(control.stats().watches, 0);
}

#[tokio::test]
async fn bodies_are_bounded_for_each_tenant_and_for_all() {
    let config = FlowConfig { body_bytes: 100, tenant_body_bytes: 64, ..FlowConfig::default() };
    let control = control(config);
    let flows = [flow(&control, 1, "a"), flow(&control, 1, "b"), flow(&control, 2, "c")];
    flows[0].body(50).expect("room");
    let own = flows[1].body(7).expect_err("more than seven eighths of 64");
    assert!(own.message.ends_with("this tenant has 50 bytes of request bodies under way, and may have 56"), "{own}");
    let all = flows[2].body(51).expect_err("more than 100");
    assert!(all.message.ends_with("this server has 50 bytes of request bodies under way, and may have 100"), "{all}");
    let [first, ..] = flows;
    drop(first);
    assert_eq!(control.stats().body_bytes, 0);
}
