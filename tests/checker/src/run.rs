//! One run: makes the namespace, starts the clients, and ends with a history that can be judged.
//!
//! The end decides whether a verdict is possible: when all writers have stopped, everything is listed, and two last objects
//! are written, one for each label, that every watcher must come to. What a watcher has not seen by then was left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use galley_history::{Asked, Entry, Outcome, Selector, Setup};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Answer, Client, Target, TargetError, version_of};
use crate::reader::Reader;
use crate::recorder::Recorder;
use crate::watcher::{Goal, Habit, Watcher};
use crate::writer::Writer;

/// What a run is like.
#[derive(Debug, Clone)]
pub struct Config {
    /// The servers.
    pub target: Target,
    /// The run's own namespace: made at the start, deleted at the end.
    pub namespace: String,
    /// Decides what the clients do.
    pub seed: u64,
    /// Clients that write.
    pub writers: usize,
    /// Clients that read.
    pub readers: usize,
    /// Clients that watch; at least one.
    pub watchers: usize,
    /// How many names the writers share: few make conflicts, many make long lists.
    pub objects: usize,
    /// Between two requests of one client, on average.
    pub pace: Duration,
    /// For how long the server promises that revisions can be watched and listed.
    pub retention: Option<Duration>,
    /// How long the server may be away, at the start and at the end.
    pub patience: Duration,
}

impl Config {
    /// A short run with every kind of client.
    pub fn new(target: Target, seed: u64) -> Self {
        Self {
            target,
            namespace: format!("history-check-{seed:x}"),
            seed,
            writers: 6,
            readers: 3,
            watchers: 7,
            objects: 24,
            pace: Duration::from_millis(10),
            retention: None,
            patience: Duration::from_secs(60),
        }
    }
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// There is no client.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The server did not do what a run needs, for as long as the run is patient.
    #[error("{step}: {answer}")]
    NotServed {
        /// What was tried.
        step: &'static str,
        /// The last answer.
        answer: String,
    },
    /// A client panicked.
    #[error("a client of the checker panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    config: Config,
    client: Client,
    recorder: Recorder,
    rng: SmallRng,
    stop: Arc<AtomicBool>,
    busy: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    goal: watch::Sender<Option<Goal>>,
}

/// A client that does one thing after the other.
enum Busy {
    Writer(Writer),
    Reader(Reader),
}

impl Running {
    /// Makes the namespace and starts the clients.
    pub async fn start(config: Config) -> Result<Self, DriveError> {
        let client = Client::new(&config.target, &config.namespace)?;
        let recorder = Recorder::new();
        let mut rng = SmallRng::seed_from_u64(config.seed);
        let base = prepare(&client, &config, &mut rng).await?;
        let retention = config.retention.map(|retention| u64::try_from(retention.as_micros()).unwrap_or(u64::MAX));
        recorder.add(Entry::Setup(Setup { seed: config.seed, base, retention }));
        recorder.seen(base, &mut rng);

        let stop = Arc::new(AtomicBool::new(false));
        let (goal, _) = watch::channel(None);
        let mut running = Self { client, recorder, rng, stop, busy: Vec::new(), watchers: Vec::new(), goal, config };
        for number in 0..running.config.watchers.max(1) {
            let watcher = Watcher {
                client: running.client.clone(),
                recorder: running.recorder.clone(),
                name: format!("watcher-{number}"),
                rng: running.fork(),
                habit: Habit::of(number),
                objects: running.config.objects,
                goal: running.goal.subscribe(),
                reached: base,
            };
            running.watchers.push(tokio::spawn(watcher.run()));
        }
        for number in 0..running.config.writers {
            let writer = running.writer(&format!("w{number}"));
            running.keep_busy(Busy::Writer(writer));
        }
        for number in 0..running.config.readers {
            let reader = running.reader(&format!("r{number}"));
            running.keep_busy(Busy::Reader(reader));
        }
        Ok(running)
    }

    /// What is recorded, to add notes to.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn fork(&mut self) -> SmallRng {
        SmallRng::seed_from_u64(self.rng.random())
    }

    fn writer(&mut self, name: &str) -> Writer {
        Writer {
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            name: name.to_owned(),
            rng: self.fork(),
            objects: self.config.objects,
            written: 0,
            known: Default::default(),
        }
    }

    fn reader(&mut self, name: &str) -> Reader {
        Reader {
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            name: name.to_owned(),
            rng: self.fork(),
            objects: self.config.objects,
        }
    }

    fn keep_busy(&mut self, mut client: Busy) {
        let (stop, pace) = (self.stop.clone(), self.config.pace);
        let mut rng = self.fork();
        self.busy.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match &mut client {
                    Busy::Writer(writer) => writer.step().await,
                    Busy::Reader(reader) => reader.step().await,
                }
                tokio::time::sleep(pace.mul_f64(rng.random_range(0.0..2.0))).await;
            }
        }));
    }

    /// Stops the writers and readers, has every watcher come to the end, and gives the history out.
    pub async fn finish(mut self) -> Result<Vec<Entry>, DriveError> {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.busy) {
            task.await.map_err(DriveError::Panicked)?;
        }
        let deadline = Instant::now() + self.config.patience;
        let mut reader = self.reader("end");
        while reader.list(Selector::default(), Asked::Newest, None).await {
            late(deadline, "list at the end", || "no list".into())?;
        }
        let mut writer = self.writer("end");
        let a = last(&mut writer, "a", deadline).await?;
        let b = last(&mut writer, "b", deadline).await?;
        self.goal.send_replace(Some(Goal { a, b, by: Instant::now() + self.config.patience }));
        for task in std::mem::take(&mut self.watchers) {
            task.await.map_err(DriveError::Panicked)?;
        }
        let mut history = self.recorder.take();
        // Entries are added when they end; readers of the file expect the setup first, which it is.
        history.shrink_to_fit();
        let mut rng = self.fork();
        let deadline = Instant::now() + self.config.patience;
        loop {
            match self.client.namespace_delete(&mut rng).await {
                // It stays for as long as what is in it; an answer that was lost may have been this one.
                Answer::Ok(_) | Answer::Status { code: 404 | 409, .. } => break,
                answer => late(deadline, "delete the namespace", || answer.tell())?,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(history)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.busy.iter().chain(&self.watchers).for_each(JoinHandle::abort);
    }
}

fn late(deadline: Instant, step: &'static str, answer: impl FnOnce() -> String) -> Result<(), DriveError> {
    if Instant::now() < deadline { Ok(()) } else { Err(DriveError::NotServed { step, answer: answer() }) }
}

/// The namespace, and the revision before the first write to it.
async fn prepare(client: &Client, config: &Config, rng: &mut SmallRng) -> Result<u64, DriveError> {
    let deadline = Instant::now() + config.patience;
    loop {
        match client.namespace_create(rng).await {
            // A lost answer's second attempt finds it.
            Answer::Ok(_) | Answer::Status { code: 409, .. } => break,
            answer => late(deadline, "make the namespace", || answer.tell())?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    loop {
        match client.send(rng, Method::GET, &client.path(""), "", None).await {
            Answer::Ok(list) if version_of(&list).is_some() => return Ok(version_of(&list).unwrap_or_default()),
            answer => late(deadline, "list the namespace", || answer.tell())?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes a last object with this label; its revision.
async fn last(writer: &mut Writer, half: &str, deadline: Instant) -> Result<u64, DriveError> {
    for attempt in 0.. {
        // An attempt of unknown outcome is not repeated: another object is made.
        let outcome = writer.create_in(&format!("end-{attempt:03}-{half}"), half).await;
        if let Outcome::Done(state) = outcome {
            return Ok(state.version);
        }
        late(deadline, "write the last objects", || format!("{outcome:?}"))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the loop ends by returning")
}
