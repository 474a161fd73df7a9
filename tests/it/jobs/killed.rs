//! Killed: jobs whose runners are killed at random times, and their counts beside the letters.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Command, Stdio},
    time::Duration,
};

use millstream::{
    dead_letter::{LetterFilter, LetterRecord, amend},
    redrive::{
        job::{Job, State},
        store::Jobs,
    },
    stages::headers,
};
use tempfile::TempDir;

use super::{PIPELINE, broken, job, of_work, plain};
use crate::{
    crash::Chance,
    reaper::Start as _,
    support::{Mill, Running, eventually},
};

/// Letters of a job.
const LETTERS: usize = 1500;
/// Kills of its runner.
const KILLS: usize = 3;

/// Folder with the pipeline, whose events are only logged.
struct Workers<'a> {
    folder: TempDir,
    mill: &'a Mill,
}

impl<'a> Workers<'a> {
    fn of(mill: &'a Mill) -> Self {
        let folder = TempDir::new().unwrap();
        // With more attempts than one: what a worker has in hand as it is killed is no letter.
        let toml = PIPELINE
            .replace("attempts = 1", "attempts = 9")
            .replace("{ rust = \"work\" }", "{ log = \"info\" }")
            .replace("{ rust = \"beside\" }", "{ log = \"info\" }");
        fs::write(folder.path().join("pipeline.toml"), toml).unwrap();
        Self { folder, mill }
    }

    /// Starts a worker; dropping it kills it.
    fn start(&self) -> Running {
        let path = self.folder.path().join("log");
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command
            .args(["run", "--log-format", "json", "--set"])
            .arg(format!("nats.url={}", self.mill.server.server.url()))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Running(command.start())
    }

    /// Events of stage `work` that were handled, each once however often.
    fn handled(&self) -> BTreeSet<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let lines = log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        lines
            .filter(|line| line["stage"] == "work")
            .filter_map(|line| Some(line["event_id"].as_str()?.to_owned()))
            .collect()
    }
}

/// Makes a job of what `change` makes of it, kills its runners, and returns how it ended.
async fn killed(workers: &Workers<'_>, change: impl FnOnce(Job) -> Job) -> Job {
    let mill = workers.mill;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let made = change(job(mill, of_work()).await);
    let mut chance = Chance::new();
    let mut worker = workers.start();
    jobs.create(&made).await.unwrap();
    for _ in 0..KILLS {
        let before = jobs.get(&made.id).await.unwrap().0.runner;
        eventually(async || {
            let (now, _) = jobs.get(&made.id).await.unwrap();
            (!now.is_open() || (now.runner.is_some() && now.runner != before)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(chance.below(400) as u64)).await;
        worker.kill();
        worker = workers.start();
    }
    let ended = eventually(async || {
        let (now, _) = jobs.get(&made.id).await.unwrap();
        (!now.is_open()).then_some(now)
    })
    .await;
    mill.idle("work").await;
    drop(worker);
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_removed_one_by_one_count_once_each_whoever_died() {
    let (mut mill, _) = broken(plain(LETTERS)).await;
    mill.drain().await;
    // Every tenth is left where it is.
    let mut left = BTreeSet::new();
    for letter in mill.letters().await.iter().step_by(10) {
        let at = "2026-11-28T00:00:00Z";
        let seq = amend::mark(&mill.broker, letter, headers::COMPLETED_AT, at).await.unwrap();
        left.insert(seq.unwrap());
    }
    let workers = Workers::of(&mill);
    let filter = LetterFilter { class: Some("*".into()), ..of_work() };
    let done = killed(&workers, |job| Job { filter, per_second: Some(600.0), ..job }).await;
    let sent = (LETTERS - left.len()) as u64;
    assert_eq!((done.state, done.counts.redriven), (State::Done, sent), "{:?}", done.counts);
    assert_eq!((done.counts.completed, done.counts.gone), (left.len() as u64, 0));
    assert!(done.above.is_empty(), "{:?}", done.above);
    let there: BTreeSet<u64> =
        mill.letters().await.iter().map(|letter| LetterRecord::of(letter).seq).collect();
    assert_eq!(there, left);
    assert_eq!(workers.handled().len() as u64, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_removed_in_runs_count_once_each_whoever_died() {
    let (mut mill, _) = broken(plain(LETTERS)).await;
    mill.drain().await;
    let workers = Workers::of(&mill);
    let done = killed(&workers, |job| Job { per_second: Some(2500.0), ..job }).await;
    let all = LETTERS as u64;
    assert_eq!((done.state, done.counts.redriven), (State::Done, all), "{:?}", done.counts);
    assert_eq!((done.counts.settled(), done.above.run), (all, None));
    assert!(mill.letters().await.is_empty());
    assert_eq!(workers.handled().len() as u64, all);
}
