//! Followed: offsets and keys of streams and buckets that were made anew.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{Broker, Mark, Outgoing, unix_ms},
    dead_letter::LetterFilter,
    incidents::snapshot,
    map::{
        Breakers,
        breaker::{Breaker, Pace},
    },
    observe::Metrics,
    redrive::{
        context::{Context, Progress},
        job::{self, Job, Kind, State},
        run,
        store::{Claim, Jobs},
        targets::Targets,
    },
    stages::{Failure, failure::class},
    topology::{self, Topology},
    wire::Place,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Calls, PIPELINE, findings, given_up, made_anew};
use crate::support::{Mill, TestServer, eventually, raw_event};

const ERRORS: &str = r#"
    [pipeline]
    name = "shop"
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [source.events]
    subjects = ["events.>"]
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["source.errors"]
    threshold = 1
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "debug" }
"#;

async fn error(mill: &Mill, code: &str) {
    let error = json!({
        "errorCode": code, "severity": "critical", "serviceName": "till", "message": code,
    });
    mill.publish("errors.till", error.to_string()).await;
}

/// Waits until an incident of this code goes on, with so many errors; its count.
async fn incident(mill: &Mill, code: &str, count: u64) {
    eventually(async || {
        let open = snapshot::open(&mill.broker, &mill.pipeline).await.ok()?;
        let found = open.iter().find(|(_, it)| it.code == code)?;
        (found.1.total == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reduce_stage_reads_a_stream_that_was_made_anew_from_its_start_and_tells() {
    let mut mill = Mill::with(ERRORS, Calls::default().registry()).await;
    for _ in 0..8 {
        error(&mill, "OLD").await;
    }
    incident(&mill, "OLD", 8).await;
    made_anew(&mill, "shop-in-errors").await;
    for _ in 0..3 {
        error(&mill, "NEW").await;
    }
    incident(&mill, "NEW", 3).await;
    let told = eventually(async || {
        Some(findings(&mill, "StreamRestarted").await).filter(|told| !told.is_empty())
    })
    .await;
    assert!(told.len() == 1 && told[0].contains("deleted and made anew"), "{told:?}");
    let shown = mill.worker.as_ref().unwrap().metrics().render();
    let counted = "millstream_reduce_streams_restarted_total{stage=\"errors\"} 1";
    assert!(shown.contains(counted), "{shown}");
    // Made anew while nobody reads, and longer by then than it was: only its life tells.
    mill.drain().await;
    made_anew(&mill, "shop-in-errors").await;
    for _ in 0..12 {
        error(&mill, "NEWER").await;
    }
    mill.work().await;
    incident(&mill, "NEWER", 12).await;
    incident(&mill, "OLD", 8).await;
    mill.drain().await;
    assert_eq!(findings(&mill, "StreamRestarted").await.len(), 2);
}

#[tokio::test]
async fn errors_after_a_restart_of_a_server_that_holds_all_in_memory_become_an_incident() {
    let toml = format!("{ERRORS}[storage]\nstorage = \"memory\"\n");
    let mut mill = Mill::with(&toml, Calls::default().registry()).await;
    for _ in 0..8 {
        error(&mill, "OLD").await;
    }
    incident(&mill, "OLD", 8).await;
    mill.server.server.stop().await;
    mill.server.server.restart().await.unwrap();
    eventually(async || mill.broker.stream_state("KV_shop-state").await.ok()).await;
    mill.make().await;
    for _ in 0..3 {
        error(&mill, "NEW").await;
    }
    incident(&mill, "NEW", 3).await;
    mill.drain().await;
}

#[tokio::test]
async fn a_mark_is_held_against_what_its_stream_is_now() {
    let mill = Mill::still(TestServer::start().await, ERRORS, Calls::default().registry()).await;
    let look = async |mark: Mark| {
        let (next, why) = mill.broker.same_stream("shop-in-errors", mark).await.unwrap();
        (next.seq, why.unwrap_or_default())
    };
    assert_eq!(look(Mark::default()).await, (0, String::new()), "nothing was read");
    for _ in 0..4 {
        error(&mill, "OLD").await;
    }
    let state = mill.broker.stream_state("shop-in-errors").await.unwrap();
    let Place { at_ms, .. } = mill.place("shop-in-errors", 2).await;
    let read = Mark { seq: 2, at_ms, created_ms: unix_ms(state.created) };
    assert_eq!(look(read).await, (2, String::new()));
    // As older versions kept them, or where the message is gone.
    assert_eq!(look(Mark { seq: 2, ..Mark::default() }).await, (2, String::new()));
    mill.broker.delete_message("shop-in-errors", 2).await.unwrap();
    assert_eq!(look(read).await, (2, String::new()));
    // Each sign of another life is enough.
    for (mark, why) in [
        (Mark { created_ms: 5, ..read }, "it was deleted and made anew"),
        (Mark { seq: 9, ..read }, "it ends at 4, and 9 was read"),
        (Mark { seq: 3, at_ms: 5, ..read }, "another message has the sequence 3"),
    ] {
        assert_eq!(look(mark).await, (0, why.to_owned()));
    }
}

/// Deletes the state bucket, whose revisions are far on, and makes it anew.
async fn bucket_made_anew(broker: &Broker, topology: &Topology) {
    broker.delete_stream("KV_shop-state").await.unwrap();
    topology::make(broker, topology).await.unwrap();
}

async fn far_on(broker: &Broker) {
    for n in 0..50 {
        broker.kv_put("shop-state", &format!("junk.{n}"), "x").await.unwrap();
    }
}

#[tokio::test]
async fn breakers_hear_of_each_other_in_a_bucket_that_was_made_anew() {
    let toml = PIPELINE.replace("breaker = false", "breaker = { failures = 3, wait = \"500ms\" }");
    let mill = Mill::still(TestServer::start().await, &toml, Calls::default().registry()).await;
    far_on(&mill.broker).await;
    let stop = CancellationToken::new();
    let member = async |name: &str| -> Arc<Breaker> {
        let broker = mill.server.connect().await;
        let metrics = Metrics::new(&mill.pipeline);
        let breakers = Breakers::load(&broker, &mill.pipeline, &metrics, name).await;
        let work = breakers.of("work");
        let running = stop.clone();
        tokio::spawn(async move { breakers.run(running).await });
        work
    };
    let (one, two) = (member("one").await, member("two").await);
    let comes_to = async |breaker: &Breaker, wanted: Pace| {
        eventually(async || (*breaker.pace().borrow() == wanted).then_some(())).await;
    };
    let opens = |breaker: &Breaker| {
        let down = Failure::retry(class::CONNECTION, "connection refused");
        for n in 0..3 {
            breaker.failed(&raw_event(&format!("e-{n}")), 1, Duration::ZERO, &down);
        }
    };
    opens(&one);
    comes_to(&two, Pace::Stopped).await;
    comes_to(&one, Pace::Probe).await;
    one.succeeded(None, Duration::ZERO);
    comes_to(&two, Pace::Full).await;
    bucket_made_anew(&mill.broker, &Topology::of(&mill.pipeline)).await;
    opens(&two);
    comes_to(&one, Pace::Stopped).await;
    stop.cancel();
}

#[tokio::test]
async fn a_job_whose_letters_were_in_a_stream_that_was_made_anew_touches_no_others() {
    let mill = Mill::still(TestServer::start().await, PIPELINE, Calls::default().registry()).await;
    let letter = Outgoing::new("shop.dlq.work.shop-out-first.1", "{}");
    mill.broker.publish(letter.header("Millstream-Stage", "work")).await.unwrap();
    let (filter, now) = (LetterFilter::default(), SystemTime::now());
    let mut job = Job::new(job::new_id('r', now), Kind::Redrive, filter, 9, "me@here", now);
    job.letters_created_ms = 5;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let claim = Claim::create(&jobs, job.clone(), "test").await.unwrap();
    let context = Context {
        broker: mill.broker.clone(),
        names: mill.names.clone(),
        targets: Targets::of(&mill.pipeline),
        metrics: None,
    };
    let progress = Progress::of(&claim);
    run::run(&context, claim, &progress, &CancellationToken::new()).await;
    let (ended, _) = jobs.get(&job.id).await.unwrap();
    assert_eq!((ended.state, ended.counts.redriven), (State::Failed, 0));
    assert!(ended.why.as_deref().unwrap_or_default().contains("made anew"), "{ended:?}");
    assert_eq!(mill.letters().await.len(), 1);
}

#[tokio::test]
async fn a_job_in_a_bucket_that_was_made_anew_is_carried_on_by_the_fleet() {
    let mut mill = Mill::with(PIPELINE, Calls::default().registry()).await;
    mill.event("e-1", "order.created", json!({ "reject": true })).await;
    eventually(async || (given_up(&mill).await.len() == 1).then_some(())).await;
    far_on(&mill.broker).await;
    bucket_made_anew(&mill.broker, &Topology::of(&mill.pipeline)).await;
    let last = mill.broker.stream_state("shop-dlq").await.unwrap().last_seq;
    let (filter, now) = (LetterFilter::default(), SystemTime::now());
    let job = Job::new(job::new_id('r', now), Kind::Redrive, filter, last, "me@here", now);
    let jobs = Jobs::new(&mill.broker, &mill.names);
    jobs.create(&job).await.unwrap().unwrap();
    let ended = eventually(async || {
        let (found, _) = jobs.get(&job.id).await.ok()?;
        (!found.is_open()).then_some(found)
    })
    .await;
    assert_eq!(ended.counts.redriven, 1, "{ended:?}");
    mill.drain().await;
}
