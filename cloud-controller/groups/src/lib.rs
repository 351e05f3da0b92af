//! Brings a node group's machines to what its plan says: observe, plan, apply, one round at a time.
//!
//! The order within a round is the promise. Machines are listed before the ledger is read, so that no machine seems to be nobody's
//! whose claim was only just stored. Each claim's stage is stored before the call that it is about, on the condition that nobody
//! else wrote in between. So a round may be cut off anywhere, or run twice at the same time: the next one finds everything again.

use std::collections::BTreeSet;
use std::future::Future;

use galley_cloud::{CloudError, Instances};
use galley_cloud_plan::node_group::{Action, Claim, Group, Ledger, Observed, Plan, Shortages, Stage, plan};
use jiff::Timestamp;

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else wrote in between: look again.
    #[error("the ledger was written by somebody else")]
    Conflict,
    /// Nothing is known about whether it was written.
    #[error("the ledger cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where a group's claims are kept, durably.
pub trait Ledgers {
    /// What a write must name.
    type Version: Copy + Send;

    /// The ledger of a group, empty if there is none.
    fn ledger_read(&self, uid: &str) -> impl Future<Output = Result<(Ledger, Self::Version), LedgerError>> + Send;

    /// Stores it if it still has this version.
    fn ledger_write(
        &self,
        uid: &str,
        ledger: &Ledger,
        version: Self::Version,
    ) -> impl Future<Output = Result<Self::Version, LedgerError>> + Send;
}

/// What the nodes of machines do.
pub trait Drains {
    /// The machines whose nodes run nothing that would have to be evicted and take nothing new, or that have no node.
    fn drained(&self) -> impl Future<Output = BTreeSet<String>> + Send;

    /// Cordons the machine's node and evicts its pods, as far as their budgets let them go now.
    fn drain(&self, id: &str) -> impl Future<Output = ()> + Send;
}

/// A round ended early; the next one goes on from what is stored.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

/// One round. Answers with what was planned, which is empty when there is nothing left to do.
pub async fn round<L: Ledgers>(
    group: &Group,
    cloud: &impl Instances,
    ledgers: &L,
    drains: &impl Drains,
    shortages: &mut Shortages,
    now: Timestamp,
) -> Result<Plan, RoundError> {
    let instances: Vec<_> =
        cloud.instance_list().await?.into_iter().filter(|instance| instance.owner == group.owner).collect();
    let (ledger, version) = ledgers.ledger_read(&group.uid).await?;
    let drained = drains.drained().await;
    let planned = plan(&Observed { group, ledger: &ledger, instances: &instances, drained: &drained, shortages, now });
    let mut kept = Kept { uid: &group.uid, ledgers, ledger, version };
    for (action, _) in &planned.actions {
        match action {
            Action::ClaimAdd(spec) => {
                let claim = Claim { spec: spec.clone(), stage: Stage::Wanted };
                kept.change(|ledger| {
                    ledger.made += 1;
                    ledger.claims.insert(spec.claim.clone(), claim);
                })
                .await?;
            }
            Action::Launch { claim } => launch(&mut kept, cloud, shortages, claim, now).await?,
            Action::Adopt { claim, id } => kept.stage(claim, Stage::Launched { id: id.clone(), at: now }).await?,
            Action::End { claim, id } => kept.stage(claim, Stage::Ending { id: id.clone(), at: now }).await?,
            Action::Drain { id } => drains.drain(id).await,
            Action::Terminate { id } => cloud.instance_terminate(id).await?,
            Action::Forget { claim } => kept.change(|ledger| drop(ledger.claims.remove(claim))).await?,
        }
    }
    Ok(planned)
}

async fn launch<L: Ledgers>(
    kept: &mut Kept<'_, L>,
    cloud: &impl Instances,
    shortages: &mut Shortages,
    name: &str,
    now: Timestamp,
) -> Result<(), RoundError> {
    let Some(claim) = kept.ledger.claims.get(name) else { return Ok(()) };
    let spec = claim.spec.clone();
    let first = claim.stage == Stage::Wanted;
    kept.stage(name, Stage::Trying { at: now }).await?;
    match cloud.instance_launch(&spec).await {
        Ok(launched) => Ok(kept.stage(name, Stage::Launched { id: launched.id, at: now }).await?),
        Err(error) => {
            if let CloudError::Capacity { .. } = &error {
                shortages.insert((spec.instance_type, spec.subnet), now);
                // A refusal of the first try is the whole story. Of a later one it may be the second answer to a question whose
                // first answer was lost.
                if first {
                    kept.change(|ledger| drop(ledger.claims.remove(name))).await?;
                    return Ok(());
                }
            }
            Err(error.into())
        }
    }
}

/// The ledger as it is stored.
struct Kept<'a, L: Ledgers> {
    uid: &'a str,
    ledgers: &'a L,
    ledger: Ledger,
    version: L::Version,
}

impl<L: Ledgers> Kept<'_, L> {
    async fn change(&mut self, change: impl FnOnce(&mut Ledger)) -> Result<(), LedgerError> {
        change(&mut self.ledger);
        self.version = self.ledgers.ledger_write(self.uid, &self.ledger, self.version).await?;
        Ok(())
    }

    async fn stage(&mut self, name: &str, stage: Stage) -> Result<(), LedgerError> {
        self.change(|ledger| {
            if let Some(claim) = ledger.claims.get_mut(name) {
                claim.stage = stage;
            }
        })
        .await
    }
}
