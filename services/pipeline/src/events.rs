//! Events that the cluster's own components write, a batch of the store for many: a thousand pods that find no node are a
//! thousand Events. Each is what the same body would have become through [`ClusterApi::create`], without being taken apart and
//! put together: the components write no fields that an Event has not, and all of one shape have the same `managedFields`.

use std::collections::HashMap;
use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::apply::Writer;
use galley_kube::{Resource, Status};
use galley_store::{Draft, Object, Write};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::{ClusterApi, WriteOptions, commit_status};
use crate::create::manager;
use crate::value::{array, text};
use crate::{encode, fields, rules, strategy};

/// Names of objects are DNS subdomains: RFC 1123.
const NAME_MAX: usize = 253;

/// The `managedFields` of Events, by which members they have.
type Managed = HashMap<Vec<String>, Box<RawValue>>;

impl ClusterApi {
    /// Creates Events, answering each in order. `bodies` are whole `v1` Events in their canonical form (see
    /// [`rules::decode`]), with name and namespace.
    pub async fn create_events(&self, actor: &Actor, bodies: Vec<Value>) -> Vec<Result<Arc<Object>, Status>> {
        let events = match self.builtin("events") {
            Ok(events) => events,
            Err(status) => return bodies.iter().map(|_| Err(status.clone())).collect(),
        };
        let (mut managed, mut writes, mut answers) = (Managed::new(), Vec::new(), Vec::with_capacity(bodies.len()));
        for body in bodies {
            let name = text(&body, "/metadata/name").to_owned();
            match self.event(&events, actor, body, &name, &mut managed) {
                Ok(draft) => {
                    writes.push(Write::Create(draft));
                    answers.push((name, None));
                }
                Err(status) => answers.push((name, Some(status))),
            }
        }
        let mut written = self.store.commit_all(writes).await.into_iter();
        let answer = |(name, refused): (String, Option<Status>)| match refused {
            Some(status) => Err(status),
            None => match written.next() {
                Some(written) => written.map_err(|error| commit_status(&events, &name, error)),
                None => Err(Status::internal("no answer")),
            },
        };
        answers.into_iter().map(answer).collect()
    }

    fn event(
        &self,
        events: &Resource,
        actor: &Actor,
        mut body: Value,
        name: &str,
        managed: &mut Managed,
    ) -> Result<Draft, Status> {
        let namespace = text(&body, "/metadata/namespace").to_owned();
        self.namespace_must_live(events, &namespace, name)?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Status::bad_request(format!("an Event cannot have a name of {} bytes", name.len())));
        }
        let now = self.clock.now();
        strategy::start_metadata(events, &namespace, name, &self.store.entropy().uuid().to_string(), now, &mut body);
        let shape = shape(&body);
        let managed = match managed.get(&shape) {
            Some(managed) => managed,
            None => {
                let mut first = body.clone();
                let options = WriteOptions::default();
                let writer = Writer { manager: manager(&options, actor), subresource: "", now };
                rules::manage_fields(events, None, &mut first, &writer);
                let entries = json!(array(&first, "/metadata/managedFields"));
                let entries = serde_json::value::to_raw_value(&entries).map_err(Status::internal)?;
                managed.entry(shape).or_insert(entries)
            }
        };
        let uid = Arc::from(text(&body, "/metadata/uid"));
        let key = self.key(events, &namespace, name);
        let selectable = fields::of(events, &body);
        let (head, tail) = encode::halves_managed(&body, managed)?;
        Ok(Draft { key, uid, labels: encode::labels(&body), fields: selectable, head, tail })
    }
}

/// The members that a body has, and those of its members.
fn shape(body: &Value) -> Vec<String> {
    let members = body.as_object().into_iter().flatten();
    let names = members.flat_map(|(name, value)| {
        let inner = value.as_object().into_iter().flatten();
        std::iter::once(name.clone()).chain(inner.map(move |(inner, _)| format!("{name}.{inner}")))
    });
    names.collect()
}
