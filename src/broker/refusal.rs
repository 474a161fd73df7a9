//! Refusal: a subject that the server does not let us use.

/// Subject that the server does not let us use. Waiting does not help: someone has to grant it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the NATS server refuses us {operation} on \"{subject}\": grant it to the user of [nats]")]
pub struct FatalError {
    /// Operation attempted: `publish` or `subscribe`.
    pub operation: String,
    /// Subject refused.
    pub subject: String,
}

/// Operation and subject that a `Permissions Violation for Publish to "a.b"` refuses.
///
/// Source: nats-server 2.15, `server/client.go`, `pubPermissionViolation` and
/// `subPermissionViolation`.
pub(super) fn denied(text: &str) -> Option<FatalError> {
    const LEAD: &str = "permissions violation for ";
    let start = text.to_ascii_lowercase().find(LEAD)? + LEAD.len();
    let rest = &text[start..];
    let operation = if rest.starts_with(['P', 'p']) { "publish" } else { "subscribe" };
    let subject = rest.split('"').nth(1)?;
    Some(FatalError { operation: operation.to_owned(), subject: subject.to_owned() })
}

/// Reports a refusal; the first is the one to act on, and the rest follow from it.
pub(super) fn report(denied: FatalError, fatal: &tokio::sync::watch::Sender<Option<FatalError>>) {
    tracing::error!(
        operation = denied.operation,
        subject = denied.subject,
        "the broker refuses a subject"
    );
    if !is_of_the_keeper(&denied) {
        fatal.send_if_modified(|known| known.is_none() && known.replace(denied).is_none());
    }
}

/// True for what only the keeper asks for: it tells what it may not do, and the work goes on. A
/// durable consumer has the name of the pipeline and a stage; a reader's own has no `-` in it.
fn is_of_the_keeper(denied: &FatalError) -> bool {
    let Some((_, asked)) = denied.subject.split_once(".API.") else { return false };
    let durable = asked.strip_prefix("CONSUMER.CREATE.").and_then(|rest| rest.split('.').nth(1));
    asked.starts_with("STREAM.LIST")
        || asked.starts_with("CONSUMER.LIST.")
        || asked.starts_with("STREAM.PURGE.")
        || durable.is_some_and(|name| name.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_was_refused() {
        let refused =
            denied("Permissions Violation for Subscription to \"shop.>\" using queue \"q\"")
                .unwrap();
        assert_eq!((refused.operation.as_str(), refused.subject.as_str()), ("subscribe", "shop.>"));
        assert_eq!(denied("Maximum Connections Exceeded"), None);
    }

    #[test]
    fn what_only_the_keeper_asks_for_ends_no_worker() {
        let is_of_the_keeper = |subject: &str| {
            let (operation, subject) = ("publish".to_owned(), subject.to_owned());
            super::is_of_the_keeper(&FatalError { operation, subject })
        };
        for subject in [
            "$JS.API.STREAM.LIST",
            "$JS.API.CONSUMER.LIST.shop-out-validate",
            "$JS.API.STREAM.PURGE.shop-out-validate",
            "$JS.API.CONSUMER.CREATE.shop-out-validate.shop-orders.shop.out.validate.>",
        ] {
            assert!(is_of_the_keeper(subject), "{subject}");
        }
        for subject in [
            "$JS.API.CONSUMER.MSG.NEXT.shop-out-validate.shop-orders",
            "$JS.API.CONSUMER.CREATE.shop-failed.Zq3kW8y1.shop.failed.>",
            "shop.dlq.>",
        ] {
            assert!(!is_of_the_keeper(subject), "{subject}");
        }
    }
}
