//! Bounded: counters by label text from outside, in bounded number.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

/// Label value of the texts past the bound.
const OTHER: &str = "other";

/// Handles by the text of a label. The first `most` texts get one each; the rest share that of
/// `other`.
pub(super) struct Bounded<T> {
    known: RwLock<HashMap<Box<str>, T>>,
    most: usize,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
}

impl<T> Bounded<T> {
    /// No handles yet: `make` makes each when its text first comes.
    pub(super) fn new(most: usize, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self { known: RwLock::default(), most, make: Box::new(make) }
    }

    /// Returns `then` of the handle for `text`.
    pub(super) fn with<R>(&self, text: &str, then: impl FnOnce(&T) -> R) -> R {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let full = known.len() >= self.most;
        let handle = known.get(text).or_else(|| if full { known.get(OTHER) } else { None });
        if let Some(handle) = handle {
            return then(handle);
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let text = if known.len() < self.most || known.contains_key(text) { text } else { OTHER };
        then(known.entry(text.into()).or_insert_with(|| (self.make)(text)))
    }

    /// Returns `read` of every handle.
    pub(super) fn all<R>(&self, mut read: impl FnMut(&str, &T) -> R) -> Vec<R> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(text, handle)| read(text, handle)).collect()
    }
}
