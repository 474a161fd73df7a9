//! Flush: messages of a group to its channels, and the changes held back, with reasons.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Alert,
    accounts::Accounts,
    group::{Group, Member},
    log::GROUP_CHANNELS_MAX,
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

/// Incident that some channels are owed.
struct News {
    id: u64,
    /// Incident as it is sent.
    incident: Incident,
    /// True where that sends a change not counted before.
    counts: bool,
    /// True where it was sent as it is, and a later message left it out.
    again: bool,
}

/// Findings of a look at the members of a group.
#[derive(Default)]
struct Found {
    news: Vec<News>,
    /// Members that go on as they were notified, with nothing in the way.
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
        let terms = &terms;
        found.changed |= self.say(&mut group, terms, &mut held, &channels, None, &found, out);
        found.changed |= group.news_ms.take().is_some();
        let since_ms = group
            .members
            .values()
            .any(|member| member.alarms())
            .then(|| group.since_ms.unwrap_or(now_ms));
        found.changed |= since_ms != group.since_ms;
        group.since_ms = since_ms;
        let told: Vec<u64> =
            found.news.iter().map(|news| news.id).chain(found.rest.iter().copied()).collect();
        found.changed |= self.escalate(&mut group, terms, &told, &mut held, out);
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
        let Self { accounts, known, inhibits, silences, outboxes, .. } = self;
        let declared: Vec<&String> =
            channels.iter().filter(|name| outboxes.contains_key(*name)).collect();
        let log = &group.log;
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
            let is_owed = |member: &Member| declared.iter().any(|name| member.is_owed(log, name));
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
                (None, told) if member.rests() && !member.over => {
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
                (None, Some(_)) if !member.over && !is_owed(member) => found.rest.push(*id),
                (None, told) => {
                    let again = told.is_some() && !member.changed && !member.over;
                    let incident = Incident {
                        event: match told {
                            _ if again => as_told(incident.event),
                            _ if member.over => Change::Resolved,
                            None => beginning(incident),
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
                    (member.changed, member.worse) = (false, false);
                    if member.over {
                        found.gone.push(*id);
                    }
                    found.news.push(News { id: *id, incident, counts, again });
                }
            }
        }
        // Changes not counted before come first: the digest counts so many as changes.
        found.news.sort_by_key(|news| !news.counts);
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

    /// Sends each of some channels what it is owed, and repeats what goes on to those whose last
    /// message is too long ago; or, with `why`, sends them what goes on for that reason. Returns
    /// true if the record of a channel changed.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn say(
        &mut self,
        group: &mut Group,
        terms: &Terms,
        held: &mut BTreeMap<String, Held>,
        channels: &BTreeSet<String>,
        why: Option<Why>,
        found: &Found,
        out: &mut Vec<Emission>,
    ) -> bool {
        let mut said = false;
        for channel in channels {
            let news = self.news_of(group, held, channel, &found.news);
            let owed: BTreeSet<u64> = news.iter().map(|news| news.id).collect();
            let others = found.news.iter().filter(|news| !news.incident.is_over());
            let mut rest: Vec<u64> = others.map(|news| news.id).collect();
            rest.retain(|id| !owed.contains(id));
            rest.extend(&found.rest);
            if news.is_empty() {
                let due = group.repeat_due_ms(channel, terms).is_some_and(|at| at <= self.now_ms);
                rest.retain(|id| group.members.get(id).is_some_and(|member| member.alarms()));
                if (why.is_none() && !due) || rest.is_empty() {
                    continue;
                }
            }
            said = true;
            group.log.note(channel, self.now_ms);
            let within: BTreeSet<u64> = owed.iter().chain(&rest).copied().collect();
            for (id, member) in &mut group.members {
                if within.contains(id) {
                    member.told_to.tell(&group.log, channel);
                } else {
                    member.told_to.leave_out(&group.log, channel);
                }
            }
            self.send(group, held, channel, why, &news, &rest, out);
        }
        group.number += u64::from(said);
        said
    }

    /// Returns the news that a channel is owed, as it is sent there; what it does not want is
    /// counted as held back.
    fn news_of(
        &mut self,
        group: &Group,
        held: &mut BTreeMap<String, Held>,
        channel: &String,
        news: &[News],
    ) -> Vec<News> {
        let (channels, now_ms) = (BTreeSet::new(), self.now_ms);
        let wants_ends = self.outboxes.get(channel).map(|outbox| outbox.send_resolved);
        let mut holder = Holder { accounts: &mut self.accounts, held, channels: &channels, now_ms };
        let mut owed = Vec::new();
        for News { id, incident, counts, again } in news {
            let Some(member) = group.members.get(id) else { continue };
            let heard = member.told_to.has_heard(&group.log, channel);
            let (hold, why) = match wants_ends {
                None => (Hold::Unwanted, "the channel is gone"),
                Some(false) if incident.is_over() => {
                    (Hold::Unwanted, "the channel is not told of ends")
                }
                Some(_) if incident.is_over() && !heard => {
                    (Hold::Repeated, "it was over before it was told")
                }
                Some(_) if member.is_owed(&group.log, channel) => {
                    let grown = matches!(incident.event, Change::Updated | Change::Escalated);
                    let event = if grown && !heard { beginning(incident) } else { incident.event };
                    let incident = Incident { event, ..incident.clone() };
                    let again = *again && heard;
                    owed.push(News { id: *id, incident, counts: *counts, again });
                    continue;
                }
                Some(_) => continue,
            };
            if *counts {
                holder.one(channel, incident, incident.event, 1, hold, why);
            }
        }
        owed
    }

    /// Sends one message of a group to one channel.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn send(
        &mut self,
        group: &Group,
        held: &mut BTreeMap<String, Held>,
        channel: &str,
        why: Option<Why>,
        news: &[News],
        rest: &[u64],
        out: &mut Vec<Emission>,
    ) {
        let now_ms = self.now_ms;
        let ongoing = |id: &u64| {
            let incident = self.known.get(id)?.incident.clone();
            Some(Incident { new_errors: 0, event: as_told(incident.event), ..incident })
        };
        let rest: Vec<Incident> = rest.iter().filter_map(ongoing).collect();
        let Some(outbox) = self.outboxes.get_mut(channel) else { return };
        let counted = || news.iter().filter(|news| news.counts);
        let message = Message {
            life: hex(group.life),
            number: group.number,
            why: why.unwrap_or_else(|| why_of(news, &rest)),
            by: group.by.clone(),
            changes: counted().count() as u64,
            news: news.iter().map(|news| news.incident.clone()).collect(),
            rest,
            held: held.remove(channel).unwrap_or_default(),
        };
        self.dirty_outboxes.insert(channel.to_owned());
        match outbox.send(message, now_ms) {
            Sent::Alone(emission) => {
                self.accounts.sent(channel, false);
                out.push(emission);
            }
            Sent::Waits => {
                let why =
                    || "the rate of the channel is exceeded: it is in the next digest".to_owned();
                for News { incident, .. } in counted() {
                    let (event, hold) = (incident.event, Hold::Digested);
                    self.accounts.hold(channel, incident, event, 1, hold, now_ms, &why);
                }
            }
        }
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
            let all = group.all_channels();
            let room = GROUP_CHANNELS_MAX.saturating_sub(all.len());
            let added: BTreeSet<String> = channels.difference(&all).take(room).cloned().collect();
            let found = Found { rest: rest.clone(), ..Found::default() };
            self.say(group, terms, held, &added, Some(Why::Unacknowledged), &found, out);
            group.also.extend(added);
            group.steps += 1;
            stepped = true;
        }
        stepped
    }
}

/// Returns the change as which an incident without news is sent: one that someone has taken on as
/// one that has grown.
fn as_told(event: Change) -> Change {
    if event == Change::Acknowledged { Change::Updated } else { event }
}

/// Returns the change as which an incident is sent where nobody heard of it.
fn beginning(incident: &Incident) -> Change {
    if incident.last_resolved_at.is_some() { Change::Reopened } else { Change::Opened }
}

/// Reason of a message: the weightiest of its news; without any, it is repeated.
fn why_of(news: &[News], rest: &[Incident]) -> Why {
    let ordered = [Change::Opened, Change::Reopened, Change::Escalated, Change::Updated];
    let has =
        |change: &Change| news.iter().any(|news| !news.again && news.incident.event == *change);
    let goes_on = !rest.is_empty() || news.iter().any(|news| news.again);
    match ordered.into_iter().find(has) {
        Some(change) => change.into(),
        None if !news.iter().any(|news| news.incident.is_over()) => Why::Repeated,
        None if goes_on => Why::Updated,
        None => Why::Resolved,
    }
}
