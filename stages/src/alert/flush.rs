//! Flush: messages of a group to its channels, and the changes held back, with reasons.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Alert,
    accounts::Accounts,
    group::{Group, Member},
    outbox::{Message, Sent},
    route::Terms,
};
use crate::{
    Emission,
    fingerprint::hex,
    incident::{Change, Incident},
    notification::{Held, Hold, Why},
};

/// Reason for holding back, and the same in a few words.
type Reason = (Hold, String);

/// Findings of a look at the members of a group.
#[derive(Default)]
struct Found {
    /// Members with news, with the incident to send, and true where that sends a change not counted
    /// before.
    news: Vec<(u64, Incident, bool)>,
    /// Members already notified that go on, with nothing in the way.
    rest: Vec<u64>,
    /// Members that the group need not remember.
    gone: Vec<u64>,
    changed: bool,
}

/// Record of changes held back: in the accounts, and for the next message to each channel.
struct Holder<'a> {
    accounts: &'a mut Accounts,
    held: &'a mut BTreeMap<String, Held>,
    channels: &'a BTreeSet<String>,
    now_ms: u64,
}

impl Holder<'_> {
    /// Holds back all pending changes of a member.
    fn all(&mut self, member: &mut Member, incident: &Incident, hold: Hold, why: &str) {
        for (change, count) in std::mem::take(&mut member.pending) {
            for channel in self.channels {
                self.one(channel, incident, change, count, hold, why);
            }
        }
    }

    fn one(
        &mut self,
        channel: &str,
        incident: &Incident,
        change: Change,
        count: u64,
        hold: Hold,
        why: &str,
    ) {
        self.accounts.hold(channel, incident, change, count, hold, self.now_ms, &|| why.to_owned());
        self.held.entry(channel.to_owned()).or_default().add(hold, count);
    }
}

impl Alert {
    /// Sends the news of a group, or repeats it, and forgets the incidents that are over. Where
    /// there is nothing to send, the state stays as it is.
    pub(super) fn flush(&mut self, key: u64, out: &mut Vec<Emission>) {
        let Some(mut group) = self.groups.remove(&key) else { return };
        self.unlist(key, &mut group);
        let now_ms = self.now_ms;
        let terms = self.tree.get(group.route).unwrap_or_else(|| self.tree.root()).terms.clone();
        let channels = group.all_channels();
        let mut held = std::mem::take(&mut group.held);
        let mut found = self.look(&mut group, &terms, &mut held, &channels);
        let alarms =
            |group: &Group, id: &u64| group.members.get(id).is_some_and(|member| member.alarms());
        let repeats = found.news.is_empty()
            && group.repeat_due_ms(&terms).is_some_and(|due| due <= now_ms)
            && found.rest.iter().any(|id| alarms(&group, id));
        if repeats {
            let rest: Vec<u64> =
                found.rest.iter().copied().filter(|id| alarms(&group, id)).collect();
            self.say(&mut group, &mut held, &channels, Some(Why::Repeated), &[], &rest, out);
        } else if !found.news.is_empty() {
            self.say(&mut group, &mut held, &channels, None, &found.news, &found.rest, out);
        }
        if repeats || !found.news.is_empty() {
            group.told_ms = Some(now_ms);
            found.changed = true;
        }
        let since_ms = group
            .members
            .values()
            .any(|member| member.alarms())
            .then(|| group.since_ms.unwrap_or(now_ms));
        found.changed |= since_ms != group.since_ms;
        group.since_ms = since_ms;
        let told: Vec<u64> =
            found.news.iter().map(|(id, ..)| *id).chain(found.rest.iter().copied()).collect();
        found.changed |= self.escalate(&mut group, &terms, &told, &mut held, out);
        group.held = held;
        group.checked_ms = now_ms;
        for id in &found.gone {
            group.members.remove(id);
            self.leave(*id, key);
            found.changed = true;
        }
        if group.members.is_empty() {
            self.ages.remove(&(group.born_ms, key));
            self.group_slots.release(key);
            return;
        }
        self.list(key, &mut group);
        self.groups.insert(key, group);
        if found.changed {
            self.group_slots.touch(key);
        }
    }

    /// Looks at every member, and holds back the changes that are not to be sent.
    fn look(
        &mut self,
        group: &mut Group,
        terms: &Terms,
        held: &mut BTreeMap<String, Held>,
        channels: &BTreeSet<String>,
    ) -> Found {
        let now_ms = self.now_ms;
        let muted = self.muted(terms);
        let Self { accounts, known, inhibits, silences, .. } = self;
        let mut holder = Holder { accounts, held, channels, now_ms };
        let mut found = Found::default();
        for (id, member) in &mut group.members {
            let Some(incident) = known.get(id).map(|known| &known.incident) else {
                found.gone.push(*id);
                continue;
            };
            if member.stale && !member.over {
                continue;
            }
            let blocked: Option<Reason> = if let Some(by) = inhibits.by(*id, &incident.labels) {
                let by =
                    known.get(&by).map_or("another", |known| known.incident.incident_id.as_str());
                Some((Hold::Inhibited, format!("incident {by} explains it")))
            } else if let Some(silence) = silences.of(&incident.labels, now_ms) {
                Some((
                    Hold::Silenced,
                    format!("silence {} by {}: {}", silence.id, silence.by, silence.reason),
                ))
            } else {
                muted.clone().map(|why| (Hold::Muted, why))
            };
            found.changed |= std::mem::take(&mut member.fresh);
            let only_grew = member.pending.keys().all(|change| *change == Change::Updated);
            match (blocked, member.told) {
                (Some((hold, why)), Some(_)) if member.over => {
                    // The end of what was told is told when nothing is in its way any more.
                    let end = member.pending.remove(&Change::Resolved);
                    holder.all(member, incident, hold, &why);
                    member.pending.extend(end.map(|count| (Change::Resolved, count)));
                }
                (blocked, None) if member.over => {
                    let over = || (Hold::Repeated, "it was over before it was told".to_owned());
                    let (hold, why) = blocked.unwrap_or_else(over);
                    holder.all(member, incident, hold, &why);
                    found.gone.push(*id);
                }
                (Some((hold, why)), _) => holder.all(member, incident, hold, &why),
                (None, told) if member.acked && only_grew && !member.over => {
                    let by = incident.acknowledged.as_ref().map_or("someone", |said| &said.by);
                    holder.all(
                        member,
                        incident,
                        Hold::Acknowledged,
                        &format!("{by} has acknowledged it"),
                    );
                    if told.is_some() {
                        found.rest.push(*id);
                    }
                }
                (None, Some(_)) if member.pending.is_empty() && !member.over => {
                    found.rest.push(*id)
                }
                (None, told) => {
                    let incident = Incident {
                        event: match told {
                            _ if member.over => Change::Resolved,
                            None if incident.last_resolved_at.is_some() => Change::Reopened,
                            None => Change::Opened,
                            Some(_) if member.is_worse() => Change::Escalated,
                            Some(_) => Change::Updated,
                        },
                        new_errors: std::mem::take(&mut member.errors),
                        ..incident.clone()
                    };
                    let counts = member.take_told().is_some();
                    holder.all(
                        member,
                        &incident,
                        Hold::Repeated,
                        "it is told together with what came after it",
                    );
                    member.told = Some(member.severity);
                    if member.over {
                        found.gone.push(*id);
                    }
                    found.news.push((*id, incident, counts));
                }
            }
        }
        // Changes not counted before come first: the digest counts so many as changes.
        found.news.sort_by_key(|(_, _, counts)| !counts);
        found
    }

    /// Reason why nothing is sent on this route now: the name of a `mute` or `active` time.
    fn muted(&self, terms: &Terms) -> Option<String> {
        let holds = |name: &&String| self.times.holds(name, self.now_ms);
        if let Some(name) = terms.mute.iter().find(holds) {
            return Some(format!("the route is muted in \"{name}\""));
        }
        let inactive = !terms.active.is_empty() && !terms.active.iter().any(|name| holds(&name));
        inactive.then(|| format!("the route is active only in \"{}\"", terms.active.join("\", \"")))
    }

    /// Sends one message to some channels: news, or, with `why`, nothing new.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn say(
        &mut self,
        group: &mut Group,
        held: &mut BTreeMap<String, Held>,
        channels: &BTreeSet<String>,
        why: Option<Why>,
        news: &[(u64, Incident, bool)],
        rest: &[u64],
        out: &mut Vec<Emission>,
    ) {
        let now_ms = self.now_ms;
        let Self { accounts, known, outboxes, dirty_outboxes, .. } = self;
        let ongoing = |id: &u64| {
            known.get(id).map(|known| Incident { new_errors: 0, ..known.incident.clone() })
        };
        let rest: Vec<Incident> = rest.iter().filter_map(ongoing).map(as_told).collect();
        for channel in channels {
            let mut outbox = outboxes.get_mut(channel);
            let resolved = outbox.as_ref().is_some_and(|outbox| outbox.send_resolved);
            let mut holder = Holder { accounts, held, channels, now_ms };
            let mut told = Vec::new();
            for (_, incident, counts) in news {
                if outbox.is_some() && (resolved || !incident.is_over()) {
                    told.push((incident.clone(), *counts));
                } else if *counts {
                    let why = if outbox.is_some() {
                        "the channel is not told of ends"
                    } else {
                        "the channel is gone"
                    };
                    holder.one(channel, incident, incident.event, 1, Hold::Unwanted, why);
                }
            }
            let Some(outbox) = outbox.as_mut().filter(|_| why.is_some() || !told.is_empty()) else {
                continue;
            };
            let message = Message {
                life: hex(group.life),
                number: group.number,
                why: why.unwrap_or_else(|| why_of(&told, &rest)),
                by: group.by.clone(),
                changes: told.iter().filter(|(_, counts)| *counts).count() as u64,
                news: told.iter().map(|(incident, _)| incident.clone()).collect(),
                rest: rest.clone(),
                held: held.remove(channel).unwrap_or_default(),
            };
            dirty_outboxes.insert(channel.clone());
            match outbox.send(message, now_ms) {
                Sent::Alone(emission) => {
                    accounts.sent(channel, false);
                    out.push(emission);
                }
                Sent::Waits => {
                    for (incident, _) in told.iter().filter(|(_, counts)| *counts) {
                        let why = || {
                            "the rate of the channel is exceeded: it is in the next digest"
                                .to_owned()
                        };
                        accounts.hold(
                            channel,
                            incident,
                            incident.event,
                            1,
                            Hold::Digested,
                            now_ms,
                            &why,
                        );
                    }
                }
            }
        }
        group.number += 1;
    }

    /// Takes the steps of the escalation that are due, if an incident that was notified is still
    /// not acknowledged.
    fn escalate(
        &mut self,
        group: &mut Group,
        terms: &Terms,
        told: &[u64],
        held: &mut BTreeMap<String, Held>,
        out: &mut Vec<Emission>,
    ) -> bool {
        let alarms = |id: &u64| group.members.get(id).is_some_and(|member| member.alarms());
        let rest: Vec<u64> = told.iter().copied().filter(alarms).collect();
        let mut stepped = false;
        while !rest.is_empty() && group.step_due_ms(terms).is_some_and(|due| due <= self.now_ms) {
            let channels: BTreeSet<String> =
                terms.escalate[group.steps].1.iter().cloned().collect();
            let added: BTreeSet<String> =
                channels.difference(&group.all_channels()).cloned().collect();
            self.say(group, held, &added, Some(Why::Unacknowledged), &[], &rest, out);
            group.also.extend(added);
            group.steps += 1;
            stepped = true;
        }
        stepped
    }
}

/// Returns an incident without news as it is sent: one that someone has taken on as one that has
/// grown.
fn as_told(incident: Incident) -> Incident {
    let event =
        if incident.event == Change::Acknowledged { Change::Updated } else { incident.event };
    Incident { event, ..incident }
}

/// Reason of a message with news: the weightiest of it.
fn why_of(news: &[(Incident, bool)], rest: &[Incident]) -> Why {
    let ordered = [Change::Opened, Change::Reopened, Change::Escalated, Change::Updated];
    match ordered
        .into_iter()
        .find(|change| news.iter().any(|(incident, _)| incident.event == *change))
    {
        Some(change) => change.into(),
        None if rest.is_empty() => Why::Resolved,
        None => Why::Updated,
    }
}
