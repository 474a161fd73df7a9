//! Filters: flags that select letters, the same for every `dlq` command.

use std::time::SystemTime;

use anyhow::{Context as _, bail};
use millstream_stages::settle::Reason;

use crate::{
    broker::Broker,
    commands::people::moment,
    config::{Pipeline, pipeline::Channel},
    dead_letter::{LetterFilter, filter::Selecting},
    wire::Names,
};

/// Filters of letters: a letter matches if every given flag holds for it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct Filters {
    /// Only those of this stage
    #[arg(long)]
    pub(super) stage: Option<String>,
    /// Only those whose last failure was of this class; `*` stands for any text
    #[arg(long)]
    pub(super) class: Option<String>,
    /// Only those of events of this type; `*` stands for any text
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) event_type: Option<String>,
    /// Only those of events of this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Only those given up on for this reason: exhausted, rejected, crashed, undecodable or expired
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// Only those of this fingerprint, as `groups` prints it; its beginning is enough
    #[arg(long)]
    pub(super) fingerprint: Option<String>,
    /// Only those given up on at this time or later: RFC 3339, or how long ago, such as 24h
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only those given up on before this time: RFC 3339, or how long ago, such as 1h
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Only those whose payload this jq filter is true for, such as '.eventData.amount > 100'
    #[arg(long = "where", value_name = "JQ")]
    pub(super) condition: Option<String>,
}

impl Filters {
    /// True if no flag is given: every letter matches.
    pub(super) fn is_empty(&self) -> bool {
        self.given().is_empty()
    }

    /// The flags as they were given, for a command that is shown: each after a space, quoted for a
    /// shell.
    pub(super) fn flags(&self) -> String {
        let flags =
            self.given().into_iter().map(|(name, value)| format!(" --{name} {}", quoted(value)));
        super::super::printable(&flags.collect::<String>())
    }

    fn given(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("stage", &self.stage),
            ("class", &self.class),
            ("type", &self.event_type),
            ("tenant", &self.tenant),
            ("reason", &self.reason),
            ("fingerprint", &self.fingerprint),
            ("since", &self.since),
            ("until", &self.until),
            ("where", &self.condition),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }

    /// The letters that the flags mean at `now`.
    ///
    /// # Errors
    /// There is no such reason, a time is not one, or a jq filter is not one.
    pub(super) fn filter(&self, now: SystemTime) -> anyhow::Result<LetterFilter> {
        if let Some(reason) = &self.reason
            && !Reason::ALL.iter().any(|known| known.as_str() == reason)
        {
            let reasons = Reason::ALL.map(Reason::as_str).join(", ");
            bail!("there is no reason \"{reason}\"; the reasons are {reasons}")
        }
        let moment = |text: &Option<String>, flag: &str| {
            text.as_deref().map(|text| moment(text, flag, now)).transpose()
        };
        let filter = LetterFilter {
            letters: Vec::new(),
            stage: self.stage.clone(),
            class: self.class.clone(),
            event_type: self.event_type.clone(),
            tenant: self.tenant.clone(),
            reason: self.reason.clone(),
            fingerprint: self.fingerprint.clone(),
            since: moment(&self.since, "--since")?,
            until: moment(&self.until, "--until")?,
            condition: self.condition.clone(),
        };
        compile(&filter)?;
        Ok(filter)
    }
}

/// Value quoted for a shell.
pub(super) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.:/+@".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "'\\''"))
    }
}

/// Compiles a filter.
///
/// # Errors
/// As [`LetterFilter::compile`], with the flag at fault.
pub(super) fn compile(filter: &LetterFilter) -> anyhow::Result<Selecting> {
    filter.compile().with_context(|| match &filter.condition {
        Some(condition) => format!("--where '{condition}' cannot be used"),
        None => "these letters cannot be looked for".to_owned(),
    })
}

/// Makes sure that the stage of a filter is one of the pipeline, or that letters of it are there:
/// it may be gone from the configuration since.
///
/// # Errors
/// It is neither; the stages are named.
pub(super) async fn known_stage(
    broker: &Broker,
    pipeline: &Pipeline,
    names: &Names,
    filter: &LetterFilter,
) -> anyhow::Result<()> {
    let Some(stage) = &filter.stage else { return Ok(()) };
    let channel = |channel: &Channel| Names::channel_stage(&channel.name) == *stage;
    if pipeline.stage(stage).is_some() || pipeline.channels.iter().any(channel) {
        return Ok(());
    }
    let is_name =
        !stage.is_empty() && !stage.contains(|c: char| c.is_whitespace() || ".*>".contains(c));
    let stream = names.dlq_stream();
    if is_name
        && broker.next_on_subject(&stream, &names.dlq_filter(Some(stage)), 1).await?.is_some()
    {
        return Ok(());
    }
    let stages: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
    bail!(
        "there is no stage \"{stage}\", and no letter of one; the stages are {}",
        stages.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(filters: &Filters) -> String {
        filters.filter(SystemTime::UNIX_EPOCH).map_or_else(
            |error| format!("{error:#}"),
            |filter| serde_json::to_string(&filter).unwrap(),
        )
    }

    #[test]
    fn flags_become_a_filter_and_what_is_wrong_is_named_with_its_flag() {
        let text = |text: &str| Some(text.to_owned());
        let all = [
            Filters {
                stage: text("orders"),
                since: text("2026-11-21T10:00:00+02:00"),
                ..Filters::default()
            },
            Filters { reason: text("tired"), ..Filters::default() },
            Filters { since: text("yesterday"), ..Filters::default() },
            Filters { condition: text(".a >"), ..Filters::default() },
        ];
        let read = all.iter().map(shown).collect::<Vec<_>>().join("\n");
        expect_test::expect![[r#"
            {"stage":"orders","since":"2026-11-21T08:00:00.000Z"}
            there is no reason "tired"; the reasons are exhausted, rejected, crashed, undecodable, expired, abandoned
            --since "yesterday" is not a time: write it as RFC 3339, such as 2026-11-21T08:00:00Z, or as how long ago, such as 24h
            --where '.a >' cannot be used: not a jq filter (at character 5): expected a value, such as .key or 1, found the end"#]]
        .assert_eq(&read);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_248_600);
        let flags = Filters { until: text("24h"), ..Filters::default() };
        let ago = flags.filter(now).unwrap().until.unwrap();
        let ago: SystemTime = ago.parse::<jiff::Timestamp>().unwrap().into();
        assert_eq!(now.duration_since(ago).unwrap(), Duration::from_secs(86_400));
    }
}
