//! Silences: notifications that nobody wants for a while, copied from the keys that people write.

use std::collections::{BTreeMap, BTreeSet};

use crate::operator::Silence;

/// Most silences at once.
const SILENCES_MAX: usize = 1000;
/// Most ended silences forgotten in one step: each is a key of the state.
pub(super) const EXPIRED_AT_ONCE_MAX: usize = 20;
/// Longest id of a silence: it is part of a key.
const ID_BYTES_MAX: usize = 128;

/// Silences that have not ended.
#[derive(Debug, Default)]
pub(super) struct Silences {
    all: BTreeMap<String, Silence>,
    ends: BTreeSet<(u64, String)>,
    dirty: BTreeSet<String>,
}

impl Silences {
    /// Applies the value that someone wrote under the key of this id; an empty body removes the
    /// silence.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed.
    pub(super) fn apply(&mut self, id: &str, body: &[u8], now_ms: u64) -> Result<(), String> {
        if id.is_empty()
            || id.len() > ID_BYTES_MAX
            || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            return Err(format!(
                "\"{}\" is not the id of a silence",
                crate::text::excerpt(id, ID_BYTES_MAX)
            ));
        }
        if body.is_empty() {
            self.remove(id);
            return Ok(());
        }
        let silence: Silence =
            serde_json::from_slice(body).map_err(|error| format!("not a silence: {error}"))?;
        self.expire(now_ms, EXPIRED_AT_ONCE_MAX);
        if end_ms(&silence) <= now_ms {
            self.remove(id);
        } else if self.all.len() >= SILENCES_MAX && !self.all.contains_key(id) {
            return Err(format!("there are {SILENCES_MAX} silences: remove one first"));
        } else {
            self.put(id, silence);
            self.dirty.insert(id.to_owned());
        }
        Ok(())
    }

    /// Restores a stored silence.
    pub(super) fn restore(&mut self, id: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        self.put(id, serde_json::from_slice(value)?);
        Ok(())
    }

    /// Forgets silences that have ended, at most so many.
    pub(super) fn expire(&mut self, now_ms: u64, most: usize) {
        for _ in 0..most {
            match self.ends.first() {
                Some((end, id)) if *end <= now_ms => self.remove(&id.clone()),
                _ => return,
            }
        }
    }

    /// Time of the next end.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Returns a silence that holds for these labels.
    pub(super) fn of(&self, labels: &BTreeMap<String, String>, now_ms: u64) -> Option<&Silence> {
        self.all
            .values()
            .find(|silence| silence.holds_at(now_ms) && silence.matchers.match_all(labels))
    }

    /// Number of silences that hold.
    pub(super) fn active(&self, now_ms: u64) -> usize {
        self.all.values().filter(|silence| silence.holds_at(now_ms)).count()
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn take_dirty(&mut self) -> impl Iterator<Item = (String, Option<&Silence>)> {
        std::mem::take(&mut self.dirty).into_iter().map(|id| {
            let silence = self.all.get(&id);
            (id, silence)
        })
    }

    fn put(&mut self, id: &str, silence: Silence) {
        let end = end_ms(&silence);
        if let Some(before) = self.all.insert(id.to_owned(), silence) {
            self.ends.remove(&(end_ms(&before), id.to_owned()));
        }
        self.ends.insert((end, id.to_owned()));
    }

    fn remove(&mut self, id: &str) {
        if let Some(silence) = self.all.remove(id) {
            self.ends.remove(&(end_ms(&silence), id.to_owned()));
            self.dirty.insert(id.to_owned());
        }
    }
}

/// End of a silence, in milliseconds since 1970, rounded up.
fn end_ms(silence: &Silence) -> u64 {
    u64::try_from(silence.ends_at.as_nanosecond().div_euclid(1_000_000) + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::timestamp;

    fn silence(from: u64, to: u64) -> Vec<u8> {
        let silence = Silence {
            id: "s".to_owned(),
            matchers: crate::matcher::Matchers(vec!["code=X".parse().unwrap()]),
            by: "ann".to_owned(),
            reason: "known".to_owned(),
            made_at: timestamp(0),
            starts_at: timestamp(from),
            ends_at: timestamp(to),
        };
        serde_json::to_vec(&silence).unwrap()
    }

    #[test]
    fn a_silence_holds_from_its_beginning_to_its_end_or_its_removal() {
        let (mut silences, x) =
            (Silences::default(), BTreeMap::from([("code".to_owned(), "X".to_owned())]));
        silences.apply("a", &silence(10, 20), 0).unwrap();
        let held: Vec<bool> =
            [9, 10, 19, 20].iter().map(|at| silences.of(&x, *at).is_some()).collect();
        assert_eq!(held, [false, true, true, false]);
        assert!(silences.of(&BTreeMap::new(), 15).is_none());
        silences.expire(20, 9);
        assert_eq!(silences.all.len(), 1, "it ends a little later in the accounts than in effect");
        silences.expire(21, 9);
        assert_eq!((silences.all.len(), silences.next_end_ms()), (0, None));
        assert_eq!(
            silences.take_dirty().map(|(id, left)| (id, left.is_some())).collect::<Vec<_>>(),
            [("a".to_owned(), false)]
        );
        silences.apply("b", &silence(10, 20), 0).unwrap();
        silences.apply("b", b"", 0).unwrap();
        assert_eq!((silences.all.len(), silences.ends.len()), (0, 0));
    }

    #[test]
    fn silences_are_bounded_and_what_is_none_is_refused() {
        let mut silences = Silences::default();
        for n in 0..SILENCES_MAX {
            silences.apply(&format!("s{n}"), &silence(0, 20 + n as u64), 0).unwrap();
        }
        assert!(silences.apply("more", &silence(0, 50), 0).unwrap_err().contains("1000 silences"));
        silences.apply("s1", &silence(0, 500), 0).unwrap();
        silences.apply("more", &silence(0, 50), 21).unwrap();
        assert_eq!(silences.all.len(), SILENCES_MAX);
        for (id, body) in [("a.b", silence(0, 1)), ("", silence(0, 1)), ("a", b"{}".to_vec())] {
            assert!(silences.apply(id, &body, 0).is_err(), "{id}");
        }
    }
}
