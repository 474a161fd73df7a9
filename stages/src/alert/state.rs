//! State: keys of an `alert` stage in its checkpoint, and the indices made when they are restored.

use serde::{Serialize, de::DeserializeOwned};

use super::{Alert, Known, group::Group, outbox::Outbox};
use crate::fingerprint::hash;

const GROUP_SLOT: &str = "g.slot.";
const KNOWN_SLOT: &str = "i.slot.";
const CHANNEL: &str = "channel.";
const SILENCE: &str = "silence.";
const TALLY: &str = "tally";

impl Alert {
    /// Restores one key of the state.
    pub(super) fn restore_key(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let unread =
            |error: serde_json::Error| format!("cannot read the state under \"{key}\": {error}");
        let unknown = || format!("no state of alert has the key \"{key}\"");
        let slot = |digits: &str| {
            digits.parse::<u32>().ok().filter(|slot| *slot < SLOTS_MAX).ok_or_else(unknown)
        };
        self.restored = true;
        if let Some(digits) = key.strip_prefix(GROUP_SLOT) {
            let Slot { id, held: group } = read::<Slot<Group>>(value).map_err(unread)?;
            self.group_slots.restore(slot(digits)?, id);
            self.ages.insert((group.born_ms, id));
            self.groups.insert(id, Box::new(group));
        } else if let Some(digits) = key.strip_prefix(KNOWN_SLOT) {
            let known: Known = read(value).map_err(unread)?;
            let id = hash(&[&known.incident.incident_id]);
            self.known_slots.restore(slot(digits)?, id);
            self.known_ages.insert((known.at_ms, id));
            self.known.insert(id, Box::new(known));
        } else if let Some(channel) = key.strip_prefix(CHANNEL) {
            // A channel that is no longer declared has no rate; what waited for it has nowhere to
            // go.
            if let Some(terms) = self.declared.get(channel) {
                self.outboxes
                    .insert(channel.to_owned(), Outbox::restored(terms, value).map_err(unread)?);
            } else {
                self.legacy.insert(key.to_owned());
            }
        } else if let Some(id) = key.strip_prefix(SILENCE) {
            // One that this version cannot read holds nothing back, and stops nothing else.
            if self.silences.restore(id, value).is_err() {
                self.legacy.insert(key.to_owned());
            }
        } else if key == TALLY {
            self.accounts.restore(value).map_err(unread)?;
        } else if key.starts_with("g.") {
            // A group of the version before: what it knew cannot be used, and is forgotten.
            self.legacy.insert(key.to_owned());
        } else {
            return Err(unknown());
        }
        Ok(())
    }

    /// Makes the indices of the restored groups and incidents.
    pub(super) fn index_restored(&mut self) {
        if !std::mem::take(&mut self.restored) {
            return;
        }
        let (mut keys, mut placed): (Vec<u64>, Vec<(u64, u64)>) = (Vec::new(), Vec::new());
        for (key, group) in &mut self.groups {
            // What a group has to say of an incident that nobody knows cannot be said.
            group.members.retain(|id, _| self.known.contains_key(id));
            group.read_legacy();
            keys.push(*key);
            placed.extend(group.members.keys().map(|id| (*id, *key)));
        }
        placed.sort_unstable();
        keys.sort_unstable();
        self.known.values_mut().for_each(|known| known.groups.clear());
        for (id, key) in placed {
            if let Some(known) = self.known.get_mut(&id) {
                known.groups.push(key);
            }
        }
        for (_, id) in &self.known_ages {
            let Some(known) = self.known.get(id) else { continue };
            if !known.incident.is_over() {
                self.inhibits.add(*id, &known.incident.labels);
                self.strays.push_back(*id);
            } else if known.groups.is_empty() {
                self.spent.insert(*id);
            }
        }
        for key in keys {
            if let Some(mut group) = self.groups.remove(&key) {
                self.unlist(key, &mut group);
                self.list(key, &mut group);
                self.groups.insert(key, group);
            }
        }
    }

    /// Puts the next restored incident into its groups by the options of now. Where those are the
    /// same, nothing changes.
    pub(super) fn place_stray(&mut self) {
        let Some(id) = self.strays.pop_front() else { return };
        let Some(known) = self.known.get(&id).filter(|known| !known.incident.is_over()) else {
            return;
        };
        let (targets, at_ms) = (self.targets(&known.incident), known.at_ms);
        self.reroute(id, targets, at_ms);
    }

    /// Takes the keys that changed, each with its new value.
    pub(super) fn stored_changes(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut taken = Vec::with_capacity(super::Reduce::dirty_len(self));
        let (groups, known, outboxes) = (&self.groups, &self.known, &self.outboxes);
        for (slot, id) in self.group_slots.take_dirty() {
            let group = id.and_then(|id| groups.get(&id).map(|held| written(&Slot { id, held })));
            taken.push((format!("{GROUP_SLOT}{slot}"), group));
        }
        for (slot, id) in self.known_slots.take_dirty() {
            taken.push((
                format!("{KNOWN_SLOT}{slot}"),
                id.and_then(|id| known.get(&id)).map(written),
            ));
        }
        let names = std::mem::take(&mut self.dirty_outboxes);
        taken.extend(
            names
                .iter()
                .map(|name| (format!("{CHANNEL}{name}"), outboxes.get(name).map(Outbox::stored))),
        );
        taken.extend(
            self.silences
                .take_dirty()
                .map(|(id, silence)| (format!("{SILENCE}{id}"), silence.map(written))),
        );
        taken.extend(self.accounts.take_dirty().map(|accounts| (TALLY.to_owned(), Some(accounts))));
        taken.extend(std::mem::take(&mut self.deleted).into_iter().map(|key| (key, None)));
        taken
    }
}

/// Bound of slot numbers: a stage never remembers so many things at once.
const SLOTS_MAX: u32 = 1_000_000;

/// A group with its key.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Slot<T> {
    id: u64,
    held: T,
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(value)
}

fn written<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is plain data")
}
