//! Limits: pipelines on servers and in accounts that allow less than is declared.

use std::{collections::BTreeSet, sync::Arc};

use millstream::{
    broker::Outgoing,
    handlers::Registry,
    incidents::snapshot,
    topology::{Allowed, ApplyError, Topology, apply, diff},
};
use serde_json::json;

use crate::support::{Mill, TestServer, bucket, eventually, failure, pipeline};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [stage.first]
    kind = "handle"
    inputs = ["source.events"]
    handler = { jq = "." }
    [stage.second]
    kind = "handle"
    inputs = ["first"]
    handler = { jq = "." }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["*.failed", "source.errors"]
    threshold = 1
"#;

/// Server whose clients are in an account with these limits.
async fn account(limits: &str) -> TestServer {
    TestServer::configured(&format!(
        "accounts {{ A {{ jetstream {{ {limits} }}, users: [{{ user: u, password: p }}] }} }}\n\
         no_auth_user: u\n"
    ))
    .await
}

#[tokio::test]
async fn what_the_server_limits_is_lowered_once_and_said() {
    let server = TestServer::configured(
        "jetstream { limits { duplicate_window: \"1m\", max_ack_pending: 1000 } }\n",
    )
    .await;
    let mill = Mill::still(server, PIPELINE, Registry::new()).await;
    let plan = diff(&Topology::of(&mill.pipeline), &mill.broker).await.unwrap();
    assert_eq!(plan.to_string(), "", "what was lowered is no difference");
    for note in [
        "stream \"shop-dlq\": duplicate_window is 1m, the most that the server allows, not 2m",
        "consumer \"shop-second\" on stream \"shop-out-first\": max_ack_pending is 1000, the most that \
         the server allows, not 10000",
    ] {
        assert!(plan.notes.iter().any(|it| it == note), "{:#?}", plan.notes);
    }
}

#[tokio::test]
async fn an_account_that_requires_max_bytes_lends_each_stream_a_share() {
    let server = account("max_file: 1G, max_mem: 64M, max_bytes_required: true").await;
    let mut mill = Mill::still(server, PIPELINE, Registry::new()).await;
    let plan = diff(&Topology::of(&mill.pipeline), &mill.broker).await.unwrap();
    assert_eq!(plan.to_string(), "");
    assert!(plan.notes.iter().any(|note| note.contains("stream \"shop-retry\": max_bytes is")));
    mill.work().await;
    mill.event("e-1", "order.created", json!({})).await;
    mill.idle("second").await;
    mill.drain().await;

    // A limit of one's own takes the place of what was lent.
    let toml =
        format!("{PIPELINE}\n[storage]\nmax_bytes = \"16MiB\"\nretry_max_bytes = \"32MiB\"\n");
    let told = pipeline(&toml, mill.server.server.url());
    let topology = Topology::of(&told);
    let plan = diff(&topology, &mill.broker).await.unwrap();
    apply(&plan, &mill.broker, Allowed::default()).await.unwrap();
    let after = diff(&topology, &mill.broker).await.unwrap();
    assert!(after.to_string().is_empty() && after.notes.is_empty(), "{after} {:?}", after.notes);
    let edge = mill.broker.find_stream("shop-out-first").await.unwrap().unwrap();
    assert_eq!((edge.max_bytes, edge.keeps_oldest), (Some(16 << 20), true));
}

#[tokio::test]
async fn what_an_account_has_no_room_for_is_said_at_once_with_its_keys() {
    let server = account("max_file: 8M, max_mem: 8M, max_streams: 5").await;
    let broker = server.connect().await;
    let toml = format!("{PIPELINE}\n[storage]\ndlq_max_bytes = \"64MiB\"\n");
    let pipeline = pipeline(&toml, server.server.url());
    let plan = diff(&Topology::of(&pipeline), &broker).await.unwrap();
    let error = failure(apply(&plan, &broker, Allowed::default()).await);
    assert!(matches!(error, ApplyError::Refused { .. }), "{error:?}");
    let said = error.to_string();
    for what in ["the account allows 5 streams and has 0", "lower dlq_max_bytes in [storage]"] {
        assert!(said.contains(what), "{said}");
    }
    assert!(broker.streams_of("shop").await.unwrap().is_empty(), "nothing was made");
}

#[tokio::test]
async fn a_checkpoint_larger_than_a_batch_of_the_server_is_written_all_the_same() {
    let server = TestServer::configured("jetstream { limits { batch { max_msgs: 10 } } }\n").await;
    let mut mill = Mill::still(server, PIPELINE, Registry::new()).await;
    const ERRORS: usize = 300;
    for n in 0..ERRORS {
        let error = json!({
            "errorCode": format!("C{n}"), "severity": "high", "serviceName": "s", "message": "m",
        });
        mill.broker.publish(Outgoing::new("errors.x", error.to_string())).await.unwrap();
    }
    mill.work().await;
    let codes = async |mill: &Mill| -> BTreeSet<String> {
        let open = snapshot::open(&mill.broker, &Arc::clone(&mill.pipeline)).await.unwrap();
        open.into_iter().map(|(_, incident)| incident.code).collect()
    };
    eventually(async || (codes(&mill).await.len() == ERRORS).then_some(())).await;
    mill.drain().await;
    // Whoever takes over reads the same, and goes on.
    mill.work().await;
    let error =
        json!({ "errorCode": "last", "severity": "high", "serviceName": "s", "message": "m" });
    mill.broker.publish(Outgoing::new("errors.x", error.to_string())).await.unwrap();
    eventually(async || (codes(&mill).await.len() == ERRORS + 1).then_some(())).await;
    mill.drain().await;
    let packed = mill.broker.kv_entries("shop-state", "errors.offsets.redo.").await.unwrap();
    assert!(packed.is_empty(), "what is written is not kept twice");
}

#[tokio::test]
async fn a_packed_checkpoint_whose_writer_died_is_finished_and_overwrites_nothing_newer() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&bucket("b")).await.unwrap();
    for key in ["old", "gone", "later"] {
        broker.kv_put("b", key, "before").await.unwrap();
    }
    let packed = [
        json!({ "Text": ["old", "after"] }),
        json!({ "Bytes": ["new", [0, 255]] }),
        json!({ "Gone": "gone" }),
        json!({ "Text": ["later", "overtaken"] }),
    ];
    let lines: Vec<String> = packed.iter().map(ToString::to_string).collect();
    broker.kv_put("b", "s.offsets.redo.0", lines.join("\n")).await.unwrap();
    broker.kv_put("b", "later", "kept").await.unwrap();
    for _ in 0..2 {
        broker.redo("b", "s.offsets").await.unwrap();
        let entries = broker.kv_entries("b", "").await.unwrap();
        let shown: Vec<(&str, &[u8])> =
            entries.iter().map(|(key, value, _)| (key.as_str(), value.as_ref())).collect();
        let is: [(&str, &[u8]); 3] = [("later", b"kept"), ("new", &[0, 255]), ("old", b"after")];
        assert_eq!(shown, is);
    }
}
