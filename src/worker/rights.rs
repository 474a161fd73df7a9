//! Rights: what the broker refuses a worker, as conditions for as long as it does.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{broker::Broker, limits, observe::Trouble, supervise::Supervisor};

/// Condition of the credentials.
const CREDENTIALS: &str = "credentials";
/// Condition of the task that reads and writes what carries messages.
const CONNECTION: &str = "task connection";

/// Looks at what the broker refuses until `stop`, and asks again for what nobody else asks for.
pub(super) async fn run(broker: Broker, supervisor: Supervisor, stop: CancellationToken) {
    let conditions = supervisor.conditions();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let (mut asked, mut is_let_in, mut panics) = (Instant::now(), true, broker.panics().0);
    while stop.run_until_cancelled(tokio::time::sleep(limits::RIGHTS_LOOK)).await.is_some() {
        if !told.is_empty() && asked.elapsed() >= limits::RIGHTS_ASK {
            if stop.run_until_cancelled(broker.ask_again()).await.is_none() {
                return;
            }
            asked = Instant::now();
        }
        let mut refused: BTreeMap<String, String> = BTreeMap::new();
        for refusal in broker.refusals() {
            let operations = refused.entry(refusal.subject).or_default();
            *operations = match operations.as_str() {
                "" => refusal.operation,
                before => format!("{before} and {}", refusal.operation),
            };
        }
        for (subject, operations) in &refused {
            let why = format!("the NATS server refuses us {operations} on \"{subject}\"");
            let remedy = format!("grant {operations} on \"{subject}\" to the user of [nats]");
            conditions.failing(&condition(subject), Trouble::with_remedy(why, remedy));
        }
        for subject in told.keys().filter(|subject| !refused.contains_key(*subject)) {
            conditions.ok(&condition(subject));
            // A right is a condition only while it is missing.
            conditions.forget(&condition(subject));
        }
        told = refused;
        match broker.credentials_refused() {
            Some(why) => {
                let why = format!("the NATS server does not let us in again: {why}");
                let remedy = "check creds, nkey, user, password or token of [nats], and that the \
                              server still knows the user; it is tried again by itself";
                conditions.failing(CREDENTIALS, Trouble::with_remedy(why, remedy));
                is_let_in = false;
            }
            None if !is_let_in => {
                conditions.ok(CREDENTIALS);
                conditions.forget(CREDENTIALS);
                is_let_in = true;
            }
            None => {}
        }
        let (count, last) = broker.panics();
        for _ in panics..count {
            supervisor.panicked(CONNECTION, &last);
        }
        panics = count;
    }
}

/// Name of the condition of a subject.
fn condition(subject: &str) -> String {
    format!("subject {subject}")
}
