//! A writer: creates, updates, patches and deletes objects that all writers share.

use std::collections::HashMap;
use std::time::Duration;

use galley_history::{Asked, Entry, Outcome, Read, State, Write, WriteKind};
use rand::Rng as _;
use rand::rngs::SmallRng;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Client, config_map, state_of};
use crate::reader;
use crate::recorder::Recorder;

const JSON: &str = "application/json";
/// After an answer that says nothing the server is given a moment.
const BACKOFF: std::ops::Range<u64> = 10..80;

pub(crate) struct Writer {
    pub client: Client,
    pub recorder: Recorder,
    pub name: String,
    pub rng: SmallRng,
    pub objects: usize,
    pub written: u64,
    /// What this writer last saw of each object: the base of conditional writes, stale as those of real clients.
    pub known: HashMap<String, State>,
}

pub(crate) fn object_name(rng: &mut SmallRng, objects: usize) -> String {
    format!("o-{:03}", rng.random_range(0..objects))
}

pub(crate) fn some_half(rng: &mut SmallRng) -> &'static str {
    if rng.random_bool(0.5) { "a" } else { "b" }
}

impl Writer {
    /// One write, and now and then the read that a conditional one begins with.
    pub async fn step(&mut self) {
        let name = object_name(&mut self.rng, self.objects);
        let outcome = match self.rng.random_range(0..100) {
            0..25 => self.create(&name).await,
            25..45 => {
                if self.rng.random_bool(0.5) {
                    self.look(&name).await;
                }
                let version = self.known.get(&name).map(|state| state.version);
                self.update(&name, version).await
            }
            45..60 => self.update(&name, None).await,
            60..80 => self.patch(&name).await,
            _ => {
                let condition = self.rng.random_bool(0.3);
                let version = self.known.get(&name).map(|state| state.version).filter(|_| condition);
                self.delete(&name, version).await
            }
        };
        match outcome {
            Outcome::Done(state) => {
                self.recorder.seen(state.version, &mut self.rng);
                self.known.insert(name, state);
            }
            Outcome::Deleted { .. } | Outcome::NotFound => {
                self.known.remove(&name);
            }
            Outcome::Exists | Outcome::Conflict => {}
            Outcome::Refused(_) | Outcome::Unknown(_) => {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(BACKOFF))).await;
            }
        }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.name, self.written)
    }

    async fn look(&mut self, name: &str) {
        let get = reader::get(&self.client, &self.recorder, &mut self.rng, &self.name, name, Asked::Newest).await;
        if let Read::Found(state) = get {
            self.known.insert(name.to_owned(), state);
        }
    }

    /// Creates; also how a run's last objects are made.
    pub async fn create(&mut self, name: &str) -> Outcome {
        let half = some_half(&mut self.rng);
        self.create_in(name, half).await
    }

    pub async fn create_in(&mut self, name: &str, half: &str) -> Outcome {
        let value = self.value();
        let body = config_map(name, &value, half, None);
        self.send(WriteKind::Create, name, value, None, Method::POST, JSON, "", Some(body)).await
    }

    async fn update(&mut self, name: &str, version: Option<u64>) -> Outcome {
        let (value, half) = (self.value(), some_half(&mut self.rng));
        let body = config_map(name, &value, half, version);
        let rest = format!("/{name}");
        self.send(WriteKind::Update, name, value, version, Method::PUT, JSON, &rest, Some(body)).await
    }

    async fn patch(&mut self, name: &str) -> Outcome {
        let value = self.value();
        let rest = format!("/{name}");
        let (form, body) = match self.rng.random_range(0..3) {
            0 => ("application/merge-patch+json", json!({"data": {"value": value}})),
            1 => {
                let half = some_half(&mut self.rng);
                let body = json!({"metadata": {"labels": {"half": half}}, "data": {"value": value}});
                ("application/strategic-merge-patch+json", body)
            }
            _ => ("application/json-patch+json", json!([{"op": "replace", "path": "/data/value", "value": value}])),
        };
        self.send(WriteKind::Patch, name, value, None, Method::PATCH, form, &rest, Some(body)).await
    }

    async fn delete(&mut self, name: &str, version: Option<u64>) -> Outcome {
        let body = version.map(|version| {
            json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"resourceVersion": version.to_string()}})
        });
        let rest = format!("/{name}");
        self.send(WriteKind::Delete, name, String::new(), version, Method::DELETE, JSON, &rest, body).await
    }

    async fn send(
        &mut self,
        kind: WriteKind,
        name: &str,
        value: String,
        expects: Option<u64>,
        method: Method,
        form: &str,
        rest: &str,
        body: Option<Value>,
    ) -> Outcome {
        let start = self.recorder.now();
        let answer = self.client.send(&mut self.rng, method, &self.client.path(rest), form, body.as_ref()).await;
        let end = self.recorder.now();
        let outcome = outcome(kind, name, &answer);
        self.recorder.add(Entry::Write(Write {
            client: self.name.clone(),
            start,
            end,
            kind,
            name: name.to_owned(),
            value,
            expects,
            outcome: outcome.clone(),
        }));
        outcome
    }
}

fn outcome(kind: WriteKind, name: &str, answer: &Answer) -> Outcome {
    if answer.is_absent(name) {
        return Outcome::NotFound;
    }
    match answer {
        Answer::Ok(value) if kind == WriteKind::Delete => {
            // A Status with the uid, or the object itself.
            let uid = value["details"]["uid"].as_str().or(value["metadata"]["uid"].as_str());
            uid.map_or_else(
                || Outcome::Unknown("the answer does not say what was deleted".into()),
                |uid| Outcome::Deleted { uid: uid.to_owned() },
            )
        }
        Answer::Ok(value) => {
            state_of(value).map_or_else(|| Outcome::Unknown("the answer is no ConfigMap".into()), Outcome::Done)
        }
        Answer::Status { code: 409, status } if status["reason"] == "AlreadyExists" => Outcome::Exists,
        Answer::Status { code: 409, .. } => Outcome::Conflict,
        Answer::Status { code: 400 | 401 | 403 | 422 | 429, .. } => Outcome::Refused(answer.tell()),
        Answer::Status { .. } | Answer::Lost(_) => Outcome::Unknown(answer.tell()),
    }
}
