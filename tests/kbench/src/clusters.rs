//! Whole clusters over the management API: made, listed and deleted by the thousand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::load::{Tally, flood};
use crate::target::Target;

const PAGE: &str = "/v1/clusters?limit=500";

/// Makes `PREFIX-0`, `PREFIX-1`, ..., and keeps a kubeconfig of each in the directory, if one is given.
pub async fn create(
    target: &Target,
    prefix: &str,
    count: usize,
    connections: usize,
    kubeconfigs: Option<PathBuf>,
) -> Result<Value> {
    let (start, target, prefix) = (Instant::now(), target.clone(), Arc::<str>::from(prefix));
    let tally = flood(count, connections, move |number| {
        let (target, name, directory) = (target.clone(), format!("{prefix}-{number}"), kubeconfigs.clone());
        async move {
            let cluster = target.make("/v1/clusters", &json!({"name": name})).await?;
            if let Some(directory) = directory {
                let id = cluster["id"].as_str().context("a cluster without id")?;
                let path = format!("/v1/clusters/{id}/kubeconfig");
                let text = target.request(Method::GET, &path).send().await?.error_for_status()?.bytes().await?;
                std::fs::write(directory.join(name), text)?;
            }
            Ok(())
        }
    });
    Ok(tally.await?.line("create clusters", connections, start.elapsed().as_secs_f64()))
}

/// The ids of all clusters, page by page, and how long each page took.
async fn pages(target: &Target) -> Result<(Vec<String>, Tally)> {
    let (mut ids, mut tally, mut path) = (Vec::new(), Tally::default(), PAGE.to_owned());
    loop {
        let start = Instant::now();
        let page = target.get(&path).await?;
        tally.done(start);
        let items = page["items"].as_array().context("no items")?;
        ids.extend(items.iter().filter_map(|cluster| cluster["id"].as_str().map(str::to_owned)));
        match page["continue"].as_str() {
            Some(next) => path = format!("{PAGE}&continue={next}"),
            None => return Ok((ids, tally)),
        }
    }
}

/// Lists all clusters, page by page.
pub async fn list(target: &Target) -> Result<Value> {
    let start = Instant::now();
    let (ids, tally) = pages(target).await?;
    let mut line = tally.line("list clusters", 1, start.elapsed().as_secs_f64());
    line["clusters"] = json!(ids.len());
    Ok(line)
}

/// Deletes all clusters.
pub async fn delete(target: &Target, connections: usize) -> Result<Value> {
    let (ids, _) = pages(target).await?;
    ensure!(!ids.is_empty(), "there are no clusters");
    let (start, count, target, ids) = (Instant::now(), ids.len(), target.clone(), Arc::<[String]>::from(ids));
    let tally = flood(count, connections, move |number| {
        let (target, path) = (target.clone(), format!("/v1/clusters/{}", ids[number]));
        async move {
            target.request(Method::DELETE, &path).send().await?.error_for_status()?;
            Ok(())
        }
    });
    Ok(tally.await?.line("delete clusters", connections, start.elapsed().as_secs_f64()))
}
