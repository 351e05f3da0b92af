//! Applies one nftables table by difference.

use galley_node_plan::net::nftables::{Applied, Ruleset, diff};

use crate::command::{self, CommandError};

/// What the kernel is known to have of one table.
#[derive(Debug, Default)]
pub struct Table {
    /// `None` when it must be asked: at the start, and after a failure.
    applied: Option<Applied>,
}

impl Table {
    /// Makes the kernel have `desired`.
    pub async fn sync(&mut self, desired: &Ruleset) -> Result<(), CommandError> {
        let applied = match self.applied.take() {
            Some(applied) => applied,
            None => read(desired.table).await,
        };
        if let Err(error) = apply(desired, &applied).await {
            // Somebody else changed the table, perhaps: look, and try once more.
            tracing::warn!(table = desired.table, %error, "nftables refused a difference; looking again");
            let applied = read(desired.table).await;
            if let Err(error) = apply(desired, &applied).await {
                tracing::warn!(table = desired.table, %error, "nftables refused a difference; replacing the table");
                apply(desired, &Applied::default()).await?;
            }
        }
        self.applied = Some(Applied::of(desired));
        Ok(())
    }

    /// Looks at the kernel again before the next change.
    pub fn forget(&mut self) {
        self.applied = None;
    }
}

async fn apply(desired: &Ruleset, applied: &Applied) -> Result<(), CommandError> {
    let scripts = diff(desired, applied);
    if !scripts.change.is_empty() {
        command::run("nft", &["-f", "-"], &scripts.change).await?;
    }
    if !scripts.remove.is_empty() {
        command::run("nft", &["-f", "-"], &scripts.remove).await?;
    }
    Ok(())
}

/// A table that is not there is an incompatible one: the difference makes it.
async fn read(table: &str) -> Applied {
    match command::json("nft", &["-j", "list", "table", "ip", table]).await {
        Ok(json) => Applied::parse(&json),
        Err(_) => Applied::default(),
    }
}

/// Deletes a table, if it is there.
pub async fn cleanup(table: &str) {
    let _ = command::run("nft", &["-f", "-"], &format!("add table ip {table}\ndelete table ip {table}\n")).await;
}
