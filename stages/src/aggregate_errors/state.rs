//! State: the keys of `aggregate-errors` in its checkpoint: `page.<n>`, a few cells each, and
//! `totals`.

use serde::{Deserialize, Serialize};

use super::{AggregateErrors, cell::Cell, options::FINGERPRINTS_MAX, place};
use crate::incident::Change;

const TOTALS: &str = "totals";
const PAGE: &str = "page.";
/// Cells of a page. In a flood every page changes between two commits, and few large keys are
/// cheaper than many small ones; at other times one cell changes, and what is written in vain are a
/// few KiB.
pub(super) const CELLS_PER_PAGE: u32 = 8;
/// Keys of the version before slots. It counted apart from everything that is known now.
const LEGACY: [&str; 2] = ["fp.", "forgotten"];
/// So many of them are deleted in one commit, which has room for more.
const LEGACY_PER_COMMIT: usize = 500;

/// What was counted ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Errors: as many as were on the streams and were error events.
    #[serde(rename = "n")]
    pub(super) errors: u64,
    /// What was told, in the order of [`Change::ALL`].
    #[serde(rename = "e")]
    told: [u64; Change::ALL.len()],
    #[serde(rename = "f")]
    pub(super) fingerprints_forgotten: u64,
    /// The errors of forgotten fingerprints.
    #[serde(rename = "x")]
    pub(super) errors_forgotten: u64,
}

impl Totals {
    pub(super) const fn told(&mut self, change: Change) {
        self.told[change as usize] += 1;
    }

    pub(super) const fn times_told(&self, change: Change) -> u64 {
        self.told[change as usize]
    }

    /// Notes that a fingerprint with so many errors was forgotten.
    pub(super) const fn forgot(&mut self, errors: u64) {
        self.fingerprints_forgotten += 1;
        self.errors_forgotten += errors;
    }
}

impl AggregateErrors {
    /// Puts back one key of the state.
    pub(super) fn restored(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let unread =
            |error: serde_json::Error| format!("cannot read the state under \"{key}\": {error}");
        if key == TOTALS {
            self.totals = serde_json::from_slice(value).map_err(unread)?;
            return Ok(());
        }
        if LEGACY.iter().any(|legacy| key.starts_with(legacy)) {
            self.legacy.push(key.to_owned());
            return Ok(());
        }
        let page = key.strip_prefix(PAGE).and_then(|number| number.parse::<u32>().ok());
        let page = page.filter(|page| (*page as usize) < FINGERPRINTS_MAX);
        let page =
            page.ok_or_else(|| format!("no state of aggregate-errors has the key \"{key}\""))?;
        let cells: Vec<Cell> = serde_json::from_slice(value).map_err(unread)?;
        if cells.len() > CELLS_PER_PAGE as usize {
            return Err(format!(
                "\"{key}\" holds {} fingerprints, more than {CELLS_PER_PAGE}",
                cells.len()
            ));
        }
        for (slot, mut cell) in (page * CELLS_PER_PAGE..).zip(cells) {
            cell.rule = self.rules.number(&cell.about());
            let id = cell.key;
            self.order.add(place(&cell, &self.rules), id);
            self.slots.restore(slot, id);
            self.cells.insert(id, cell);
        }
        Ok(())
    }

    /// How many keys of the earlier version the next commit deletes.
    pub(super) fn legacy_due(&self) -> usize {
        self.legacy.len().min(LEGACY_PER_COMMIT)
    }

    /// Takes what changed since it was last taken.
    pub(super) fn changes(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        let cells = &self.cells;
        let write = |ids: Vec<u64>| {
            let page: Vec<&Cell> = ids.iter().filter_map(|id| cells.get(id)).collect();
            (!page.is_empty()).then(|| serde_json::to_vec(&page).expect("cells are plain data"))
        };
        let pages = self.slots.take_pages();
        let mut taken: Vec<_> =
            pages.map(|(page, ids)| (format!("{PAGE}{page}"), write(ids))).collect();
        if std::mem::take(&mut self.totals_dirty) {
            let value = serde_json::to_vec(&self.totals).expect("totals are plain data");
            taken.push((TOTALS.to_owned(), Some(value)));
        }
        let kept = self.legacy.len() - self.legacy_due();
        taken.extend(self.legacy.drain(kept..).map(|key| (key, None)));
        taken
    }
}
