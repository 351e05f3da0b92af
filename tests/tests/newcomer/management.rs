//! The management API as `curl` sees it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use galley_tests::World;
use serde_json::{Value, json};

use crate::contains;

/// Status code, content type and body of a request.
fn curl(world: &World, token: Option<&str>, arguments: &[&str], path: &str) -> Result<(u16, String, Value)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code} %{content_type}", "--cacert"]);
    command.arg(world.galley.ca()).args(arguments);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output = command.arg(format!("{}{path}", world.galley.url())).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let (code, kind) = last.split_once(' ').context("status and content type")?;
    Ok((code.parse()?, kind.to_owned(), serde_json::from_str(body).unwrap_or(json!(body))))
}

const JSON: [&str; 2] = ["--header", "Content-Type: application/json"];

pub fn clusters(world: &mut World) -> Result<()> {
    let token = world.galley.tenant_token()?;
    let token = Some(token.as_str());
    let start = std::time::Instant::now();
    let create = [&JSON[..], &["--data", r#"{"name": "second"}"#, "--header", "Idempotency-Key: k1"]].concat();
    let (code, _, made) = curl(world, token, &create, "/v1/clusters")?;
    ensure!(code == 201, "{code} {made}");
    println!("        cluster created in {} ms", start.elapsed().as_millis());
    let id = made["id"].as_str().context("id")?.to_owned();
    let (_, _, again) = curl(world, token, &create, "/v1/clusters")?;
    ensure!(again["id"] == made["id"], "the same idempotency key is the same cluster");
    let taken = [&JSON[..], &["--data", r#"{"name": "second"}"#]].concat();
    let (code, kind, problem) = curl(world, token, &taken, "/v1/clusters")?;
    ensure!(code == 409 && kind == "application/problem+json", "{code} {kind} {problem}");
    let (code, _, list) = curl(world, token, &[], "/v1/clusters")?;
    ensure!(code == 200 && list["items"].as_array().is_some_and(|l| l.len() == 2), "{list}");
    let (code, _, one) = curl(world, token, &[], &format!("/v1/clusters/{id}"))?;
    ensure!(code == 200 && one["state"] == "ready", "{one}");

    // Its own API, with its own kubeconfig, and with nothing of the first cluster's in it.
    let second = world.galley.cluster("second")?;
    contains(&second.run(&["get", "namespaces"])?, "kube-system")?;
    second.run(&["create", "namespace", "only-here"])?;
    contains(&world.kubectl.run_failing(&["get", "namespace", "only-here"])?, r#"namespaces "only-here" not found"#)?;

    let (code, _, _) = curl(world, token, &["--request", "DELETE"], &format!("/v1/clusters/{id}"))?;
    ensure!(code == 204, "{code}");
    let (code, _, _) = curl(world, token, &[], &format!("/v1/clusters/{id}"))?;
    ensure!(code == 404, "{code}");
    second.run_failing(&["get", "namespaces"]).map(drop)
}

pub fn strangers(world: &mut World) -> Result<()> {
    let token = world.galley.tenant_token()?;
    let (_, _, list) = curl(world, Some(&token), &[], "/v1/clusters")?;
    let id = list["items"][0]["id"].as_str().context("a cluster")?.to_owned();
    world.galley.admin(&["tenant-create", "stranger"])?;
    let stranger = world.galley.admin(&["token-create", "--tenant", "stranger"])?;
    for path in [format!("/v1/clusters/{id}"), format!("/v1/clusters/{id}/kubeconfig")] {
        for (token, wanted) in [(None, 401), (Some("nonsense"), 401), (Some(stranger.as_str()), 404)] {
            let (code, kind, problem) = curl(world, token, &[], &path)?;
            ensure!(code == wanted && kind == "application/problem+json", "{path}: {code} {kind} {problem}");
            ensure!(problem["title"].is_string() && problem["status"] == wanted, "{problem}");
        }
    }
    let (_, _, list) = curl(world, Some(&stranger), &[], "/v1/clusters")?;
    ensure!(list["items"] == json!([]), "a stranger's list is empty: {list}");
    let bad = [&JSON[..], &["--data", r#"{"name": "Not A Name"}"#]].concat();
    let (code, _, problem) = curl(world, Some(&token), &bad, "/v1/clusters")?;
    ensure!(code == 422 && problem["pointer"] == "/name", "{code} {problem}");
    let (code, _, problem) = curl(world, Some(&token), &[&JSON[..], &["--data", "{"]].concat(), "/v1/clusters")?;
    ensure!(code == 400, "{code} {problem}");

    // The cluster's own API: no credentials, and credentials that are none.
    let api = format!("/clusters/{id}/api/v1/namespaces");
    let (code, _, status) = curl(world, None, &[], &api)?;
    ensure!(code == 403 && status["kind"] == "Status", "{code} {status}");
    let (code, _, status) = curl(world, Some("garbage"), &[], &api)?;
    ensure!(code == 401 && status["reason"] == "Unauthorized", "{code} {status}");
    let (code, _, status) = curl(world, None, &[], "/clusters/00000000000000000000000000000000/api")?;
    ensure!(code == 404, "{code} {status}");
    Ok(())
}
