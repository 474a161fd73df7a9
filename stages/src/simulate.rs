//! Simulate: stored errors run through the rules in memory, up to the notifications they cause.
//!
//! The stages are the real ones. Time is that of the errors: between two of them every timer fires
//! that is due, so a day passes as fast as its errors are read.

use bytes::Bytes;

use crate::{
    Emission, Failure, Input, Reduce, aggregate_errors::AggregateErrors, alert::Alert,
    incident::Incident, notification::Notification, operator::SILENCE_KEYS,
};

/// Reduce stages of a pipeline, connected in memory.
#[derive(Debug)]
pub struct Simulation {
    errors: Vec<(String, AggregateErrors)>,
    /// Alert stages, each with the names of the stages whose incidents it reads.
    alerts: Vec<(Vec<String>, Alert)>,
    now_ms: u64,
    seq: u64,
    outcome: Outcome,
}

/// Results of a simulation.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Errors that were counted.
    pub errors: u64,
    /// Messages that are no error events.
    pub rejected: u64,
    /// Incident events, in order.
    pub incidents: Vec<Incident>,
    /// Notifications that would have been sent, in order.
    pub sent: Vec<Notification>,
}

impl Simulation {
    /// Returns a simulation of these stages, without state; each alert stage with the names of the
    /// stages that it reads.
    pub fn new(errors: Vec<(String, AggregateErrors)>, alerts: Vec<(Vec<String>, Alert)>) -> Self {
        let explained = |(reads, mut alert): (Vec<String>, Alert)| {
            alert.explain();
            (reads, alert)
        };
        let alerts = alerts.into_iter().map(explained).collect();
        Self { errors, alerts, now_ms: 0, seq: 0, outcome: Outcome::default() }
    }

    /// Gives the alert stages a silence, the value of its key, from the beginning on; it holds by
    /// its times.
    ///
    /// # Errors
    /// The value is no silence.
    pub fn silence(&mut self, id: &str, value: Vec<u8>) -> Result<(), Failure> {
        let (key, body) = (format!("{SILENCE_KEYS}.{id}"), Bytes::from(value));
        for at in 0..self.alerts.len() {
            let (mut out, input) = (Vec::new(), input(0, 0, "", Some(&key), &body));
            self.alerts[at].1.apply(&input, &mut out)?;
            self.notifications(out);
        }
        Ok(())
    }

    /// Gives the stage called `stage` one message, stored at `at_ms`. Messages come in the order of
    /// their times.
    pub fn take(&mut self, stage: &str, subject: &str, at_ms: u64, body: &Bytes) {
        self.pass(at_ms);
        self.seq += 1;
        let input = input(self.seq, self.now_ms, subject, None, body);
        let mut told = Vec::new();
        for (name, errors) in self.errors.iter_mut().filter(|(name, _)| name == stage) {
            let mut out = Vec::new();
            match errors.apply(&input, &mut out) {
                Ok(()) => self.outcome.errors += 1,
                Err(_) => self.outcome.rejected += 1,
            }
            told.push((name.clone(), out));
        }
        told.into_iter().for_each(|(stage, out)| self.incidents(&stage, out));
    }

    /// Lets time pass: every timer that is due by then fires, in order.
    pub fn pass(&mut self, to_ms: u64) {
        while let Some(due_ms) = self.next_timer_ms().filter(|due_ms| *due_ms <= to_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            for at in 0..self.errors.len() {
                let (name, errors) = &mut self.errors[at];
                let (name, mut out) = (name.clone(), Vec::new());
                errors.tick(self.now_ms, &mut out);
                self.incidents(&name, out);
            }
            for at in 0..self.alerts.len() {
                let mut out = Vec::new();
                self.alerts[at].1.tick(self.now_ms, &mut out);
                self.notifications(out);
            }
        }
        self.now_ms = self.now_ms.max(to_ms);
    }

    /// Returns the results, and the alert stages, which have the changes held back.
    pub fn finish(self) -> (Outcome, Vec<Alert>) {
        (self.outcome, self.alerts.into_iter().map(|(_, alert)| alert).collect())
    }

    fn next_timer_ms(&self) -> Option<u64> {
        let errors = self.errors.iter().filter_map(|(_, stage)| stage.next_timer_ms());
        errors.chain(self.alerts.iter().filter_map(|(_, stage)| stage.next_timer_ms())).min()
    }

    /// Gives incident events to the alert stages that read them.
    fn incidents(&mut self, from: &str, out: Vec<Emission>) {
        for emission in out {
            let body = emission.body;
            self.seq += 1;
            for at in 0..self.alerts.len() {
                if !self.alerts[at].0.iter().any(|read| read == from) {
                    continue;
                }
                let mut sent = Vec::new();
                let input = input(self.seq, self.now_ms, &emission.route, None, &body);
                let taken = self.alerts[at].1.apply(&input, &mut sent);
                taken.expect("an alert stage understands what an aggregate-errors stage says");
                self.notifications(sent);
            }
            self.outcome.incidents.extend(serde_json::from_slice::<Incident>(&body).ok());
        }
    }

    fn notifications(&mut self, out: Vec<Emission>) {
        let read = |emission: Emission| serde_json::from_slice::<Notification>(&emission.body).ok();
        self.outcome.sent.extend(out.into_iter().filter_map(read));
    }
}

fn input<'a>(
    seq: u64,
    at_ms: u64,
    subject: &'a str,
    key: Option<&'a str>,
    body: &'a Bytes,
) -> Input<'a> {
    Input {
        stream: "simulated",
        seq,
        subject,
        key,
        at_ms,
        now_ms: at_ms,
        envelope: None,
        headers: crate::HeaderLookup::none(),
        body,
    }
}
