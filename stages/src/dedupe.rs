//! Kind `dedupe`: drops events whose key was seen within a window.
//!
//! One worker of the fleet runs the stage and its keys are part of the checkpoint. What passed
//! after the last checkpoint is emitted again after a crash, maybe in another order of the inputs:
//! the message id is made of the key and of when that was last seen before, so the server drops the
//! repeat, whichever of two equal events comes first this time.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    Build, Emission, Emits, Event, Failure, Input, Kind, Problem, Reduce, Tally, World,
    failure::class,
    jq::{Bounds, Filter, Stop},
    slots::Slots,
    text::excerpt,
    units::Period,
};

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "dedupe",
    about: "drops events whose key was seen within a window, exactly over the whole fleet",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(build),
    emits: Emits::Events,
    concurrency: 1,
    calls_out: false,
    checks_only: false,
    follows: &[],
    tallies: &[
        ("dedupe_passed_total", "Events that a dedupe stage passed on"),
        (
            "dedupe_duplicates_total",
            "Events that a dedupe stage dropped or gave up on, by what it did",
        ),
        ("dedupe_keys", "Keys that a dedupe stage remembers"),
        (
            "dedupe_keys_forgotten_total",
            "Keys forgotten before their window was over, to bound memory",
        ),
    ],
};

/// Keys of one page: as many as one stored key of the checkpoint holds, 3 KiB.
const PAGE_KEYS: usize = 128;

/// Key of the numbers in the checkpoint.
const TOTALS: &str = "totals";

/// Prefix of the pages in the checkpoint.
const PAGE: &str = "page.";

/// Time for which an expired key is remembered: longer than the server remembers message ids of a
/// reduce stage's results, so that no two windows of a key make the same id meanwhile.
const EXPIRED_KEPT_MS: u64 = 150_000;

/// Bytes of a key that a message quotes.
const KEY_BYTES_SHOWN: usize = 80;

/// The keys of a `dedupe` stage.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A jq filter over the whole event that gives what makes two events the same, such as
    /// `[.tenantId, .eventData.orderId]`; by default, the event's id. An event for which it gives
    /// null or nothing passes.
    key: Option<String>,
    /// Time a key is remembered, from the first event that had it; duplicates do not lengthen it.
    #[serde(default = "window")]
    window: Period,
    /// Action on an event whose key was seen: `drop` counts it, `letter` makes a dead letter of it.
    #[serde(default)]
    on_duplicate: OnDuplicate,
    /// Most keys remembered at once, each for about 60 bytes of memory; beyond, the oldest are
    /// forgotten and counted.
    #[serde(default = "keys_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    keys_max: u32,
}

fn window() -> Period {
    Period(std::time::Duration::from_secs(600))
}

fn keys_max() -> u32 {
    1_000_000
}

/// Action on an event whose key was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnDuplicate {
    /// Counts the event, which ends here.
    #[default]
    Drop,
    /// Makes it a dead letter of class `Duplicate`.
    Letter,
}

/// A `dedupe` stage.
struct Dedupe {
    key: Option<Filter>,
    window_ms: u64,
    on_duplicate: OnDuplicate,
    keys_max: usize,
    /// Time of the first event of each key within its window, by the key's hash.
    seen: HashMap<KeyHash, u64>,
    /// Pages by number, oldest first: the last one takes new keys.
    pages: BTreeMap<u64, Page>,
    slots: Slots,
    totals: Totals,
    totals_changed: bool,
}

/// First 128 bits of a key's SHA-256: keys are chosen by publishers, so a hash that can be made to
/// collide would let one drop another's events.
type KeyHash = u128;

/// Keys in the order in which they came.
#[derive(Debug, Default)]
struct Page {
    keys: Vec<(KeyHash, u64)>,
    /// Time of the newest of them.
    newest_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Totals {
    passed: u64,
    duplicates: u64,
    forgotten: u64,
}

fn build(options: &Value, _: &dyn World) -> Result<Box<dyn Reduce>, Vec<Problem>> {
    let options = Options::deserialize(options)
        .map_err(|error| vec![Problem::new(&[], error.to_string())])?;
    let mut problems = Vec::new();
    if options.window.0.is_zero() {
        let problem = Problem::new(&["window"], "a window of no time sees no duplicate");
        problems.push(problem.hint("write how long a key is remembered, such as \"10m\""));
    }
    if options.keys_max == 0 {
        problems.push(Problem::new(&["keys_max"], "at least one key has to be remembered"));
    }
    let key = options.key.map(|text| Filter::compile(&text)).transpose();
    let key = key.unwrap_or_else(|error| {
        let at = error.offset + 1;
        let problem =
            Problem::new(&["key"], format!("not a jq filter: {error} (at character {at})"));
        problems.push(problem.hint("a filter reads the whole event, such as '.eventData.orderId'"));
        None
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(Dedupe {
        key,
        window_ms: u64::try_from(options.window.0.as_millis()).unwrap_or(u64::MAX),
        on_duplicate: options.on_duplicate,
        keys_max: options.keys_max as usize,
        seen: HashMap::new(),
        pages: BTreeMap::new(),
        slots: Slots::default(),
        totals: Totals::default(),
        totals_changed: false,
    }))
}

impl Dedupe {
    /// Key of an event as text; `None` where it has none.
    fn key_of(&self, event: &Event) -> Result<Option<String>, Failure> {
        let Some(filter) = &self.key else { return Ok(Some(event.id.clone())) };
        let outputs =
            filter.outputs(event, 1, &Bounds::KEY, &Stop::default()).map_err(|error| {
                Failure::reject(class::CONDITION, format!("the key cannot be found: {error}"))
            })?;
        let key = outputs.first().map(|output| String::from_utf8_lossy(output).into_owned());
        Ok(key.filter(|key| key != "null"))
    }

    /// Remembers a key from `at_ms` on.
    fn remember(&mut self, hash: KeyHash, at_ms: u64) {
        self.seen.insert(hash, at_ms);
        let last = self.pages.last_key_value();
        let number = match last {
            Some((number, page)) if page.keys.len() < PAGE_KEYS => *number,
            Some((number, _)) => number + 1,
            None => 1,
        };
        let page = self.pages.entry(number).or_default();
        page.keys.push((hash, at_ms));
        page.newest_ms = page.newest_ms.max(at_ms);
        self.slots.touch(number);
        if self.seen.len() > self.keys_max {
            self.totals.forgotten += self.forget_oldest();
        }
    }

    /// Forgets the oldest page; the keys of it that were still remembered.
    fn forget_oldest(&mut self) -> u64 {
        let Some((number, page)) = self.pages.pop_first() else { return 0 };
        self.slots.release(number);
        let mut forgotten = 0;
        for (hash, at_ms) in page.keys {
            // One that came again after its window is remembered by a later page.
            if self.seen.get(&hash) == Some(&at_ms) {
                self.seen.remove(&hash);
                forgotten += 1;
            }
        }
        forgotten
    }
}

impl Reduce for Dedupe {
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        if key == TOTALS {
            self.totals =
                serde_json::from_slice(value).map_err(|error| format!("{key}: {error}"))?;
            return Ok(());
        }
        let slot = key.strip_prefix(PAGE).and_then(|slot| slot.parse().ok());
        let (Some(slot), Some((number, page))) = (slot, Page::read(value)) else {
            return Err(format!("{key}: not a page of keys"));
        };
        for (hash, at_ms) in &page.keys {
            let seen = self.seen.entry(*hash).or_default();
            *seen = (*seen).max(*at_ms);
        }
        self.slots.restore(slot, number);
        self.pages.insert(number, page);
        Ok(())
    }

    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure> {
        let event = input.event()?;
        let key = self.key_of(&event)?;
        self.totals_changed = true;
        let mut emission = Emission::pass(input, event);
        if let Some(key) = key {
            let hash = hash(&key);
            let before_ms = self.seen.get(&hash).copied();
            if before_ms
                .is_some_and(|first_ms| input.at_ms.saturating_sub(first_ms) < self.window_ms)
            {
                self.totals.duplicates += 1;
                return match self.on_duplicate {
                    OnDuplicate::Drop => Ok(()),
                    OnDuplicate::Letter => {
                        let key = excerpt(&key, KEY_BYTES_SHOWN);
                        let window = Period(std::time::Duration::from_millis(self.window_ms));
                        Err(Failure::reject(
                            class::DUPLICATE,
                            format!("an event with key {key} was seen within {window}"),
                        ))
                    }
                };
            }
            let before = before_ms.map_or_else(|| "first".to_owned(), |ms| ms.to_string());
            emission.id = format!("{hash:032x}.{before}");
            self.remember(hash, input.at_ms);
        }
        self.totals.passed += 1;
        out.push(emission);
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, _: &mut Vec<Emission>) {
        if self.next_timer_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.forget_oldest();
        }
    }

    fn next_timer_ms(&self) -> Option<u64> {
        let (_, oldest) = self.pages.first_key_value()?;
        Some(oldest.newest_ms.saturating_add(self.window_ms).saturating_add(EXPIRED_KEPT_MS))
    }

    fn tallies(&self) -> Vec<Tally> {
        let action = match self.on_duplicate {
            OnDuplicate::Drop => "dropped",
            OnDuplicate::Letter => "dead_lettered",
        };
        let tally = |name, value| Tally { name, labels: Vec::new(), value };
        vec![
            tally("dedupe_passed_total", self.totals.passed),
            Tally {
                name: "dedupe_duplicates_total",
                labels: vec![("action", action.to_owned())],
                value: self.totals.duplicates,
            },
            tally("dedupe_keys", self.seen.len() as u64),
            tally("dedupe_keys_forgotten_total", self.totals.forgotten),
        ]
    }

    fn dirty_len(&self) -> usize {
        self.slots.dirty_len() + usize::from(self.totals_changed)
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        let pages = &self.pages;
        let mut changed: Vec<_> = self
            .slots
            .take_dirty()
            .map(|(slot, number)| {
                let page = number.and_then(|number| Some((number, pages.get(&number)?)));
                (format!("{PAGE}{slot}"), page.map(|(number, page)| page.written(number)))
            })
            .collect();
        if std::mem::take(&mut self.totals_changed) {
            let totals = serde_json::to_vec(&self.totals).expect("totals are plain data");
            changed.push((TOTALS.to_owned(), Some(totals)));
        }
        changed
    }
}

impl Page {
    /// Stored form: the page's number, then each key's hash and time, all little-endian.
    fn written(&self, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.keys.len() * 24);
        out.extend(number.to_le_bytes());
        for (hash, at_ms) in &self.keys {
            out.extend(hash.to_le_bytes());
            out.extend(at_ms.to_le_bytes());
        }
        out
    }

    fn read(stored: &[u8]) -> Option<(u64, Self)> {
        let (number, rest) = stored.split_first_chunk()?;
        let mut page = Self::default();
        let mut chunks = rest.chunks_exact(24);
        for chunk in &mut chunks {
            let (hash, at_ms) = chunk.split_first_chunk()?;
            let at_ms = u64::from_le_bytes(at_ms.try_into().ok()?);
            page.keys.push((KeyHash::from_le_bytes(*hash), at_ms));
            page.newest_ms = page.newest_ms.max(at_ms);
        }
        chunks.remainder().is_empty().then_some((u64::from_le_bytes(*number), page))
    }
}

fn hash(key: &str) -> KeyHash {
    let digest = Sha256::digest(key.as_bytes());
    KeyHash::from_le_bytes(*digest.first_chunk().expect("a SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests;
