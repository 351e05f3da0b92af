//! A watcher: follows the objects over many watches that break, end, are left, and are resumed.

use std::time::Duration;

use galley_history::{
    Bookmark, End, EndKind, Entry, Event, EventKind, From, Micros, Open, Opened, Selector, State, Stuck,
};
use rand::Rng as _;
use rand::rngs::SmallRng;
use reqwest::Response;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Answer, Client, is_ours, selector_query, state_of, version_of};
use crate::recorder::Recorder;

/// How long the server may take longer than it was told to end a watch, before the connection counts as dead.
const GRACE: Duration = Duration::from_secs(3);
const BACKOFF: std::ops::Range<u64> = 10..80;

/// Where watchers must have come to when a run ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// The last object with label `half=a`.
    pub a: u64,
    /// The last with `half=b`.
    pub b: u64,
    /// When it is too late.
    pub by: Instant,
}

/// What a watcher is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Stays, and resumes where it was.
    Steady,
    /// Leaves often, and comes back to where it was or to the past.
    Restless,
    /// As restless, with a label selector.
    Half(&'static str),
    /// Begins with what is there.
    Initial,
    /// Watches one object.
    One,
}

impl Habit {
    pub fn of(number: usize) -> Self {
        const ALL: [Habit; 7] = [
            Habit::Steady,
            Habit::Restless,
            Habit::Half("a"),
            Habit::Initial,
            Habit::Steady,
            Habit::Half("b"),
            Habit::One,
        ];
        ALL[number % ALL.len()]
    }
}

pub(crate) struct Watcher {
    pub client: Client,
    pub recorder: Recorder,
    pub name: String,
    pub rng: SmallRng,
    pub habit: Habit,
    pub objects: usize,
    pub goal: watch::Receiver<Option<Goal>>,
    /// How far it has come.
    pub reached: u64,
}

/// Why a session ended, for what comes next.
enum After {
    Resume,
    /// 410.
    Relist,
    Done,
}

impl Watcher {
    /// Until the goal is reached or it is too late.
    pub async fn run(mut self) {
        loop {
            if self.is_done() {
                return;
            }
            if let Some(goal) = self.goal()
                && Instant::now() >= goal.by
            {
                let wanted = self.wanted(&goal);
                let (client, at, reached) = (self.name.clone(), self.recorder.now(), self.reached);
                return self.recorder.add(Entry::Stuck(Stuck { client, at, reached, wanted }));
            }
            match self.session().await {
                After::Done => return,
                After::Resume => {}
                After::Relist => self.relist().await,
            }
        }
    }

    fn goal(&self) -> Option<Goal> {
        *self.goal.borrow()
    }

    fn wanted(&self, goal: &Goal) -> u64 {
        match self.habit {
            Habit::Half("a") => goal.a,
            Habit::Half(_) => goal.b,
            // It may be that nothing of its object happens any more.
            Habit::One => 0,
            Habit::Steady | Habit::Restless | Habit::Initial => goal.a.max(goal.b),
        }
    }

    fn is_done(&self) -> bool {
        self.goal().is_some_and(|goal| self.reached >= self.wanted(&goal))
    }

    /// After a 410 the newest revision is where to go on from.
    async fn relist(&mut self) {
        let path = self.client.path("?limit=1");
        match self.client.send(&mut self.rng, reqwest::Method::GET, &path, "", None).await {
            Answer::Ok(list) => self.reached = version_of(&list).unwrap_or(self.reached),
            _ => self.rest().await,
        }
    }

    async fn rest(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(BACKOFF))).await;
    }

    fn from(&mut self) -> From {
        let ending = self.goal().is_some();
        match self.habit {
            Habit::Initial if !ending && self.rng.random_bool(0.5) => From::Initial,
            Habit::Restless | Habit::Half(_) if !ending && self.rng.random_bool(0.3) => {
                From::Version(self.recorder.past(&mut self.rng).unwrap_or(self.reached).min(self.reached))
            }
            _ => From::Version(self.reached),
        }
    }

    async fn session(&mut self) -> After {
        let from = self.from();
        let of = match self.habit {
            Habit::Half(half) => Selector { half: Some(half.into()), name: None },
            Habit::One => Selector { half: None, name: Some(crate::writer::object_name(&mut self.rng, self.objects)) },
            Habit::Steady | Habit::Restless | Habit::Initial => Selector::default(),
        };
        let seconds: u64 = if self.habit == Habit::Steady { 20 } else { self.rng.random_range(1..5) };
        let mut query = format!("?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{}", selector_query(&of));
        match from {
            From::Version(version) => query.push_str(&format!("&resourceVersion={version}")),
            From::Initial => query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        }
        let session = self.recorder.session();
        let start = self.recorder.now();
        let opened = self.client.watch(&mut self.rng, &query).await;
        let end = self.recorder.now();
        let open = |outcome| {
            let client = self.name.clone();
            Entry::Open(Open { session, client, start, end, of: of.clone(), from, outcome })
        };
        let response = match opened {
            Ok(response) => response,
            Err(Answer::Status { code: 410, .. }) => {
                self.recorder.add(open(Opened::Gone));
                return After::Relist;
            }
            Err(answer) => {
                self.recorder.add(open(Opened::Failed(answer.tell())));
                self.rest().await;
                return After::Resume;
            }
        };
        self.recorder.add(open(Opened::Yes));
        let until = Instant::now() + Duration::from_secs(seconds) + GRACE;
        let kind = self.follow(session, from, response, until).await;
        let after = match &kind {
            EndKind::Closed | EndKind::Left if self.is_done() => After::Done,
            EndKind::Gone => After::Relist,
            EndKind::Closed | EndKind::Left | EndKind::Broken(_) => After::Resume,
        };
        let broken = matches!(kind, EndKind::Broken(_));
        self.recorder.add(Entry::End(End { session, at: self.recorder.now(), kind }));
        if broken {
            self.rest().await;
        }
        after
    }

    /// Takes down what comes, until it ends or is left.
    async fn follow(&mut self, session: u64, from: From, mut response: Response, until: Instant) -> EndKind {
        // A resumed past is read to where the watcher was at least.
        let mut here = if let From::Version(version) = from { version } else { 0 };
        let mut told = from != From::Initial;
        let mut patience = match self.habit {
            Habit::Restless | Habit::Half(_) | Habit::Initial => self.rng.random_range(5..200),
            Habit::Steady | Habit::One => u64::MAX,
        };
        let mut text: Vec<u8> = Vec::new();
        let mut goal = self.goal.clone();
        goal.mark_unchanged();
        loop {
            if told {
                self.reached = self.reached.max(here);
            }
            let ending = self.goal().is_some();
            if ending && self.is_done() && told || !ending && patience == 0 {
                return EndKind::Left;
            }
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = tokio::time::sleep_until(until) => return EndKind::Broken("the server does not end it".into()),
                _ = goal.changed() => continue,
            };
            match chunk {
                Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                Ok(None) => return EndKind::Closed,
                Err(error) => return EndKind::Broken(error.to_string()),
            }
            let at = self.recorder.now();
            let mut consumed = 0;
            while let Some(length) = text[consumed..].iter().position(|byte| *byte == b'\n') {
                let line = &text[consumed..consumed + length];
                consumed += length + 1;
                match Line::read(line) {
                    Line::Event(kind, state) => {
                        here = here.max(state.version);
                        if is_ours(&state.name) {
                            self.recorder.seen(state.version, &mut self.rng);
                            self.recorder.add(Entry::Event(Event { session, at, kind, state }));
                            patience = patience.saturating_sub(u64::from(patience != u64::MAX));
                        }
                    }
                    Line::Bookmark(version, initial_end) => {
                        here = here.max(version);
                        told |= initial_end;
                        self.bookmark(session, at, version, initial_end);
                    }
                    Line::Gone => return EndKind::Gone,
                    Line::Broken(why) => return EndKind::Broken(why),
                }
            }
            text.drain(..consumed);
        }
    }

    fn bookmark(&mut self, session: u64, at: Micros, version: u64, initial_end: bool) {
        self.recorder.add(Entry::Bookmark(Bookmark { session, at, version, initial_end }));
    }
}

enum Line {
    Event(EventKind, State),
    Bookmark(u64, bool),
    Gone,
    Broken(String),
}

impl Line {
    fn read(line: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return Self::Broken(format!("not JSON: {}", String::from_utf8_lossy(line)));
        };
        let object = &value["object"];
        let kind = match value["type"].as_str() {
            Some("ADDED") => EventKind::Added,
            Some("MODIFIED") => EventKind::Modified,
            Some("DELETED") => EventKind::Deleted,
            Some("BOOKMARK") => {
                let end = object["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true";
                return version_of(object).map_or_else(
                    || Self::Broken("a bookmark of nothing".into()),
                    |version| Self::Bookmark(version, end),
                );
            }
            Some("ERROR") if object["code"] == 410 => return Self::Gone,
            _ => return Self::Broken(value.to_string()),
        };
        state_of(object)
            .map_or_else(|| Self::Broken("an event of no ConfigMap".into()), |state| Self::Event(kind, state))
    }
}
