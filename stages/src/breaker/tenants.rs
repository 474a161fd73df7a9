//! Tenants: single tenants that a service limits, held back while all others go on.
//!
//! A service that answers 429 limits everyone, or one tenant only. Of one tenant it takes as many
//! failures in a row as open the breaker; then its events wait for as long as the service asks, and
//! the first one after that shows if it may go on. Events without a tenant are the breaker's.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{Call, Settings, digest};
use crate::{
    Failure,
    failure::{Disposition, class},
};

/// Tenants that are remembered at once. Past it the one that has been quiet for the longest goes.
const TENANTS_MAX: usize = 1000;

/// Tenants that failed by their limit since their last success. Every time is as in [`Breaker`].
///
/// [`Breaker`]: super::Breaker
#[derive(Debug, Default)]
pub struct Tenants(HashMap<Box<str>, Limited>);

#[derive(Debug, Default)]
struct Limited {
    /// Events that failed in a row, at most as many as begin a hold.
    streak: BTreeSet<u64>,
    /// End of the hold, if there was one.
    until: Option<Duration>,
    /// Holds in a row.
    holds: u32,
    seen: Duration,
}

/// Meaning of a failure to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing out of the ordinary: the attempt is spent.
    Spent,
    /// The tenant is held back for so long from now on; the attempt is spent.
    Held(Duration),
    /// The tenant was held back already: the event is deferred for so long.
    Deferred(Duration),
}

impl Tenants {
    /// True if a failure may be that of one tenant alone.
    pub fn is_limit(failure: &Failure) -> bool {
        failure.class == class::RATE_LIMITED && failure.disposition != Disposition::Reject
    }

    /// Rest of the time for which a tenant is held back; `None`: it may go on.
    pub fn held(&self, now: Duration, tenant: &str) -> Option<Duration> {
        let until = self.0.get(tenant)?.until?;
        until.checked_sub(now).filter(|rest| !rest.is_zero())
    }

    /// Notes that a call for a tenant succeeded; true if it had been held back.
    pub fn succeeded(&mut self, tenant: &str) -> bool {
        self.0.remove(tenant).is_some_and(|limited| limited.until.is_some())
    }

    /// Notes that a call for a tenant failed by its limit, and returns the meaning of that.
    pub fn failed(
        &mut self,
        now: Duration,
        tenant: &str,
        call: Call<'_>,
        failure: &Failure,
        settings: &Settings,
    ) -> Limit {
        if !self.0.contains_key(tenant) && self.0.len() >= TENANTS_MAX {
            let quiet = self.0.iter().min_by_key(|(_, limited)| limited.seen);
            if let Some(quiet) = quiet.map(|(tenant, _)| tenant.clone()) {
                self.0.remove(&quiet);
            }
        }
        let limited = self.0.entry(tenant.into()).or_default();
        limited.seen = now;
        if let Some(rest) =
            limited.until.and_then(|until| until.checked_sub(now)).filter(|rest| !rest.is_zero())
        {
            // It was under way when the hold began.
            return Limit::Deferred(rest);
        }
        limited.streak.insert(digest(call.event_id));
        let is_probe = limited.until.is_some();
        if !is_probe && limited.streak.len() < settings.failures as usize {
            return Limit::Spent;
        }
        limited.streak.clear();
        limited.holds = limited.holds.saturating_add(1);
        let wait = settings.wait_of(failure, limited.holds);
        limited.until = Some(now.saturating_add(wait));
        if is_probe { Limit::Deferred(wait) } else { Limit::Held(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ASKED_WAIT_MAX, *};

    const S: Duration = Duration::from_secs(1);

    fn limited(asks: Option<u64>) -> Failure {
        let failure = Failure::retry(class::RATE_LIMITED, "429");
        asks.map_or(failure.clone(), |asks| failure.after(S * asks as u32))
    }

    fn fail(tenants: &mut Tenants, at: u32, tenant: &str, n: usize, failure: &Failure) -> Limit {
        let (event_id, now) = (format!("{tenant}-{n}"), S * at);
        let call = Call { event_id: &event_id, attempt: 1, began: now };
        tenants.failed(now, tenant, call, failure, &Settings::default())
    }

    #[test]
    fn a_tenant_is_held_after_failures_in_a_row_for_as_long_as_is_asked_and_no_other_is() {
        let (mut tenants, asks) = (Tenants::default(), limited(Some(60)));
        for n in 0..4 {
            assert_eq!(fail(&mut tenants, 0, "acme", n, &asks), Limit::Spent);
        }
        assert_eq!(fail(&mut tenants, 0, "acme", 3, &asks), Limit::Spent, "the same event");
        assert_eq!(fail(&mut tenants, 0, "acme", 4, &asks), Limit::Held(S * 60));
        assert_eq!(fail(&mut tenants, 10, "acme", 5, &asks), Limit::Deferred(S * 50));
        assert_eq!(tenants.held(S * 20, "acme"), Some(S * 40));
        assert_eq!(tenants.held(S * 20, "beta"), None);
        assert_eq!(tenants.held(S * 60, "acme"), None);
    }

    #[test]
    fn the_first_event_after_a_hold_shows_if_the_tenant_may_go_on() {
        let (mut tenants, asks) = (Tenants::default(), limited(None));
        (0..5).for_each(|n| _ = fail(&mut tenants, 0, "acme", n, &asks));
        assert_eq!(tenants.held(Duration::ZERO, "acme"), Some(S));
        assert_eq!(fail(&mut tenants, 1, "acme", 9, &asks), Limit::Deferred(S * 2));
        assert_eq!(fail(&mut tenants, 2, "acme", 8, &asks), Limit::Deferred(S));
        assert!(tenants.succeeded("acme") && !tenants.succeeded("acme"));
        assert_eq!(fail(&mut tenants, 9, "acme", 1, &asks), Limit::Spent, "all is forgotten");
    }

    #[test]
    fn no_wait_is_longer_than_a_service_may_ask_for_and_no_more_tenants_are_kept_than_may_be() {
        let (mut tenants, asks) = (Tenants::default(), limited(Some(1_000_000)));
        for n in 0..TENANTS_MAX as u32 + 100 {
            let tenant = format!("t-{n}");
            (0..5).for_each(|e| _ = fail(&mut tenants, n, &tenant, e, &asks));
        }
        assert_eq!(tenants.0.len(), TENANTS_MAX);
        let now = S * (TENANTS_MAX as u32 + 99);
        assert_eq!(tenants.held(now, "t-1099"), Some(ASKED_WAIT_MAX));
        assert_eq!(tenants.held(now, "t-0"), None);
    }
}
