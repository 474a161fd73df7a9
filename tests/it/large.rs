//! Large: events and letters of 900 KiB, which never make the server drop a connection.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream::{
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply},
};
use serde_json::Value;

use crate::{
    reaper::Start as _,
    support::{Mill, TestServer, eventually},
};

/// Payload of an event, in bytes.
const BYTES: usize = 900 << 10;

/// Event of [`BYTES`] of this number, as one long text: what is tried is the way, not the parser.
fn event(n: usize) -> String {
    format!(
        r#"{{"eventId":"l-{n}","eventType":"big","eventData":{{"n":{n},"text":"{}"}}}}"#,
        "x".repeat(BYTES)
    )
}

/// Fails if the server has dropped a connection because it did not read fast enough.
fn nobody_was_slow(mill: &Mill) {
    let log = fs::read_to_string(mill.server.server.log_path()).unwrap();
    let slow: Vec<&str> = log.lines().filter(|line| line.contains("Slow Consumer")).collect();
    assert!(slow.is_empty(), "the server dropped connections:\n{}", slow.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_900_kib_go_through_32_stages_without_a_slow_consumer() {
    const EVENTS: usize = 120;
    const STAGES: usize = 32;
    let mut toml = String::from(
        "[pipeline]\nname = \"big\"\n[source.events]\nsubjects = [\"events.>\"]\n\
         [storage]\nstorage = \"memory\"\n",
    );
    let mut input = "source.events".to_owned();
    for n in 1..=STAGES {
        toml += &format!(
            "[stage.s{n}]\nkind = \"handle\"\ninputs = [\"{input}\"]\n\
             handler = {{ rust = \"{}\" }}\n",
            if n == STAGES { "last" } else { "pass" }
        );
        input = format!("s{n}");
    }
    let runs = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&runs);
    let registry = Registry::new().with("pass", handler_fn(|_, _| async { Ok(Reply::Pass) })).with(
        "last",
        handler_fn(move |event, _| {
            assert!(event.body.len() > BYTES);
            own.lock().unwrap().push(event.id.clone());
            async { Ok(Reply::Pass) }
        }),
    );
    let _alone = crate::crash::alone().await;
    let mut mill = Mill::still(TestServer::start().await, &toml, registry).await;
    for n in 0..EVENTS {
        mill.publish("events.big", event(n)).await;
    }
    let began = Instant::now();
    mill.work().await;
    eventually(async || (runs.lock().unwrap().len() >= EVENTS).then_some(())).await;
    println!("{EVENTS} events in {:.1} s", began.elapsed().as_secs_f32());
    mill.idle(&format!("s{STAGES}")).await;
    mill.drain().await;
    nobody_was_slow(&mill);
    let mut ids = runs.lock().unwrap().clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), runs.lock().unwrap().len()), (EVENTS, EVENTS));
    assert!(mill.letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_900_kib_are_exported_searched_and_redriven_without_a_slow_consumer() {
    const LETTERS: usize = 100;
    let toml = r#"
        [pipeline]
        name = "big"
        [source.events]
        subjects = ["events.>"]
        [storage]
        storage = "memory"
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = { rust = "work" }
    "#;
    let is_mended = Arc::new(AtomicBool::new(false));
    let done = Arc::new(Mutex::new(Vec::new()));
    let (mended, own) = (Arc::clone(&is_mended), Arc::clone(&done));
    let work = handler_fn(move |event, _| {
        let mended = mended.load(Ordering::SeqCst);
        if mended {
            own.lock().unwrap().push(event.id.clone());
        }
        let too_much = || Failure::reject("Large", "too much");
        async move { mended.then_some(Reply::Pass).ok_or_else(too_much) }
    });
    let _alone = crate::crash::alone().await;
    let mill = Mill::with(toml, Registry::new().with("work", work)).await;
    for n in 0..LETTERS {
        mill.publish("events.big", event(n)).await;
    }
    let letters = async || mill.broker.stream_state("big-dlq").await.unwrap().messages as usize;
    eventually(async || (letters().await == LETTERS).then_some(())).await;
    mill.idle("work").await;

    // As the command line does it, with a handler that it cannot have.
    let program = Program::on(&mill, &toml.replace("{ rust = \"work\" }", "{ jq = \".\" }"));
    let text = program.run(&["dlq", "export"]).await;
    let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), LETTERS);
    assert!(text.len() > LETTERS * BYTES);
    let half = format!(".eventData.n < {}", LETTERS / 2);
    let text = program.run(&["dlq", "ls", "--json", "--where", &half, "--limit", "1000"]).await;
    assert_eq!(text.matches("\"l-").count(), LETTERS / 2, "{}", &text[..text.len().min(2000)]);
    let text = program.run(&["dlq", "redrive", "--all", "--where", &half, "--dry-run"]).await;
    assert!(text.contains(&(LETTERS / 2).to_string()), "{text}");
    is_mended.store(true, Ordering::SeqCst);
    let text = program.run(&["dlq", "redrive", "--all", "--yes"]).await;
    assert!(text.contains(&format!("redrove {LETTERS} letters")), "{text}");
    eventually(async || (done.lock().unwrap().len() >= LETTERS).then_some(())).await;
    mill.idle("work").await;
    let mut ids = done.lock().unwrap().clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), done.lock().unwrap().len()), (LETTERS, LETTERS));
    assert_eq!(letters().await, 0);
    nobody_was_slow(&mill);
}

/// Built program with a pipeline of its own.
struct Program {
    folder: tempfile::TempDir,
    url: String,
}

impl Program {
    fn on(mill: &Mill, toml: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        fs::write(folder.path().join("pipeline.toml"), toml).unwrap();
        Self { folder, url: mill.server.server.url().to_owned() }
    }

    /// Runs a command that must succeed; what it printed may be large, and goes through a file.
    async fn run(&self, args: &[&str]) -> String {
        let began = Instant::now();
        let (out, err) = (self.folder.path().join("out"), self.folder.path().join("err"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(args).current_dir(self.folder.path()).env("MILLSTREAM_NATS__URL", &self.url);
        command.stdin(Stdio::null());
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let mut running = crate::support::Running(command.start());
        let status = loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < crate::support::DEADLINE, "{args:?} takes too long");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        println!("{args:?}: {:.1} s", began.elapsed().as_secs_f32());
        let said = fs::read_to_string(&err).unwrap();
        // 1 is for something that was found.
        assert!(status.code().is_some_and(|code| code < 2), "{args:?}: {status}\n{said}");
        fs::read_to_string(&out).unwrap() + &said
    }
}
