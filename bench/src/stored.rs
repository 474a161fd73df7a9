//! Stored: dead letters in any number, as the engine writes them.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use millstream::{
    broker::{Expects, Headers, Outgoing},
    limits,
    stages::headers,
    wire::{Names, Place, rfc3339},
};

use crate::shop::{Shop, event};

/// Stores letters of events whose ids begin with `id`.
pub(crate) async fn store(shop: &Shop, count: u64, id: &str) -> Result<()> {
    let (names, now) = (shop.pipeline.names(), SystemTime::now());
    let letters = stream::iter(0..count).map(Ok);
    letters
        .try_for_each_concurrent(limits::PUBLISH_WINDOW, |n| {
            let letter = letter(&names, n, count, now, id);
            async move { shop.broker.publish(letter).await.map(drop) }
        })
        .await?;
    Ok(())
}

/// A letter as the engine writes it; a hundred sorts of failure, over the last 24 hours.
fn letter(names: &Names, n: u64, of: u64, now: SystemTime, id: &str) -> Outgoing {
    let sort = n * n % 101;
    let dead_at =
        rfc3339(now - Duration::from_secs(86_400) + Duration::from_secs(86_400 * n / of.max(1)));
    let mut all = Headers::new();
    for (name, value) in [
        (headers::EVENT_ID, format!("{id}-77aa-7bbb-8ccc-{n:012x}")),
        (
            headers::EVENT_TYPE,
            format!("order.{}", ["created", "paid", "shipped"][(n % 3) as usize]),
        ),
        (headers::ENVELOPE, "domain".to_owned()),
        (headers::TENANT, format!("tenant-{}", n % 1000)),
        (headers::STAGE, "work".to_owned()),
        (headers::REASON, if sort < 80 { "exhausted" } else { "rejected" }.to_owned()),
        (
            headers::ERROR_CLASS,
            if sort < 80 { "TimeoutError" } else { "ValidationError" }.to_owned(),
        ),
        (headers::ERROR_MESSAGE, format!("service {sort} did not answer within 5 s")),
        (headers::FINGERPRINT, format!("{:016x}", (sort + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        (headers::ATTEMPTS, "5".to_owned()),
        (headers::FIRST_FAILED_AT, dead_at.clone()),
        (headers::DEAD_AT, dead_at),
        (headers::SOURCE, format!("{}:{}", names.source_stream("events"), n + 1)),
        (headers::SOURCE_SUBJECT, "events.order".to_owned()),
        (headers::REDRIVES, "0".to_owned()),
        (headers::TRACE_ID, format!("{n:032x}")),
        (headers::TRACEPARENT, format!("00-{n:032x}-{n:016x}-00")),
        (headers::CONFIG, "0123456789ab".to_owned()),
    ] {
        all.insert(name, value);
    }
    let life = Place { stream: id.into(), seq: n + 1, at_ms: 0 };
    let subject = names.dlq_subject("work", &life);
    Outgoing { subject, headers: all, body: event(n).into(), expects: Expects::Anything }
}
