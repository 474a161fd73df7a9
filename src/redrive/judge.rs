//! Judge: verdict on one letter of a job, by its filter and its rules.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use millstream_stages::{headers, retry::glob_matches, units::Period};
use tokio::time::Instant;

use super::{
    job::{Job, Rules},
    resend::redrives_of,
};
use crate::{
    broker::{AdminError, Broker, StoredMessage, get},
    dead_letter::filter::{FilterError, Selecting},
    limits,
    wire::{Names, parse_rfc3339},
};

/// Verdict on one letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not a letter of the job.
    NotMeant,
    /// Sent back.
    Send,
    /// Left where it is: redriven too often.
    Guarded,
    /// Left where it is: its event was completed all the same.
    Completed,
    /// Marked permanent, for this reason.
    Permanent(String),
}

/// Filter and rules of a job, compiled.
#[derive(Debug)]
pub(super) struct Judge {
    selecting: Selecting,
    rules: Option<Rules>,
    max_redrives: u32,
    /// True if the letters were named one by one.
    named: bool,
    /// Time at which the job was made: ages are taken then, so that it does not matter who runs it
    /// when.
    made_at: SystemTime,
    tenants: HashMap<String, (bool, Instant)>,
}

impl Judge {
    /// Judge of a job.
    ///
    /// # Errors
    /// The filter cannot be compiled.
    pub(super) fn of(job: &Job) -> Result<Self, FilterError> {
        Ok(Self {
            selecting: job.filter.compile()?,
            rules: job.rules.clone(),
            max_redrives: job.max_redrives,
            named: !job.filter.letters.is_empty(),
            made_at: parse_rfc3339(&job.created_at).unwrap_or_else(SystemTime::now),
            tenants: HashMap::new(),
        })
    }

    /// True if the job is a recovery.
    pub(super) fn recovers(&self) -> bool {
        self.rules.is_some()
    }

    /// Verdict on a letter.
    ///
    /// # Errors
    /// The payload, or the key of the tenant, could not be read.
    pub(super) async fn verdict(
        &mut self,
        broker: &Broker,
        names: &Names,
        letter: &StoredMessage,
    ) -> Result<Verdict, AdminError> {
        // A payload or an original that is kept beside a letter is none itself.
        if !names.is_dlq(&letter.subject) || !self.selecting.takes(broker, names, letter).await? {
            return Ok(Verdict::NotMeant);
        }
        let has = |name| get(&letter.headers, name).is_some();
        if self.rules.is_some() && has(headers::PERMANENT) {
            return Ok(Verdict::NotMeant);
        }
        if has(headers::COMPLETED_AT) && !self.named {
            return Ok(Verdict::Completed);
        }
        let redrives = redrives_of(letter);
        let Some(rules) = &self.rules else {
            return Ok(if redrives >= self.max_redrives {
                Verdict::Guarded
            } else {
                Verdict::Send
            });
        };
        if let Some(why) = refused(rules, self.made_at, letter) {
            return Ok(Verdict::Permanent(why));
        }
        if redrives >= self.max_redrives {
            return Ok(Verdict::Permanent(format!("redriven {redrives} times before")));
        }
        if let (Some(bucket), Some(tenant)) =
            (rules.tenants.clone(), get(&letter.headers, headers::TENANT))
            && !self.is_active(broker, &bucket, tenant).await?
        {
            return Ok(Verdict::Permanent(format!(
                "tenant {tenant} is not active in bucket {bucket}"
            )));
        }
        Ok(Verdict::Send)
    }

    async fn is_active(
        &mut self,
        broker: &Broker,
        bucket: &str,
        tenant: &str,
    ) -> Result<bool, AdminError> {
        if let Some((active, at)) = self.tenants.get(tenant)
            && at.elapsed() < limits::TENANT_TTL
        {
            return Ok(*active);
        }
        // A tenant's name is outside text: with a wildcard in it, it would ask for someone else's
        // key.
        let is_key = !tenant.is_empty()
            && !tenant.starts_with('.')
            && !tenant.ends_with('.')
            && tenant.chars().all(|c| c.is_ascii_alphanumeric() || "-/_=.".contains(c));
        let value = if is_key { broker.kv_get(bucket, tenant).await? } else { None };
        let active = value.is_some_and(|(value, _)| says_active(&value));
        if self.tenants.len() >= limits::TENANTS_MAX {
            self.tenants.clear();
        }
        self.tenants.insert(tenant.to_owned(), (active, Instant::now()));
        Ok(active)
    }
}

/// Reason why recovery does not redrive a letter, by its headers.
fn refused(rules: &Rules, made_at: SystemTime, letter: &StoredMessage) -> Option<String> {
    let class = get(&letter.headers, headers::ERROR_CLASS).unwrap_or_default();
    if !rules.classes.is_empty() && !rules.classes.iter().any(|glob| glob_matches(glob, class)) {
        return Some(format!("class {class} is not one that recovers"));
    }
    let max_age = Duration::from_millis(rules.max_age_ms);
    let dead_at =
        get(&letter.headers, headers::DEAD_AT).and_then(parse_rfc3339).unwrap_or(letter.stored_at);
    let age = made_at.duration_since(dead_at).unwrap_or_default();
    (age >= max_age).then(|| format!("older than {}", Period(max_age)))
}

/// True if the value of a tenant's key says that it is active: `true`, `active`, or JSON with
/// `active` or `status`.
fn says_active(value: &[u8]) -> bool {
    use serde_json::Value;
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    let is_active =
        |word: &str| word.eq_ignore_ascii_case("active") || word.eq_ignore_ascii_case("true");
    if is_active(text) {
        return true;
    }
    match serde_json::from_str(text) {
        Ok(Value::String(word)) => is_active(&word),
        Ok(Value::Object(about)) => match (about.get("active"), about.get("status")) {
            (Some(active), _) => *active == Value::Bool(true),
            (None, Some(status)) => status.as_str().is_some_and(is_active),
            (None, None) => false,
        },
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_active_only_where_its_key_says_so() {
        for yes in [
            "true",
            "active",
            " Active\n",
            "\"active\"",
            r#"{"active": true}"#,
            r#"{"status":"active","x":1}"#,
        ] {
            assert!(says_active(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            "false",
            "inactive",
            "1",
            "{}",
            r#"{"active":"true"}"#,
            r#"{"active":false,"status":"active"}"#,
        ] {
            assert!(!says_active(no.as_bytes()), "{no}");
        }
    }
}
