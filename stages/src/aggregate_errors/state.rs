//! State: keys of `aggregate-errors` in its checkpoint: `page.<n>`, a few cells each, and `totals`.

use super::{
    AggregateErrors,
    cell::{CELLS_PER_PAGE, Cell},
    options::FINGERPRINTS_MAX,
    place,
};

const TOTALS: &str = "totals";
const PAGE: &str = "page.";
/// Prefixes of the keys of the version before slots, whose counts do not combine with today's.
const LEGACY: [&str; 2] = ["fp.", "forgotten"];
/// Legacy keys deleted in one commit, which has room for more.
const LEGACY_PER_COMMIT: usize = 500;

impl AggregateErrors {
    /// Restores one key of the state.
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

    /// Number of legacy keys that the next commit deletes.
    pub(super) fn legacy_due(&self) -> usize {
        self.legacy.len().min(LEGACY_PER_COMMIT)
    }

    /// Takes the keys changed since the last call, each with its value, or `None` to delete it.
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
