//! Slots: keys under which a reduce stage stores its things, reused when a thing is forgotten.
//!
//! A key that is deleted leaves a mark in its bucket for ever, so a key for each fingerprint ever
//! seen would grow without end. With slots the bucket holds as many keys as there were things at
//! once; with pages, of which each key holds several, even fewer, so that in a flood one commit
//! takes in many changes.

use std::collections::{BTreeSet, HashMap};

/// Slots of a stage's things, and the pages of slots to be written.
#[derive(Debug)]
pub(crate) struct Slots {
    per_page: u32,
    of: HashMap<u64, u32>,
    owners: Vec<Option<u64>>,
    free: BTreeSet<u32>,
    /// Pages to be written.
    dirty: BTreeSet<u32>,
}

impl Default for Slots {
    /// Returns slots of which each is a page.
    fn default() -> Self {
        Self::in_pages(1)
    }
}

impl Slots {
    /// Returns slots of which so many are a page: one key.
    pub(crate) fn in_pages(per_page: u32) -> Self {
        Self {
            per_page,
            of: HashMap::new(),
            owners: Vec::new(),
            free: BTreeSet::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Notes that a thing changed. One without a slot is given the lowest that is free.
    pub(crate) fn touch(&mut self, id: u64) {
        let slot = match self.of.get(&id) {
            Some(slot) => *slot,
            None => {
                let slot = self.free.pop_first().unwrap_or_else(|| self.grow());
                self.own(slot, id);
                slot
            }
        };
        self.dirty.insert(slot / self.per_page);
    }

    /// Notes that a thing is gone: its slot may be given to another.
    pub(crate) fn release(&mut self, id: u64) {
        if let Some(slot) = self.of.remove(&id) {
            self.owners[slot as usize] = None;
            self.free.insert(slot);
            self.dirty.insert(slot / self.per_page);
        }
    }

    /// Puts a thing back into the slot that it was stored in.
    pub(crate) fn restore(&mut self, slot: u32, id: u64) {
        while self.owners.len() <= slot as usize {
            let added = self.grow();
            self.free.insert(added);
        }
        self.free.remove(&slot);
        self.own(slot, id);
    }

    /// Number of pages to be written.
    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the pages to write, each with the things in it now, which may be none.
    pub(crate) fn take_pages(&mut self) -> impl Iterator<Item = (u32, Vec<u64>)> {
        let per_page = self.per_page as usize;
        std::mem::take(&mut self.dirty).into_iter().map(move |page| {
            let from = page as usize * per_page;
            let to = self.owners.len().min(from + per_page);
            (page, self.owners[from..to].iter().flatten().copied().collect())
        })
    }

    /// Takes the slots to write where each is a page, with the thing in it now, or `None` where it
    /// is empty.
    pub(crate) fn take_dirty(&mut self) -> impl Iterator<Item = (u32, Option<u64>)> {
        self.take_pages().map(|(slot, things)| (slot, things.first().copied()))
    }

    fn own(&mut self, slot: u32, id: u64) {
        self.owners[slot as usize] = Some(id);
        self.of.insert(id, slot);
    }

    fn grow(&mut self) -> u32 {
        self.owners.push(None);
        u32::try_from(self.owners.len() - 1)
            .expect("what a stage remembers at once is bounded far below")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_and_survives_a_restore() {
        let mut slots = Slots::default();
        for id in [10, 11, 12] {
            slots.touch(id);
        }
        slots.release(11);
        assert_eq!(
            slots.take_dirty().collect::<Vec<_>>(),
            [(0, Some(10)), (1, None), (2, Some(12))]
        );
        slots.touch(13);
        assert_eq!(
            (slots.dirty_len(), slots.take_dirty().collect::<Vec<_>>()),
            (1, vec![(1, Some(13))])
        );
        let mut restored = Slots::default();
        restored.restore(2, 12);
        restored.touch(14);
        restored.touch(12);
        assert_eq!(restored.take_dirty().collect::<Vec<_>>(), [(0, Some(14)), (2, Some(12))]);
    }

    #[test]
    fn a_page_holds_what_is_in_its_slots() {
        let mut slots = Slots::in_pages(2);
        for id in [10, 11, 12] {
            slots.touch(id);
        }
        assert_eq!(
            (slots.dirty_len(), slots.take_pages().collect::<Vec<_>>()),
            (2, vec![(0, vec![10, 11]), (1, vec![12])])
        );
        slots.release(10);
        slots.release(12);
        assert_eq!(slots.take_pages().collect::<Vec<_>>(), [(0, vec![11]), (1, vec![])]);
    }
}
