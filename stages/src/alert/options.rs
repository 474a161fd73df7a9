//! Options: the keys of an `alert` stage, as `pipeline.toml` writes them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{incident::Severity, matcher::Matcher, units::Period};

/// The keys of an `alert` stage: the root of its routes, which takes what no route below takes, and
/// what holds for all of them.
///
/// The vocabulary and, unless a key says otherwise, the meanings are Alertmanager's.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// Channels for incidents that no route takes. An incident whose own rule (`channels` in a rule
    /// of `aggregate-errors`) names channels goes to those in place of the channels of whatever
    /// route it takes.
    pub(super) channels: Vec<String>,
    /// The labels whose values make incidents one group, which is sent together; `["..."]`:
    /// every label.
    pub(super) group_by: Vec<String>,
    /// Wait for more incidents before the first notification of a group, and before the first after
    /// a pause. (Alertmanager: 30s, and only the first.)
    pub(super) group_wait: Period,
    /// Shortest time between notifications of a group's changes. What is worse than what was sent,
    /// and a new critical incident, is sent at once; and what comes after a longer pause need not
    /// wait for the next full interval. (In Alertmanager both wait.)
    pub(super) group_interval: Period,
    /// Time after which an incident that still goes on is sent again, unless someone has
    /// acknowledged it.
    pub(super) repeat_interval: Period,
    /// Times within which nothing is sent: names of `time` tables. (In Alertmanager the root has
    /// none.) The end of an incident that was sent before waits until the time is over, where
    /// Alertmanager forgets it.
    pub(super) mute: Vec<String>,
    /// Times outside of which nothing is sent: names of `time` tables.
    pub(super) active: Vec<String>,
    /// Steps that notify further channels when nobody acknowledges. (Not in Alertmanager.)
    pub(super) escalate: Vec<StepOptions>,
    /// Routes of incidents: the first that fits wins, and of its own routes the first that fits.
    pub(super) route: Vec<RouteOptions>,
    /// Inhibitions: incidents that explain others, so that those are not sent.
    pub(super) inhibit: Vec<InhibitOptions>,
    /// Times that `mute` and `active` name. Several tables of one name are alternatives.
    pub(super) time: Vec<TimeOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channels: vec!["log".to_owned()],
            group_by: vec!["fingerprint".to_owned()],
            group_wait: Period::default(),
            group_interval: Period::seconds(300),
            repeat_interval: Period::seconds(4 * 3600),
            mute: Vec::new(),
            active: Vec::new(),
            escalate: Vec::new(),
            route: Vec::new(),
            inhibit: Vec::new(),
            time: Vec::new(),
        }
    }
}

/// Route of some incidents. Keys it does not set are as in the route above it, except `mute` and
/// `active`, as in Alertmanager.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Route")]
pub(super) struct RouteOptions {
    /// The incidents it is for: all of these hold. One text may have several matchers.
    #[schemars(with = "Vec<Matcher>")]
    pub(super) matchers: Vec<String>,
    /// Severities it is for, besides; empty: all.
    pub(super) severity: Vec<Severity>,
    /// Error codes it is for, besides, with `*` for any text; empty: all.
    pub(super) code: Vec<String>,
    /// Channels they go to; an empty list: none.
    pub(super) channels: Option<Vec<String>>,
    /// The labels whose values make incidents one group.
    pub(super) group_by: Option<Vec<String>>,
    /// Wait for more incidents before the first notification of a group, and before the first after
    /// a pause.
    pub(super) group_wait: Option<Period>,
    /// Shortest time between notifications of a group's changes.
    pub(super) group_interval: Option<Period>,
    /// Time after which an incident that still goes on is sent again.
    pub(super) repeat_interval: Option<Period>,
    /// Times within which nothing is sent. Not inherited.
    pub(super) mute: Vec<String>,
    /// Times outside of which nothing is sent. Not inherited.
    pub(super) active: Vec<String>,
    /// Steps that notify further channels when nobody acknowledges. Inherited: an empty list ends
    /// it.
    pub(super) escalate: Option<Vec<StepOptions>>,
    /// Tries the routes after it as well.
    #[serde(rename = "continue")]
    pub(super) go_on: bool,
    /// Routes below it, for some of its incidents.
    pub(super) route: Vec<RouteOptions>,
}

/// One step of an escalation.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct StepOptions {
    /// The time since the group's first notification, if nobody has acknowledged it by then.
    pub(super) after: Period,
    /// The channels notified then, and from then on.
    pub(super) channels: Vec<String>,
}

/// Inhibition: while an incident that fits `source` goes on, those that fit `target` are not sent.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct InhibitOptions {
    /// The incidents that explain others.
    #[schemars(with = "Vec<Matcher>")]
    pub(super) source: Vec<String>,
    /// The incidents that are explained. One that fits both sides is not inhibited by another that
    /// fits both.
    #[schemars(with = "Vec<Matcher>")]
    pub(super) target: Vec<String>,
    /// The labels in which both agree. One that both lack has the same value, as in Alertmanager.
    #[serde(default)]
    pub(super) equal: Vec<String>,
}

/// A time that recurs, with Alertmanager's ranges. What is not given does not restrict it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct TimeOptions {
    /// The name that `mute` and `active` call it by.
    pub(super) name: String,
    /// Times of day, such as `09:00-17:00`, the end not included. One that ends before it begins
    /// passes midnight, and belongs to the day on which it begins. (Alertmanager has no such.)
    #[serde(default)]
    pub(super) times: Vec<String>,
    /// Days of the week: `mon-fri`, `sunday`.
    #[serde(default)]
    pub(super) weekdays: Vec<String>,
    /// Days of the month: `1-5`; from its end: `-1`, `-7--1`.
    #[serde(default)]
    pub(super) days: Vec<String>,
    /// Months: `12`, `jan-mar`.
    #[serde(default)]
    pub(super) months: Vec<String>,
    /// Years: `2026`, `2026-2028`.
    #[serde(default)]
    pub(super) years: Vec<String>,
    /// The time zone, by its IANA name.
    #[serde(default)]
    pub(super) zone: Option<String>,
}
