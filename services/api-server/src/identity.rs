//! Who a client certificate stands for: CN is the user, each O a group (Kubernetes' X.509 client certificate authentication).

use galley_authz::Actor;
use rustls_pki_types::CertificateDer;

/// The group of everyone who proved an identity.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// The user that a certificate names. The certificate must have been verified before.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Actor> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let username = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(Actor { username, groups, ..Actor::default() })
}

/// Whoever shows no credential.
pub(crate) fn anonymous() -> Actor {
    Actor {
        username: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
        ..Actor::default()
    }
}

/// The node that an actor is, if it is one.
pub(crate) fn node_name(actor: &Actor) -> Option<&str> {
    actor.groups.iter().find(|group| *group == "system:nodes")?;
    actor.username.strip_prefix("system:node:").filter(|name| !name.is_empty())
}
