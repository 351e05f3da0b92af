//! `galley`: a tenant's clusters from the command line.

mod client;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use http::Method;
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
            let list = client.json(Method::GET, "/v1/clusters", None).await?;
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

/// The cluster of this id, or else of this name.
async fn find(client: &Client, wanted: &str) -> Result<Value, Error> {
    let list = client.json(Method::GET, "/v1/clusters", None).await?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let is = |field: &str| items.iter().find(|c| c[field] == wanted).cloned();
    is("id").or_else(|| is("name")).ok_or_else(|| Error::NoCluster(wanted.to_owned()))
}
