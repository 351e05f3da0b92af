//! Makes the kernel forget UDP flows that go nowhere.

use std::collections::BTreeSet;

use galley_node_plan::net::conntrack::{Destination, Stale};

use crate::command::{self, CommandError};

fn arguments(stale: &Stale) -> Vec<String> {
    let (Stale::Translated(destination, _) | Stale::Untranslated(destination)) = stale;
    let mut words: Vec<String> = ["-D", "-f", "ipv4", "-p", "udp"].map(Into::into).into();
    match destination {
        Destination::Address(ip, port) => {
            words.extend(["--orig-dst".into(), ip.to_string(), "--orig-port-dst".into(), port.to_string()]);
        }
        Destination::NodePort(port) => words.extend(["--orig-port-dst".into(), port.to_string()]),
    }
    if let Stale::Translated(_, endpoint) = stale {
        words.extend(["--reply-src".into(), endpoint.ip().to_string()]);
        words.extend(["--reply-port-src".into(), endpoint.port().to_string()]);
    }
    words
}

/// Forgets them. A flow that cannot be forgotten ends by itself when its client is silent for half a minute, so a failure is
/// only told.
pub async fn forget(stale: &BTreeSet<Stale>) {
    for flow in stale {
        let words = arguments(flow);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match command::run("conntrack", &words, "").await {
            Ok(_) => {}
            // The tool also fails when nothing matched.
            Err(CommandError::Refused { stderr, .. }) if stderr.contains("0 flow entries") => {}
            Err(error) => tracing::warn!(?flow, %error, "a stale UDP flow stays"),
        }
    }
}
