//! `galley`: a tenant's clusters from the command line.

mod client;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use client::{Client, Error};
use output::Format;

/// Create Kubernetes clusters, download their kubeconfigs, join nodes.
#[derive(Parser)]
#[command(name = "galley", version)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// How to print answers.
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Connection {
    /// The installation: https://host:port.
    #[arg(long, global = true, env = "GALLEY_SERVER", default_value = "https://127.0.0.1:6443")]
    server: String,
    /// A tenant's API token.
    #[arg(long, global = true, env = "GALLEY_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// The certificate that the installation's is signed with (PEM file).
    #[arg(long, global = true, env = "GALLEY_CA")]
    ca: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// A tenant's clusters.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Machines of a cluster.
    #[command(subcommand)]
    Node(Node),
}

#[derive(Subcommand)]
enum Cluster {
    /// Create a cluster; its API is ready when this returns.
    Create {
        /// Lower-case letters, digits and hyphens.
        name: String,
    },
    /// List the clusters.
    List,
    /// Show one.
    Get {
        /// Name or id.
        cluster: String,
    },
    /// Delete one, with everything in it.
    Delete {
        /// Name or id.
        cluster: String,
    },
    /// Print the administrator's kubeconfig.
    Kubeconfig {
        /// Name or id.
        cluster: String,
    },
}

#[derive(Subcommand)]
enum Node {
    /// Make a one-time token and print the command that joins a machine with it.
    JoinCommand {
        /// Name or id of the cluster.
        cluster: String,
        /// For how long the token is good (`10m`, `24h`); an hour if left out.
        #[arg(long)]
        ttl: Option<jiff::SignedDuration>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("galley: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<String, Error> {
    let Connection { server, token, ca } = arguments.connection;
    let client = Client::new(&server, &token, ca.as_deref())?;
    let format = arguments.output;
    match arguments.command {
        Command::Cluster(Cluster::Create { name }) => {
            let cluster = client.json(Method::POST, "/v1/clusters", Some(&json!({"name": name}))).await?;
            Ok(format.clusters(std::slice::from_ref(&cluster), &cluster))
        }
        Command::Cluster(Cluster::List) => {
            let list = all_clusters(&client).await?;
            Ok(format.clusters(list["items"].as_array().map_or(&[], Vec::as_slice), &list))
        }
        Command::Cluster(Cluster::Get { cluster }) => {
            let found = find(&client, &cluster).await?;
            Ok(format.clusters(std::slice::from_ref(&found), &found))
        }
        Command::Cluster(Cluster::Delete { cluster }) => {
            let found = find(&client, &cluster).await?;
            client.text(Method::DELETE, &path(&found, ""), None).await?;
            Ok(format!("cluster {} deleted\n", output::text(&found["name"])))
        }
        Command::Cluster(Cluster::Kubeconfig { cluster }) => {
            let found = find(&client, &cluster).await?;
            client.text(Method::GET, &path(&found, "/kubeconfig"), None).await
        }
        Command::Node(Node::JoinCommand { cluster, ttl }) => {
            let found = find(&client, &cluster).await?;
            let body = ttl.map(|ttl| json!({"ttlSeconds": ttl.as_secs()}));
            let token = client.json(Method::POST, &path(&found, "/bootstrap-tokens"), body.as_ref()).await?;
            Ok(format.join_command(&token))
        }
    }
}

fn path(cluster: &Value, rest: &str) -> String {
    format!("/v1/clusters/{}{rest}", output::text(&cluster["id"]))
}

/// All pages as one list.
async fn all_clusters(client: &Client) -> Result<Value, Error> {
    let mut all = Vec::new();
    let mut path = "/v1/clusters".to_owned();
    loop {
        let mut page = client.json(Method::GET, &path, None).await?;
        if let Some(items) = page["items"].as_array_mut() {
            all.append(items);
        }
        match page["continue"].as_str() {
            Some(next) => path = format!("/v1/clusters?continue={next}"),
            None => return Ok(json!({"items": all})),
        }
    }
}

/// The cluster of this id, or else of this name.
async fn find(client: &Client, wanted: &str) -> Result<Value, Error> {
    let no_cluster = || Error::NoCluster(wanted.to_owned());
    // What is neither an id nor a name is not put into a path.
    if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(no_cluster());
    }
    if wanted.len() == 32 && wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        match client.json(Method::GET, &format!("/v1/clusters/{wanted}"), None).await {
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => {}
            other => return other,
        }
    }
    let page = client.json(Method::GET, &format!("/v1/clusters?name={wanted}"), None).await?;
    page["items"].as_array().and_then(|items| items.first()).cloned().ok_or_else(no_cluster)
}
