//! Arrive: a change of an incident reaches the groups of the routes that take it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Alert, Known,
    group::{Group, MEMBERS_MAX, Member},
    log::{GROUP_CHANNELS_MAX, Log},
};
use crate::{
    Emission,
    channel_names::CHANNELS_MAX,
    fingerprint::{hash, hex},
    incident::{Change, Incident, Severity},
    notification::Hold,
};

/// Group that an incident belongs to, by its route, channels and labels.
pub(super) struct Target {
    route: u64,
    channels: BTreeSet<String>,
    by: BTreeMap<String, String>,
}

impl Target {
    fn is(&self, group: &Group) -> bool {
        (self.route, &self.channels, &self.by) == (group.route, &group.channels, &group.by)
    }

    fn key(&self, shard: u32) -> u64 {
        let (route, shard) = (hex(self.route), shard.to_string());
        let labels = self.by.iter().flat_map(|(label, value)| [label.as_str(), value.as_str()]);
        let channels = self.channels.iter().map(String::as_str);
        hash(
            &[route.as_str(), &shard]
                .into_iter()
                .chain(labels)
                .chain(["|"])
                .chain(channels)
                .collect::<Vec<_>>(),
        )
    }

    fn group(self, shard: u32, life: u64, born_ms: u64) -> Group {
        Group {
            route: self.route,
            by: self.by,
            channels: self.channels,
            also: BTreeSet::new(),
            shard,
            life,
            born_ms,
            number: 0,
            log: Log::default(),
            legacy_told_ms: None,
            news_ms: None,
            since_ms: None,
            steps: 0,
            members: BTreeMap::new(),
            held: BTreeMap::new(),
            checked_ms: 0,
            listed_ms: None,
        }
    }
}

impl Alert {
    /// Takes in a change of an incident.
    pub(super) fn arrive(
        &mut self,
        incident: Incident,
        at_ms: u64,
        step: usize,
        out: &mut Vec<Emission>,
    ) {
        let id = hash(&[&incident.incident_id]);
        let change = incident.event;
        if change == Change::Acknowledged {
            return self.acknowledge(id, incident);
        }
        let acked = match self.known.get(&id) {
            // Of one that was forgotten, the incident itself tells.
            None => change == Change::Updated && incident.acknowledged.is_some(),
            Some(known) => change == Change::Updated && known.acked,
        };
        let (severity, errors, over) = (incident.severity, incident.new_errors, incident.is_over());
        let targets = self.targets(&incident);
        for target in targets.iter().filter(|target| target.channels.is_empty()) {
            self.hold_unwanted(target, &incident);
        }
        if over {
            self.hold_unknown_end(id, &incident, &targets);
            if self.known.get(&id).is_none_or(|known| known.groups.is_empty()) {
                return self.forget(id);
            }
        }
        self.know(id, incident, acked, at_ms);
        if !over {
            self.reroute(id, targets, at_ms);
        }
        let keys = self.known.get(&id).map(|known| known.groups.clone()).unwrap_or_default();
        let now_ms = self.now_ms;
        for key in &keys {
            self.change(*key, |group| {
                if let Some(member) =
                    group.members.get_mut(&id).filter(|member| over || !member.stale)
                {
                    member.note(change, severity, errors);
                    member.acked = acked;
                    group.news_ms.get_or_insert(now_ms);
                }
            });
        }
        for key in keys {
            let due = self.groups.get(&key).and_then(|group| group.listed_ms);
            if due.is_some_and(|due| due <= self.now_ms) && self.has_room(step, super::FLUSH_KEYS) {
                self.flush(key, out);
            }
        }
    }

    /// Acknowledges an incident; one that is not known needs nothing.
    fn acknowledge(&mut self, id: u64, incident: Incident) {
        let Some(known) = self.known.get_mut(&id).filter(|known| !known.incident.is_over()) else {
            return;
        };
        known.acked = true;
        known.incident.acknowledged = incident.acknowledged;
        self.known_slots.touch(id);
        for key in known.groups.clone() {
            self.change(key, |group| {
                if let Some(member) = group.members.get_mut(&id) {
                    member.acked = true;
                }
                if !group.members.values().any(|member| member.alarms()) {
                    group.since_ms = None;
                }
            });
        }
    }

    /// Counts a change of an incident on a route that has no channel.
    fn hold_unwanted(&mut self, target: &Target, incident: &Incident) {
        let path = self.tree.get(target.route).map_or("a route", |route| &route.path);
        let why = || format!("{path} has no channel");
        self.accounts.hold("", incident, incident.event, 1, Hold::Unwanted, self.now_ms, &why);
    }

    /// Counts the end of an incident on routes without a group that knows it: nothing of it was
    /// sent there, or all was.
    fn hold_unknown_end(&mut self, id: u64, incident: &Incident, targets: &[Target]) {
        let keys = self.known.get(&id).map(|known| known.groups.as_slice()).unwrap_or_default();
        let routes: BTreeSet<u64> =
            keys.iter().filter_map(|key| self.groups.get(key)).map(|group| group.route).collect();
        for target in targets.iter().filter(|target| !routes.contains(&target.route)) {
            for channel in &target.channels {
                let why = || "its end was told before, or nothing of it was".to_owned();
                self.accounts.hold(
                    channel,
                    incident,
                    incident.event,
                    1,
                    Hold::Repeated,
                    self.now_ms,
                    &why,
                );
            }
        }
    }

    /// Stores an incident as it is now; past the bound, the one that has been quiet for longest is
    /// forgotten.
    fn know(&mut self, id: u64, incident: Incident, acked: bool, at_ms: u64) {
        if let Some(before) = self.known.get(&id) {
            self.inhibits.remove(id, &before.incident.labels);
            self.known_ages.remove(&(before.at_ms, id));
        } else if self.known.len() >= self.known_max
            && let Some((_, oldest)) = self.known_ages.first().copied()
        {
            self.forget(oldest);
        }
        if !incident.is_over() {
            self.inhibits.add(id, &incident.labels);
        }
        self.known_ages.insert((at_ms, id));
        let groups = self.known.remove(&id).map(|known| known.groups).unwrap_or_default();
        self.known.insert(id, Box::new(Known { incident, acked, at_ms, groups }));
        self.known_slots.touch(id);
    }

    /// Forgets an incident. Its pending changes are counted as held back.
    pub(super) fn forget(&mut self, id: u64) {
        for key in self.known.get(&id).map(|known| known.groups.clone()).unwrap_or_default() {
            self.drop_member(key, id);
        }
        if let Some(known) = self.known.remove(&id) {
            self.inhibits.remove(id, &known.incident.labels);
            self.known_ages.remove(&(known.at_ms, id));
            self.known_slots.release(id);
        }
        self.spent.remove(&id);
    }

    /// Notes that an incident is no longer in a group. One that is over and in none is forgotten a
    /// little later: one flush may have ended more incidents than one step may write.
    pub(super) fn leave(&mut self, id: u64, key: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.groups.retain(|group| *group != key);
            if known.groups.is_empty() && known.incident.is_over() {
                self.spent.insert(id);
            }
        }
    }

    /// Takes an incident out of a group; its pending changes are counted as held back.
    fn drop_member(&mut self, key: u64, id: u64) {
        self.hold_pending(key, id);
        self.leave(id, key);
        self.change(key, |group| {
            group.members.remove(&id);
        });
        if self.groups.get(&key).is_some_and(|group| group.members.is_empty()) {
            self.drop_group(key);
        }
    }

    fn drop_group(&mut self, key: u64) -> Option<Group> {
        let mut group = self.groups.remove(&key)?;
        self.unlist(key, &mut group);
        self.ages.remove(&(group.born_ms, key));
        self.group_slots.release(key);
        Some(*group)
    }

    /// Returns the groups that an incident belongs to. Its own channels, as far as they are
    /// declared, go before those of its routes.
    pub(super) fn targets(&self, incident: &Incident) -> Vec<Target> {
        let declared = |name: &&String| self.outboxes.contains_key(*name);
        let own: BTreeSet<String> =
            incident.channels.iter().filter(declared).take(CHANNELS_MAX).cloned().collect();
        let targets = self.tree.takers(&incident.labels).into_iter().map(|route| {
            let all = route.terms.group_by == ["..."];
            let value = |label: &String| {
                (label.clone(), incident.labels.get(label).cloned().unwrap_or_default())
            };
            Target {
                route: route.id,
                channels: if own.is_empty() {
                    route.terms.channels.iter().cloned().collect()
                } else {
                    own.clone()
                },
                by: if all {
                    incident.labels.clone()
                } else {
                    route.terms.group_by.iter().map(value).collect()
                },
            }
        });
        targets.collect()
    }

    /// Puts an incident into the groups it belongs to now.
    ///
    /// Labels or routes may have changed since. Its notifications so far are kept: a group of its
    /// own becomes the new one, under the id that receivers know it by; and in a group with others
    /// it stays until its end is notified.
    pub(super) fn reroute(&mut self, id: u64, targets: Vec<Target>, at_ms: u64) {
        let groups = self.known.get(&id).map(|known| known.groups.clone()).unwrap_or_default();
        let is_in = |target: &Target, alert: &Self| {
            groups.iter().filter_map(|key| alert.groups.get(key)).any(|group| target.is(group))
        };
        let left: Vec<u64> = groups
            .iter()
            .copied()
            .filter(|key| {
                self.groups
                    .get(key)
                    .is_some_and(|group| !targets.iter().any(|target| target.is(group)))
            })
            .collect();
        let mut missing: Vec<Target> = targets
            .into_iter()
            .filter(|target| !target.channels.is_empty() && !is_in(target, self))
            .collect();
        // Channels that were notified of it, the severity they know, and true where that is how it
        // is now.
        let mut told = Vec::new();
        for key in left {
            let Some(group) = self.groups.get(&key) else { continue };
            let Some(member) = group.members.get(&id).filter(|member| !member.stale) else {
                continue;
            };
            let Some(severity) = member.told else {
                self.drop_member(key, id);
                continue;
            };
            let free = missing.iter().position(|target| !self.groups.contains_key(&target.key(0)));
            if let Some(at) = free.filter(|_| group.members.len() == 1) {
                self.rename(key, missing.swap_remove(at));
            } else {
                told.push((group.all_channels(), (severity, member.told_to.is_current())));
                self.change(key, |group| {
                    if let Some(member) = group.members.get_mut(&id) {
                        member.stale = true;
                    }
                });
                self.hold_pending(key, id);
            }
        }
        for target in missing {
            let known_there = told.iter().find(|(channels, _)| target.channels.is_subset(channels));
            self.join(id, target, known_there.map(|(_, told)| *told), at_ms);
        }
    }

    /// Counts the pending changes of an incident as held back, in a group that will not send them.
    fn hold_pending(&mut self, key: u64, id: u64) {
        let (mut pending, mut channels) = (BTreeMap::new(), BTreeSet::new());
        self.change(key, |group| {
            let Some(member) = group.members.get_mut(&id) else { return };
            (pending, member.fresh) = (std::mem::take(&mut member.pending), false);
            channels = group.all_channels();
            for channel in &channels {
                group
                    .held
                    .entry(channel.clone())
                    .or_default()
                    .add(Hold::Repeated, pending.values().sum());
            }
        });
        let Some(known) = self.known.get(&id) else { return };
        for (change, count) in pending {
            for channel in &channels {
                let why = || "it goes by another route now, or there are too many".to_owned();
                self.accounts.hold(
                    channel,
                    &known.incident,
                    change,
                    count,
                    Hold::Repeated,
                    self.now_ms,
                    &why,
                );
            }
        }
    }

    /// Moves a group with one member to another route.
    fn rename(&mut self, key: u64, target: Target) {
        let Some(before) = self.drop_group(key) else { return };
        let new = target.key(0);
        let declared = |name: &String| self.outboxes.contains_key(name);
        let also = before
            .all_channels()
            .difference(&target.channels)
            .filter(|name| declared(name))
            .take(GROUP_CHANNELS_MAX - target.channels.len())
            .cloned()
            .collect();
        let mut group = Group {
            route: target.route,
            channels: target.channels,
            by: target.by,
            also,
            shard: 0,
            ..before
        };
        group.pass_on();
        for id in group.members.keys() {
            if let Some(known) = self.known.get_mut(id) {
                known.groups.retain(|group| *group != key);
                known.groups.push(new);
            }
        }
        self.ages.insert((group.born_ms, new));
        self.groups.insert(new, Box::new(group));
        self.change(new, |_| {});
    }

    /// Puts an incident into a group that has room, or into a new one.
    fn join(&mut self, id: u64, target: Target, told: Option<(Severity, bool)>, at_ms: u64) {
        let Some(known) = self.known.get(&id) else { return };
        let (severity, acked) = (known.incident.severity, known.acked);
        let has_room =
            |key: &u64| self.groups.get(key).is_none_or(|group| group.members.len() < MEMBERS_MAX);
        let (shard, key) = (0..)
            .map(|shard| (shard, target.key(shard)))
            .find(|(_, key)| has_room(key))
            .expect("there are fewer incidents than rooms");
        if !self.groups.contains_key(&key) {
            if self.groups.len() >= self.groups_max
                && let Some((_, oldest)) = self.ages.first().copied()
            {
                let members = self
                    .groups
                    .get(&oldest)
                    .map(|group| group.members.keys().copied().collect::<Vec<_>>());
                members
                    .unwrap_or_default()
                    .into_iter()
                    .for_each(|member| self.drop_member(oldest, member));
            }
            let known = self.known.get(&id).map_or("", |known| known.incident.incident_id.as_str());
            let life = hash(&[&hex(key), known, &at_ms.to_string()]);
            self.ages.insert((self.now_ms, key));
            self.groups.insert(key, Box::new(target.group(shard, life, self.now_ms)));
        }
        if let Some(known) = self.known.get_mut(&id) {
            known.groups.push(key);
        }
        self.change(key, |group| {
            let mut member = Member { acked, ..Member::new(severity) };
            if let Some((severity, current)) = told {
                let channels = group.all_channels();
                group.log.note_all(&channels, group.born_ms);
                group.since_ms = group.since_ms.or(Some(group.born_ms));
                member.told = Some(severity);
                member.changed = !current;
                channels.iter().for_each(|channel| member.hear(&group.log, channel, current));
            }
            group.members.insert(id, Box::new(member));
        });
    }
}
