//! `bench`: filled in below.

use anyhow::Result;

/// Measures.
pub fn bench(_quick: bool) -> Result<()> {
    anyhow::bail!("not yet")
}
