//! Subjects: the name of every stream, subject and consumer of a pipeline.
//!
//! Outside text becomes a subject token here.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use super::place::Place;
use crate::limits;

/// Names of one pipeline's objects in NATS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    pipeline: String,
    /// Names that stages had before, by those that they have.
    renamed: Arc<BTreeMap<String, Vec<String>>>,
}

impl Names {
    /// Names of the pipeline called `pipeline`.
    pub fn new(pipeline: &str) -> Self {
        Self { pipeline: pipeline.to_owned(), renamed: Arc::default() }
    }

    /// The same, of a pipeline whose stages had these names before.
    #[must_use]
    pub fn renamed(mut self, renamed: BTreeMap<String, Vec<String>>) -> Self {
        self.renamed = Arc::new(renamed);
        self
    }

    /// Names that a stage had before.
    pub fn before(&self, stage: &str) -> &[String] {
        self.renamed.get(stage).map_or(&[], Vec::as_slice)
    }

    /// Name of the pipeline.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Stream of what was published to a source.
    pub fn source_stream(&self, source: &str) -> String {
        format!("{}-in-{source}", self.pipeline)
    }

    /// Stream of a stage's results.
    pub fn out_stream(&self, stage: &str) -> String {
        format!("{}-out-{stage}", self.pipeline)
    }

    /// Subject of a result of `stage` of this type.
    pub fn out_subject(&self, stage: &str, event_type: &str) -> String {
        format!("{}.out.{stage}.{}", self.pipeline, tokens(event_type))
    }

    /// Subject filter for results of `stage` whose type matches a pattern of `types`, with NATS
    /// wildcards.
    pub fn out_filter(&self, stage: &str, pattern: &str) -> String {
        format!("{}.out.{stage}.{pattern}", self.pipeline)
    }

    /// Stream of failed attempts.
    pub fn failed_stream(&self) -> String {
        format!("{}-failed", self.pipeline)
    }

    /// Subject of the failed attempts, at `stage`, of the event that was first stored as `source`,
    /// and of others that share it: [`limits::FAILED_BUCKETS`] hold them all. The headers tell them
    /// apart.
    pub fn failed_subject(&self, stage: &str, source: &Place) -> String {
        format!("{}.failed.{stage}.{:03x}", self.pipeline, bucket(source))
    }

    /// Subject filter for the failed attempts of an event, and of those that share its subjects, at
    /// whatever stage: see [`Self::failed_subject`].
    pub fn failed_anywhere(&self, source: &Place) -> String {
        self.failed_subject("*", source)
    }

    /// Subject filter for the failed attempts of an event at `stage`, or at all, as versions before
    /// 2026-11-28 stored them: in the life of the event that is given, or in every.
    pub fn failed_before(
        &self,
        stage: Option<&str>,
        source: &Place,
        life: Option<&Place>,
    ) -> String {
        let life = life
            .map_or_else(|| "*".to_owned(), |life| format!("{}-{}", token(&life.stream), life.seq));
        let (stage, stream) = (stage.unwrap_or("*"), token(&source.stream));
        format!("{}.failed.{stage}.*.{stream}.{}.{life}", self.pipeline, source.seq)
    }

    /// Subject filter for every failed attempt at `stage`.
    pub fn failed_filter(&self, stage: &str) -> String {
        format!("{}.failed.{stage}.>", self.pipeline)
    }

    /// Subject of a finding of the monitor, by its code and what it is about. In the stream of
    /// failed attempts.
    pub fn finding_subject(&self, code: &str, about: &str) -> String {
        format!("{}.finding.{}.{}", self.pipeline, token(code), token(about))
    }

    /// Subject filter for every finding of the monitor.
    pub fn finding_filter(&self) -> String {
        format!("{}.finding.>", self.pipeline)
    }

    /// Stream of notifications to deliver.
    pub fn notify_stream(&self) -> String {
        format!("{}-notify", self.pipeline)
    }

    /// Subject of notifications for a channel.
    pub fn notify_subject(&self, channel: &str) -> String {
        format!("{}.notify.{channel}", self.pipeline)
    }

    /// Subject on which workers send each other what the browsers of a websocket channel are to be
    /// sent. No stream keeps it.
    pub fn live_subject(&self, channel: &str) -> String {
        format!("{}.live.{channel}", self.pipeline)
    }

    /// Stream of dead letters.
    pub fn dlq_stream(&self) -> String {
        format!("{}-dlq", self.pipeline)
    }

    /// Subject, the only one, of the dead letter of one life of an event at one stage.
    pub fn dlq_subject(&self, stage: &str, life: &Place) -> String {
        format!("{}.dlq.{stage}.{}.{}", self.pipeline, token(&life.stream), life.token())
    }

    /// Further subject of a letter, where another message claimed its own.
    pub fn dlq_beyond(letter_subject: &str, suffix: &str) -> String {
        format!("{letter_subject}-{suffix}")
    }

    /// Subject filter for the dead letters of `stage`, or of all.
    pub fn dlq_filter(&self, stage: Option<&str>) -> String {
        format!("{}.dlq.{}.*.*", self.pipeline, stage.unwrap_or("*"))
    }

    /// True if a subject of the dead-letter stream is that of a letter.
    pub fn is_dlq(&self, subject: &str) -> bool {
        let dots = |text: &str| text.bytes().filter(|byte| *byte == b'.').count();
        dots(subject) == dots(&self.pipeline) + 4
    }

    /// Subject filter for what is kept beside dead letters: in the same stream, and no letters.
    pub fn dlq_not_letters(&self) -> String {
        format!("{}.>", self.dlq_filter(None))
    }

    /// Subject of a dead letter as it was before it was edited, by the letter's own subject. No
    /// letter itself.
    pub fn dlq_original(&self, letter_subject: &str) -> String {
        format!("{letter_subject}.original")
    }

    /// Subject of the payload of a dead letter that is too large to hold it, by the letter's own
    /// subject. Payloads of edited letters have a token more.
    pub fn dlq_body(letter_subject: &str) -> String {
        format!("{letter_subject}.body")
    }

    /// Subject filter for what is kept beside a dead letter, by the letter's own subject.
    pub fn dlq_beside(letter_subject: &str) -> String {
        format!("{letter_subject}.>")
    }

    /// Stream of redriven and parked events.
    pub fn retry_stream(&self) -> String {
        format!("{}-retry", self.pipeline)
    }

    /// Subject on which an event comes back to one stage only.
    pub fn retry_subject(&self, stage: &str) -> String {
        format!("{}.retry.{stage}", self.pipeline)
    }

    /// Subject of quarantined events: suspects, run beside few others.
    pub fn quarantine_subject(&self, stage: &str) -> String {
        format!("{}.alone.{stage}", self.pipeline)
    }

    /// Stage that a subject of the retry stream is for, parked events apart: their schedules name
    /// their target.
    pub fn stage_of_retry<'a>(&self, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(&self.pipeline)?;
        rest.strip_prefix(".retry.").or_else(|| rest.strip_prefix(".alone."))
    }

    /// Stage, or channel, that a subject of a work queue is for: its [`Self::channel_stage`].
    pub fn stage_of_queue(&self, subject: &str) -> Option<String> {
        if let Some(stage) = self.stage_of_retry(subject) {
            return Some(stage.to_owned());
        }
        let channel = subject.strip_prefix(&self.pipeline)?.strip_prefix(".notify.")?;
        Some(Self::channel_stage(channel))
    }

    /// Channel of a [`Self::channel_stage`].
    pub fn channel_of_stage<'a>(&self, stage: &'a str) -> Option<&'a str> {
        stage.strip_prefix("notify-")
    }

    /// Subject of the schedule that holds a parked event; one per life of an event at a stage.
    pub fn parked_subject(&self, stage: &str, life: &Place) -> String {
        format!("{}.parked.{stage}-{}-{}", self.pipeline, token(&life.stream), life.token())
    }

    /// Subject filter for every parked event.
    pub fn parked_filter(&self) -> String {
        format!("{}.parked.*", self.pipeline)
    }

    /// Stage that a parked event is for, by its subject; `external` are streams that are not ours.
    ///
    /// A guess where a stage has a stream in its name: the schedule names its target.
    pub fn stage_of_parked<'a>(&self, subject: &'a str, external: &[String]) -> Option<&'a str> {
        let rest = subject.strip_prefix(&self.pipeline)?.strip_prefix(".parked.")?;
        let ours = format!("-{}-", self.pipeline);
        let theirs = external.iter().map(|stream| format!("-{}-", token(stream)));
        let ends = std::iter::once(ours).chain(theirs).filter_map(|stream| rest.find(&stream));
        Some(&rest[..ends.min()?])
    }

    /// Subject of the same parked event for another stage.
    pub fn parked_for(&self, subject: &str, from: &str, to: &str) -> Option<String> {
        let rest = subject.strip_prefix(&self.pipeline)?.strip_prefix(".parked.")?;
        let life = rest.strip_prefix(from)?.strip_prefix('-')?;
        Some(format!("{}.parked.{to}-{life}", self.pipeline))
    }

    /// Stage of a dead letter, by its subject.
    pub fn stage_of_dlq<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.pipeline)?.strip_prefix(".dlq.")?.split('.').next()
    }

    /// Stream of the server's advisories that it gave up on a message.
    pub fn advisories_stream(&self) -> String {
        format!("{}-advisories", self.pipeline)
    }

    /// Subject of those advisories for one stream's consumers.
    pub fn advisory_subject(&self, stream: &str) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.*")
    }

    /// Durable consumer by which a stage reads a stream.
    pub fn stage_consumer(&self, stage: &str) -> String {
        format!("{}-{stage}", self.pipeline)
    }

    /// Durable consumer by which a stage reads its quarantined events. (No stage has a `+` in its
    /// name.)
    pub fn quarantine_consumer(&self, stage: &str) -> String {
        format!("{}-{stage}+alone", self.pipeline)
    }

    /// Stage of a durable consumer, if it is one of ours.
    pub fn stage_of_consumer<'a>(&self, consumer: &'a str) -> Option<&'a str> {
        let stage = consumer.strip_prefix(&self.pipeline)?.strip_prefix('-')?;
        Some(stage.strip_suffix("+alone").unwrap_or(stage))
    }

    /// Durable consumer by which the dead-letter router reads the advisories.
    pub fn router_consumer(&self) -> String {
        format!("{}-router", self.pipeline)
    }

    /// Stage name under which a channel's deliveries are settled and dead-lettered.
    pub fn channel_stage(channel: &str) -> String {
        format!("notify-{channel}")
    }

    /// Lease of the worker that delivers notifications. (No stage has a name that begins with
    /// `notify-`.)
    pub const CHANNELS_LEASE: &str = "notify-channels";

    /// Lease of the worker that sweeps: looks for what the server gave up on unheard.
    pub const SWEEP_LEASE: &str = "keeper.sweep";

    /// Key-value bucket of checkpoints and leases.
    pub fn state_bucket(&self) -> String {
        format!("{}-state", self.pipeline)
    }

    /// Stream of the bucket [`Self::state_bucket`].
    pub fn state_stream(&self) -> String {
        format!("KV_{}", self.state_bucket())
    }

    /// Subject, in [`Self::state_stream`], of a key.
    pub fn state_subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.state_bucket())
    }

    /// Key of a subject of [`Self::state_stream`].
    pub fn state_key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix("$KV.")?.strip_prefix(&self.state_bucket())?.strip_prefix('.')
    }

    /// Prefix of the keys, in [`Self::state_bucket`], of a reduce stage's state.
    pub fn reduce_state(stage: &str) -> String {
        format!("{stage}.state.")
    }

    /// Key of a stage's circuit breaker in [`Self::state_bucket`].
    pub fn breaker_key(stage: &str) -> String {
        format!("breaker.{stage}")
    }

    /// Key of a job in [`Self::state_bucket`].
    pub fn job_key(job: &str) -> String {
        format!("job.{job}")
    }

    /// Key, in [`Self::state_bucket`], of what recovery has seen of a stage.
    pub fn recovery_key(stage: &str) -> String {
        format!("recovery.{stage}")
    }

    /// Key-value bucket of live workers.
    pub fn workers_bucket(&self) -> String {
        format!("{}-workers", self.pipeline)
    }
}

/// Bucket of a source: stable, since messages of older versions are found by it (FNV-1a, 64 bits).
fn bucket(source: &Place) -> u64 {
    let hash = source.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of this hash are the weaker ones.
    (hash ^ (hash >> 32)) % limits::FAILED_BUCKETS
}

/// Subject token of an outside text: what NATS gives a meaning is percent-encoded.
pub fn token(text: &str) -> String {
    if text.is_empty() {
        return "%".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '.' | '*' | '>' | '%' | '$' | ' ' => _ = write!(out, "%{:02X}", u32::from(character)),
            character if character.is_control() || character.is_whitespace() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    _ = write!(out, "%{byte:02X}");
                }
            }
            character => out.push(character),
        }
    }
    out
}

/// Subject tokens of a dotted name, such as an event type: its dots stay, each part is a [`token`].
pub fn tokens(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.split('.').all(|part| !part.is_empty() && part.bytes().all(plain)) {
        return name.to_owned();
    }
    name.split('.').map(token).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outside_text_cannot_change_a_subject() {
        assert_eq!(token("a.b*>c %"), "a%2Eb%2A%3Ec%20%25");
        assert_eq!(token("a\r\n"), "a%0D%0A");
        assert_eq!(tokens("order..created"), "order.%.created");
        assert_eq!(Names::new("shop").stage_of_consumer("shop-orders"), Some("orders"));
        assert_eq!(Names::new("shop").stage_of_consumer("shopping-orders"), None);
    }

    #[test]
    fn a_letter_and_a_parked_event_have_a_subject_for_each_life_and_error_events_share_some() {
        let names = Names::new("shop");
        let [old, one, two] = ["shop-out-a:7", "shop-out-a:7@1000", "shop-out-a:7@2000"]
            .map(|text| Place::parse(text).unwrap());
        assert_eq!(names.dlq_subject("work", &old), "shop.dlq.work.shop-out-a.7");
        assert_eq!(names.dlq_subject("work", &one), "shop.dlq.work.shop-out-a.7-1000");
        assert_eq!(names.parked_subject("work", &two), "shop.parked.work-shop-out-a-7-2000");
        let further = Names::dlq_beyond(&names.dlq_subject("work", &one), "0a");
        assert!(names.is_dlq(&names.dlq_subject("work", &one)) && names.is_dlq(&further));
        // Stable: a change would hide what is stored.
        assert_eq!(names.failed_subject("work", &one), "shop.failed.work.e44");
        assert_eq!(
            names.failed_before(Some("work"), &one, Some(&two)),
            "shop.failed.work.*.shop-out-a.7.shop-out-a-7"
        );
        assert_eq!(names.failed_before(None, &one, None), "shop.failed.*.*.shop-out-a.7.*");
    }

    #[test]
    fn sources_spread_over_all_buckets() {
        let mut counts = vec![0_u32; usize::try_from(limits::FAILED_BUCKETS).unwrap()];
        for n in 0..limits::FAILED_BUCKETS * 16 {
            let source = Place { stream: "shop-in-events".into(), seq: n, at_ms: 1_000 + n / 7 };
            counts[usize::try_from(bucket(&source)).unwrap()] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 0 && *most < 16 * 4, "between {least} and {most} of 16");
    }

    #[test]
    fn a_parked_event_tells_its_stage_and_can_be_one_of_another() {
        let names = Names::new("shop");
        let life = |stream: &str| Place { stream: stream.into(), seq: 7, at_ms: 1000 };
        let parked = names.parked_subject("orders-eu", &life("shop-out-pass"));
        assert_eq!(names.stage_of_parked(&parked, &[]), Some("orders-eu"));
        assert_eq!(
            names.parked_for(&parked, "orders-eu", "fulfil"),
            Some(names.parked_subject("fulfil", &life("shop-out-pass")))
        );
        let theirs = names.parked_subject("orders", &life("LEGACY"));
        assert_eq!(names.stage_of_parked(&theirs, &[]), None);
        assert_eq!(names.stage_of_parked(&theirs, &["LEGACY".to_owned()]), Some("orders"));
        let letter = names.dlq_subject("orders", &life("shop-out-pass"));
        assert_eq!(names.stage_of_dlq(&letter), Some("orders"));
    }

    proptest! {
        #[test]
        fn different_texts_are_different_tokens(a: String, b: String) {
            prop_assert_eq!(a == b, token(&a) == token(&b));
            prop_assert!(!token(&a).contains(['.', '*', '>', ' ', '\r', '\n', '\t']));
            prop_assert!(!token(&a).is_empty());
        }
    }
}
