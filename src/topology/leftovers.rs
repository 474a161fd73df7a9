//! Leftovers: what is kept on the server for stages and streams that the configuration does not
//! name.

use std::collections::BTreeMap;

use crate::{
    broker::{AdminError, Broker, ConsumerSpec, FoundStream, StoredMessage, get},
    limits,
    wire::Names,
};

use super::topology::Topology;

/// What is kept for nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// What is kept for stages that are gone, or no longer read what they did, by stage.
    pub held: Vec<Held>,
    /// Streams that nothing names, with their messages.
    pub streams: Vec<(String, u64)>,
}

/// What is kept for one stage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Name of the stage.
    pub stage: String,
    /// True if the configuration has the stage, which no longer reads these consumers.
    pub is_declared: bool,
    /// Stage that took over, by its `renamed_from`.
    pub heir: Option<String>,
    /// Durable consumers that no stage reads.
    pub consumers: Vec<Unread>,
    /// Events in the retry stream that are due.
    pub waiting: u64,
    /// Parked events.
    pub parked: u64,
    /// Dead letters.
    pub letters: u64,
}

/// Durable consumer that no stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Stream of the consumer.
    pub stream: String,
    /// Name of the consumer.
    pub name: String,
    /// Messages that it still has to deliver, or to have settled. For one of the retry stream they
    /// are among those that wait.
    pub unsettled: u64,
    /// Stream sequence below which it has settled everything.
    pub floor: u64,
    /// Subjects that it reads; empty: all.
    pub filters: Vec<String>,
}

impl Held {
    /// Events that wait for nobody.
    pub fn events(&self) -> u64 {
        self.waiting + self.parked + self.unread()
    }

    /// Events of streams that the stage has not settled.
    pub fn unread(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.unsettled).sum()
    }

    /// What it holds, in words.
    pub fn what(&self) -> String {
        let mut parts = Vec::new();
        for consumer in self.consumers.iter().filter(|consumer| consumer.unsettled > 0) {
            let Unread { unsettled, stream, .. } = consumer;
            parts.push(format!("{unsettled} not settled on stream \"{stream}\""));
        }
        for (number, what) in [
            (self.waiting, "waiting for retry"),
            (self.parked, "parked"),
            (self.letters, "in letters"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        if parts.is_empty() { "no events".to_owned() } else { parts.join(", ") }
    }
}

impl Held {
    /// Lines about it, and what can be done; none if it holds nothing.
    pub(super) fn lines(&self) -> String {
        if self.events() + self.letters == 0 {
            return String::new();
        }
        let stage = &self.stage;
        let mut out = match (&self.heir, self.is_declared) {
            (Some(heir), _) => format!("- stage \"{stage}\", now \"{heir}\": {}\n", self.what()),
            (None, true) => {
                format!("- stage \"{stage}\" no longer reads this: {}\n", self.what())
            }
            (None, false) => format!("- stage \"{stage}\" is gone: {}\n", self.what()),
        };
        if self.events() > 0 {
            let to = if self.is_declared { stage } else { "STAGE" };
            out.push_str(&format!("    {}\n", self.choices(to)));
        }
        match (&self.heir, self.letters) {
            (_, 0) => {}
            (Some(heir), _) => {
                out.push_str(&format!("    a redrive sends its letters to \"{heir}\"\n"))
            }
            (None, _) => out.push_str(&format!(
                "    its letters: renamed_from = \"{stage}\" on the stage that takes them, or dlq \
                 drop --stage {stage}\n"
            )),
        }
        out
    }

    fn choices(&self, to: &str) -> String {
        let stage = &self.stage;
        format!("apply with --move {stage}={to}, --to-letters {stage}, or --drop {stage}")
    }

    /// What to do about its events, as a command.
    pub fn hint(&self) -> String {
        match &self.heir {
            Some(_) => "`millstream apply` hands them over".to_owned(),
            None => {
                let to = if self.is_declared { &self.stage } else { "STAGE" };
                format!("`millstream {}`", self.choices(to).replacen("apply with", "apply", 1))
            }
        }
    }
}

impl Leftovers {
    /// What is kept for one stage.
    pub fn of(&self, stage: &str) -> Option<&Held> {
        self.held.iter().find(|held| held.stage == stage)
    }

    /// Stages that are gone, or no longer read what they did, for which events wait.
    pub fn waits(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|held| held.events() > 0)
    }

    /// Looks for events that wait for nobody. Letters are not counted, and of streams that nothing
    /// names only consumers.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn events(topology: &Topology, broker: &Broker) -> Result<Self, AdminError> {
        let streams = broker.streams_of_account().await?;
        Self::look(topology, broker, &streams).await
    }

    /// Looks for everything.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn find(topology: &Topology, broker: &Broker) -> Result<Self, AdminError> {
        let streams = broker.streams_of_account().await?;
        Self::among(topology, broker, &streams).await
    }

    /// Looks for everything in an account with these streams.
    pub(super) async fn among(
        topology: &Topology,
        broker: &Broker,
        streams: &[FoundStream],
    ) -> Result<Self, AdminError> {
        let mut found = Self::look(topology, broker, streams).await?;
        let names = Names::new(&topology.pipeline);
        for (stage, letters) in letters(topology, &names, broker).await? {
            found.entry(topology, &stage).letters = letters;
        }
        found.held.sort_by(|a, b| a.stage.cmp(&b.stage));
        Ok(found)
    }

    async fn look(
        topology: &Topology,
        broker: &Broker,
        streams: &[FoundStream],
    ) -> Result<Self, AdminError> {
        let (names, mut found) = (Names::new(&topology.pipeline), Self::default());
        for stream in streams {
            let is_ours = stream.pipeline == topology.pipeline;
            let is_named = topology.streams.iter().any(|spec| spec.name == stream.name);
            if is_ours && !is_named {
                found.streams.push((stream.name.clone(), stream.messages));
            }
            // A consumer of ours may be on any stream that ever was a source.
            if is_ours || topology.external.contains(&stream.name) {
                found.consumers(topology, &names, broker, &stream.name).await?;
            }
        }
        found.retry(topology, &names, broker).await?;
        found.held.sort_by(|a, b| a.stage.cmp(&b.stage));
        Ok(found)
    }

    fn entry(&mut self, topology: &Topology, stage: &str) -> &mut Held {
        if let Some(at) = self.held.iter().position(|held| held.stage == stage) {
            return &mut self.held[at];
        }
        let heir = topology.renamed.iter().find(|(old, _)| old == stage);
        self.held.push(Held {
            stage: stage.to_owned(),
            is_declared: topology.stages.iter().any(|name| name == stage),
            heir: heir.map(|(_, new)| new.clone()),
            ..Held::default()
        });
        self.held.last_mut().expect("it was pushed just now")
    }

    async fn consumers(
        &mut self,
        topology: &Topology,
        names: &Names,
        broker: &Broker,
        stream: &str,
    ) -> Result<(), AdminError> {
        let found = match broker.consumers_of(stream, &topology.pipeline).await {
            Err(AdminError::NoStream { .. }) => return Ok(()),
            found => found?,
        };
        for consumer in found {
            let same = |c: &&ConsumerSpec| {
                c.stream == consumer.spec.stream && c.name == consumer.spec.name
            };
            if topology.consumers.iter().any(|spec| same(&spec)) {
                continue;
            }
            let Some(stage) = names.stage_of_consumer(&consumer.spec.name) else { continue };
            // What is in a work queue is counted by its subjects.
            let is_retry =
                [names.retry_stream(), names.notify_stream()].iter().any(|it| it == stream);
            self.entry(topology, stage).consumers.push(Unread {
                unsettled: if is_retry { 0 } else { consumer.unsettled },
                floor: consumer.ack_floor,
                stream: consumer.spec.stream,
                filters: consumer.spec.filters,
                name: consumer.spec.name,
            });
        }
        Ok(())
    }

    /// Counts what is in the retry stream for stages that do not read it.
    async fn retry(
        &mut self,
        topology: &Topology,
        names: &Names,
        broker: &Broker,
    ) -> Result<(), AdminError> {
        let stream = names.retry_stream();
        let gone = |stage: &str| !topology.takes_retries(stage);
        for (stream, filter) in queues(names, "*", "*") {
            let found = match broker.subjects(&stream, &filter, limits::STAGE_LABELS_MAX).await {
                Err(AdminError::NoStream { .. }) => continue,
                found => found?,
            };
            for (subject, count) in found.counts {
                if let Some(stage) = names.stage_of_queue(&subject).filter(|stage| gone(stage)) {
                    self.entry(topology, &stage).waiting += count;
                }
            }
        }
        let most = limits::LEFTOVER_SUBJECTS_MAX;
        let parked = match broker.subjects(&stream, &names.parked_filter(), most).await {
            Err(AdminError::NoStream { .. }) => return Ok(()),
            parked => parked?,
        };
        let mut known: BTreeMap<String, bool> = BTreeMap::new();
        let mut looks = limits::SWEEP_LOOKS_MAX;
        for (subject, count) in parked.counts {
            let guess = names.stage_of_parked(&subject, &topology.external).map(str::to_owned);
            // A name that the configuration does not have is looked up once in what it stands for.
            let is_gone = match &guess {
                Some(stage) if !gone(stage) => continue,
                Some(stage) => known.get(stage).copied(),
                None => None,
            };
            let stage = match (guess, is_gone) {
                (Some(stage), Some(true)) => stage,
                (_, _) if looks == 0 => continue,
                (guess, _) => match target(names, broker, &stream, &subject).await? {
                    Some(stage) => {
                        looks -= 1;
                        if let Some(guess) = guess {
                            let is_right = guess == stage;
                            known.insert(guess, is_right);
                        }
                        stage
                    }
                    None => continue,
                },
            };
            if gone(&stage) {
                self.entry(topology, &stage).parked += count;
            }
        }
        Ok(())
    }
}

/// Stage that a parked event is for, by its schedule.
async fn target(
    names: &Names,
    broker: &Broker,
    stream: &str,
    subject: &str,
) -> Result<Option<String>, AdminError> {
    let Some(message) = broker.last_on_subject(stream, subject).await? else { return Ok(None) };
    Ok(stage_of(names, &message).map(str::to_owned))
}

/// Letters of stages that the configuration does not have, by stage. Their subjects are read only
/// where the counts say that there are any.
async fn letters(
    topology: &Topology,
    names: &Names,
    broker: &Broker,
) -> Result<BTreeMap<String, u64>, AdminError> {
    let (stream, mut by_stage) = (names.dlq_stream(), BTreeMap::new());
    let count = broker.messages_on(&stream, vec![names.dlq_filter(None)]).await;
    let all = match count {
        Err(AdminError::NoStream { .. }) => return Ok(by_stage),
        all => all?,
    };
    if all == 0 {
        return Ok(by_stage);
    }
    let filters = topology.stages.iter().map(|stage| names.dlq_filter(Some(stage))).collect();
    if broker.messages_on(&stream, filters).await? >= all {
        return Ok(by_stage);
    }
    let most = limits::LEFTOVER_SUBJECTS_MAX;
    for (subject, count) in broker.subjects(&stream, &names.dlq_filter(None), most).await?.counts {
        let stage = names.stage_of_dlq(&subject);
        let gone = |stage: &&str| !topology.stages.iter().any(|name| name == stage);
        if let Some(stage) = stage.filter(gone) {
            *by_stage.entry(stage.to_owned()).or_insert(0) += count;
        }
    }
    Ok(by_stage)
}

/// Stage that a message of the retry stream is for; of a parked one, by its schedule.
pub fn stage_of<'a>(names: &Names, message: &'a StoredMessage) -> Option<&'a str> {
    let target = get(&message.headers, "Nats-Schedule-Target").unwrap_or(&message.subject);
    names.stage_of_retry(target)
}

impl Held {
    /// Removes the events that are kept for the stage, and its consumers; letters stay. Returns how
    /// many events went, and consumers.
    ///
    /// # Errors
    /// [`AdminError`]; doing it again goes on.
    pub async fn drop_all(
        &self,
        topology: &Topology,
        broker: &Broker,
    ) -> Result<(u64, u64), AdminError> {
        let (names, mut events, mut consumers) = (Names::new(&topology.pipeline), 0, 0);
        for unread in &self.consumers {
            broker.delete_consumer(&unread.stream, &unread.name).await?;
            (events, consumers) = (events + unread.unsettled, consumers + 1);
        }
        if self.waiting + self.parked == 0 {
            return Ok((events, consumers));
        }
        let mut queued = Queued::of(&names, broker, &self.stage);
        while let Some((stream, message)) = queued.next().await? {
            events += u64::from(broker.delete_message(&stream, message.seq).await?);
        }
        Ok((events, consumers))
    }
}

/// Streams and subjects on which events wait for a stage, or for a channel.
fn queues(names: &Names, stage: &str, channel: &str) -> [(String, String); 3] {
    [
        (names.retry_stream(), names.retry_subject(stage)),
        (names.retry_stream(), names.quarantine_subject(stage)),
        (names.notify_stream(), names.notify_subject(channel)),
    ]
}

/// Events of work queues for one stage, one after the other: each is to be removed before the next
/// is asked for.
#[derive(Debug)]
pub struct Queued<'a> {
    names: &'a Names,
    broker: &'a Broker,
    stage: &'a str,
    at: usize,
    from: u64,
    /// True if something was found since it began anew.
    found: bool,
}

impl<'a> Queued<'a> {
    /// Events that wait for a stage, those that are due first, then the parked ones.
    pub fn of(names: &'a Names, broker: &'a Broker, stage: &'a str) -> Self {
        Self { names, broker, stage, at: 0, from: 1, found: false }
    }

    /// Next event, with its stream.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn next(&mut self) -> Result<Option<(String, StoredMessage)>, AdminError> {
        let channel = self.names.channel_of_stage(self.stage);
        let due = queues(self.names, self.stage, channel.unwrap_or("-"));
        loop {
            if self.at > due.len() {
                if !std::mem::take(&mut self.found) {
                    return Ok(None);
                }
                // What was parked may have come due meanwhile.
                (self.at, self.from) = (0, 1);
            }
            let parked = (self.names.retry_stream(), self.names.parked_filter());
            let (stream, filter) = due.get(self.at).unwrap_or(&parked);
            let found = match self.broker.next_on_subject(stream, filter, self.from).await {
                Err(AdminError::NoStream { .. }) => None,
                found => found?,
            };
            let Some(message) = found else {
                (self.at, self.from) = (self.at + 1, 1);
                continue;
            };
            self.from = message.seq + 1;
            if self.at < due.len() || stage_of(self.names, &message) == Some(self.stage) {
                self.found = true;
                return Ok(Some((stream.clone(), message)));
            }
        }
    }
}
