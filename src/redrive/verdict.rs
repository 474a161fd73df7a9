//! Verdict: outcome of a letter of a canary, as the streams show it.

use millstream_stages::headers;

use super::{
    canary::{Fate, Probe},
    context::Context,
};
use crate::{
    broker::{AdminError, StoredMessage, get},
    dead_letter::{LetterRecord, store},
    limits,
    wire::{Names, Place, attempt_record::AttemptRecord},
};

/// Outcome of one letter of a canary; `None`: not known yet.
pub(super) async fn fate(
    context: &Context,
    probe: &Probe,
    failed_from: u64,
) -> Result<Option<Fate>, AdminError> {
    let Context { broker, names, .. } = context;
    let retry = names.retry_stream();
    // A failed attempt is reported before it is settled: so the settlement is looked at first.
    let settled = broker.message(&retry, probe.retry_seq).await?.is_none();
    let life = life_of(names, probe);
    if let Some(source) = Place::parse(&probe.source) {
        let (stage, origin) = (&probe.stage, (&source, &life));
        let failed = AttemptRecord::first_after(broker, names, stage, origin, failed_from).await?;
        if let Some(error) = failed {
            return Ok(Some(Fate::Failed(error_text(&error))));
        }
    }
    if !settled {
        return Ok(None);
    }
    if let Some(letter) = store::letter_of(broker, names, &probe.stage, &life).await? {
        let LetterRecord { error_class, error_message, .. } = LetterRecord::of(&letter);
        return Ok(Some(Fate::Failed(format!("{error_class}: {error_message}"))));
    }
    Ok(if waits(context, probe).await? { None } else { Some(Fate::Done) })
}

/// Life that a letter's event began when it was sent. Versions before 2026-11-28 did not name it:
/// it was the place of the message that they sent.
fn life_of(names: &Names, probe: &Probe) -> Place {
    let named = probe.life.as_deref().and_then(Place::parse);
    named.unwrap_or_else(|| Place {
        stream: names.retry_stream().into(),
        seq: probe.retry_seq,
        at_ms: 0,
    })
}

/// True if the event was given back unhandled, under another sequence: while a breaker is open, or
/// to run in quarantine.
async fn waits(context: &Context, probe: &Probe) -> Result<bool, AdminError> {
    let Context { broker, names, .. } = context;
    let retry = names.retry_stream();
    let life = life_of(names, probe);
    let parked = names.parked_subject(&probe.stage, &life);
    if broker.last_on_subject(&retry, &parked).await?.is_some() {
        return Ok(true);
    }
    for subject in [names.retry_subject(&probe.stage), names.quarantine_subject(&probe.stage)] {
        let mut from = probe.retry_seq + 1;
        for _ in 0..limits::CANARY_WALK_MAX {
            let Some(message) = broker.next_on_subject(&retry, &subject, from).await? else {
                break;
            };
            if life.may_be(get(&message.headers, headers::LIFE)) {
                return Ok(true);
            }
            from = message.seq + 1;
        }
    }
    Ok(false)
}

fn error_text(error: &StoredMessage) -> String {
    let body: serde_json::Value = serde_json::from_slice(&error.body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().map(headers::clean).unwrap_or_default();
    format!("{}: {}", text("errorCode"), text("message"))
}

/// Likely reason why letters that were sent to a stage have no outcome.
pub(super) async fn likely_cause(context: &Context, stage: &str) -> String {
    let Context { broker, names, .. } = context;
    let breaker =
        broker.kv_get(&names.state_bucket(), &Names::breaker_key(stage)).await.ok().flatten();
    let breaker: serde_json::Value =
        breaker.and_then(|(value, _)| serde_json::from_slice(&value).ok()).unwrap_or_default();
    if breaker["state"] == "open" {
        let why = breaker["reason"]
            .as_str()
            .map(|why| format!(" ({})", headers::clean(why)))
            .unwrap_or_default();
        return format!("the breaker of stage \"{stage}\" is open{why}");
    }
    match broker.consumer_state(&names.retry_stream(), &names.stage_consumer(stage)).await {
        Ok(state) if state.num_waiting == 0 && state.num_ack_pending == 0 => {
            format!("no worker reads stage \"{stage}\"; start one with `millstream run`")
        }
        Ok(_) => format!(
            "stage \"{stage}\" has not come to them; `millstream status` says how it is doing"
        ),
        Err(error) => error.to_string(),
    }
}
