//! Recover: `recover` of a stage, checked: letters redriven by themselves, and the health check.

use std::time::Duration;

use super::{
    Finder, KeyPath,
    inputs::StageDraft,
    pipeline::{Check, CheckOf, Recover},
    shape::what,
    subjects,
    written::{CheckTable, RecoverSetting, RecoverTable},
};

/// Recovery of a stage; `None`: it has none.
pub fn recover(draft: &StageDraft, finder: &mut Finder) -> Option<Recover> {
    let at = draft.at.join("recover");
    let written = match draft.table.recover.clone()? {
        RecoverSetting::Switch(false) => return None,
        RecoverSetting::Switch(true) => RecoverTable::default(),
        RecoverSetting::Table(table) => table,
    };
    if let Some(kind) = draft.kind.filter(|kind| !kind.calls_out) {
        let message = format!(
            "{} has no meaning: a stage of kind \"{}\" calls nothing that may be down",
            what(&at),
            kind.name
        );
        finder.error_on(&at, message).hint("only stages of kind \"handle\" recover; remove it");
        return None;
    }
    for (n, class) in written.classes.iter().enumerate().filter(|(_, class)| class.is_empty()) {
        let message = format!("a class in {} is empty: \"{class}\"", what(&at.join("classes")));
        finder
            .error_at(&at.join("classes").join(n.to_string()), message)
            .hint("remove it; \"*\" stands for any class");
    }
    if let Some(bucket) = &written.tenants
        && (bucket.is_empty()
            || !bucket.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'))
    {
        let at = at.join("tenants");
        let shown = finder.shown(&at, bucket);
        let message =
            format!("{} should be the name of a key-value bucket, got {shown}", what(&at));
        finder.error_at(&at, message).hint("a bucket's name has letters, digits, \"-\" and \"_\"");
    }
    if written.max_age.0.is_zero() {
        let at = at.join("max_age");
        finder
            .error_at(&at, format!("{} lets no letter recover: 0s", what(&at)))
            .hint("such as \"24h\"");
    }
    let check = written.check.as_ref().and_then(|check| health(check, &at.join("check"), finder));
    Some(Recover {
        classes: written.classes,
        max_age: written.max_age.0,
        max_redrives: written.max_redrives,
        rate: written.rate,
        tenants: written.tenants,
        check,
    })
}

fn health(written: &CheckTable, at: &KeyPath, finder: &mut Finder) -> Option<Check> {
    if written.every.0 < Duration::from_millis(100) {
        let at = at.join("every");
        finder
            .error_at(&at, format!("{} is too short: {}", what(&at), written.every))
            .hint("100ms is the least; some seconds are plenty");
    }
    let ways: Vec<(&str, &String)> =
        [("http", &written.http), ("tcp", &written.tcp), ("nats", &written.nats)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)))
            .collect();
    let (name, value) = match ways.as_slice() {
        [one] => *one,
        [] => {
            finder.error_at(at, format!("{} does not say what to ask", what(at))).hint(
                "give one of http, tcp and nats, as in { http = \"http://127.0.0.1:8080/health\" }",
            );
            return None;
        }
        [(one, _), (two, _), ..] => {
            finder
                .error_at(at, format!("{} says both \"{one}\" and \"{two}\"", what(at)))
                .hint("keep the one that tells best whether the stage's service is up");
            return None;
        }
    };
    let at = at.join(name);
    let shown = finder.shown(&at, value);
    let of = match name {
        "http" => {
            let is_url = reqwest::Url::parse(value)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_url {
                let message = format!("{} should be a URL, got {shown}", what(&at));
                finder.error_at(&at, message).hint("such as \"http://127.0.0.1:8080/health\"");
            }
            CheckOf::Http(value.clone())
        }
        "tcp" => {
            let port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                let message = format!("{} should be a host and a port, got {shown}", what(&at));
                finder
                    .error_at(&at, message)
                    .hint("such as \"db.internal:5432\" or \"[::1]:5432\"");
            }
            CheckOf::Tcp(value.clone())
        }
        _ => {
            let wild = value.split('.').any(|token| token == "*" || token == ">");
            if let Some((why, hint)) = subjects::fault(value) {
                finder.error_at(&at, format!("{} is no subject: {why}", what(&at))).hint(hint);
            } else if wild {
                let message =
                    format!("{} has a wildcard, {shown}: a request goes to one subject", what(&at));
                finder.error_at(&at, message).hint("such as \"svc.health\"");
            }
            CheckOf::Nats(value.clone())
        }
    };
    Some(Check { of, every: written.every.0.max(Duration::from_millis(100)) })
}
