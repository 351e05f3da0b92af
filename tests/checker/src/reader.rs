//! A reader: gets, lists, lists in pages, lists of the past.

use std::time::Duration;

use galley_history::{Asked, Entry, Get, List, Page, Read, Selector};
use rand::Rng as _;
use rand::rngs::SmallRng;
use reqwest::Method;
use serde_json::Value;

use crate::client::{Answer, Client, is_ours, selector_query, state_of, version_of};
use crate::recorder::Recorder;
use crate::writer::{object_name, some_half};

/// How often a page is asked for again before the list is given up.
const PAGE_ATTEMPTS: usize = 5;
/// Between attempts, in milliseconds.
const BACKOFF: std::ops::Range<u64> = 10..80;

pub(crate) struct Reader {
    pub client: Client,
    pub recorder: Recorder,
    pub name: String,
    pub rng: SmallRng,
    pub objects: usize,
}

fn version_query(asked: Asked) -> String {
    match asked {
        Asked::Newest => String::new(),
        Asked::Any => "&resourceVersion=0".into(),
        Asked::NotOlder(version) => format!("&resourceVersion={version}&resourceVersionMatch=NotOlderThan"),
        Asked::Exact(version) => format!("&resourceVersion={version}&resourceVersionMatch=Exact"),
    }
}

/// One recorded get.
pub(crate) async fn get(
    client: &Client,
    recorder: &Recorder,
    rng: &mut SmallRng,
    who: &str,
    name: &str,
    asked: Asked,
) -> Read {
    let query = match asked {
        Asked::Newest => String::new(),
        Asked::Any => "?resourceVersion=0".into(),
        Asked::NotOlder(version) | Asked::Exact(version) => format!("?resourceVersion={version}"),
    };
    let start = recorder.now();
    let answer = client.send(rng, Method::GET, &client.path(&format!("/{name}{query}")), "", None).await;
    let end = recorder.now();
    let outcome = match &answer {
        answer if answer.is_absent(name) => Read::Absent,
        Answer::Ok(object) => state_of(object).map_or_else(|| Read::Failed("no ConfigMap".into()), Read::Found),
        answer => Read::Failed(answer.tell()),
    };
    let entry = Get { client: who.to_owned(), start, end, name: name.to_owned(), asked, outcome: outcome.clone() };
    recorder.add(Entry::Get(entry));
    outcome
}

impl Reader {
    /// One read.
    pub async fn step(&mut self) {
        let newest = self.recorder.newest();
        let failed = match self.rng.random_range(0..100) {
            0..35 => self.get(Asked::Newest).await,
            35..45 => self.get(Asked::Any).await,
            45..50 => self.get(Asked::NotOlder(newest)).await,
            50..65 => self.list(Selector::default(), Asked::Newest, None).await,
            65..70 => self.list(Selector::default(), Asked::Any, None).await,
            70..83 => {
                let limit = self.rng.random_range(1..8);
                self.list(Selector::default(), Asked::Newest, Some(limit)).await
            }
            83..93 => match self.recorder.past(&mut self.rng) {
                Some(version) => {
                    let limit = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..8));
                    self.list(Selector::default(), Asked::Exact(version), limit).await
                }
                None => false,
            },
            93..96 => self.list(Selector::default(), Asked::NotOlder(newest), None).await,
            _ => {
                let of = Selector { half: Some(some_half(&mut self.rng).into()), name: None };
                self.list(of, Asked::Newest, None).await
            }
        };
        if failed {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(BACKOFF))).await;
        }
    }

    async fn get(&mut self, asked: Asked) -> bool {
        let name = object_name(&mut self.rng, self.objects);
        let read = get(&self.client, &self.recorder, &mut self.rng, &self.name, &name, asked).await;
        matches!(read, Read::Failed(_))
    }

    /// A whole list; whether it failed.
    pub async fn list(&mut self, of: Selector, asked: Asked, limit: Option<u32>) -> bool {
        let start = self.recorder.now();
        let mut list = List {
            client: self.name.clone(),
            start,
            end: start,
            of,
            asked,
            limit,
            pages: Vec::new(),
            complete: false,
            gone: false,
            failed: String::new(),
        };
        let mut after = String::new();
        let mut attempts = 0;
        loop {
            let mut query = selector_query(&list.of);
            if after.is_empty() {
                query.push_str(&version_query(asked));
            } else {
                query.push_str(&format!("&continue={after}"));
            }
            if let Some(limit) = limit {
                query.push_str(&format!("&limit={limit}"));
            }
            let path = self.client.path(&format!("?{}", query.trim_start_matches('&')));
            match self.client.send(&mut self.rng, Method::GET, &path, "", None).await {
                Answer::Ok(answer) => {
                    let Some(page) = page_of(&answer) else {
                        list.failed = "the answer is no list".into();
                        break;
                    };
                    self.recorder.seen(page.version, &mut self.rng);
                    list.pages.push(page);
                    answer["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut after);
                    if after.is_empty() {
                        list.complete = true;
                        break;
                    }
                }
                Answer::Status { code: 410, .. } => {
                    list.gone = true;
                    break;
                }
                // The moment that the pages show does not move while a page is asked for again.
                _ if !list.pages.is_empty() && attempts < PAGE_ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(Duration::from_millis(self.rng.random_range(BACKOFF))).await;
                }
                answer => {
                    list.failed = answer.tell();
                    break;
                }
            }
        }
        list.end = self.recorder.now();
        let failed = !list.complete;
        self.recorder.add(Entry::List(list));
        failed
    }
}

fn page_of(answer: &Value) -> Option<Page> {
    let items = answer["items"].as_array()?.iter().map(state_of).collect::<Option<Vec<_>>>()?;
    Some(Page { version: version_of(answer)?, items: items.into_iter().filter(|state| is_ours(&state.name)).collect() })
}
