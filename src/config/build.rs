//! Build: sections of a file, each of the right shape, made into a [`Pipeline`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_stages::{
    Build, Emits,
    retry::Policy,
    units::{Period, Size},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Catalogue, Finder, KeyPath, breakers,
    inputs::{self, StageDraft},
    names,
    pipeline::{Channel, Observe, Pipeline, Stage, Storage, incident_labels},
    policies, recover, renames, shape, subjects, warnings,
    world::ConfigWorld,
    written::{
        ChannelTable, Medium, NatsTable, ObserveTable, PipelineTable, StageTable, StorageTable,
    },
};
use crate::{
    broker::{Auth, Nats},
    channels::{self, Words},
    suggest::suggest,
};

/// Checks the meaning of the sections, and puts the pipeline together.
///
/// Only to be used if `finder` found no error.
pub fn pipeline(
    root: &Value,
    text: &str,
    base: &Path,
    catalogue: &Catalogue,
    finder: &mut Finder,
) -> Option<Pipeline> {
    let PipelineTable { name, id } = table(root, &KeyPath::of(&["pipeline"]), finder);
    let name = name.unwrap_or_default();
    let named = KeyPath::of(&["pipeline", "name"]);
    if !finder.is_spoilt(&named) {
        names::check("pipeline", &name, &named, finder);
    }
    let nats = nats(root, base, finder);
    let sources = subjects::check(&tables(root, "source", finder), &name, finder);
    let policies = policies::check(root, tables(root, "retry", finder), finder);
    let channels = channels(root, base, catalogue, &policies, finder);
    let mut drafts = drafts(root, catalogue, finder);
    let source_names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    inputs::resolve(&mut drafts, &source_names, finder);
    let stages = stages(&drafts, &policies, finder);
    renames::check(&drafts, finder);
    let terms: Vec<_> = channels.iter().map(Channel::terms).collect();
    let world = ConfigWorld { base, handler: catalogue.handler.as_ref(), channels: &terms };
    let timeouts = built(&drafts, &world, finder);
    unknown_labels(&drafts, finder);
    let pipeline = Pipeline {
        name,
        id: id.filter(|id| !id.is_empty()),
        base: base.to_owned(),
        config_hash: hash(text),
        nats,
        sources,
        stages,
        channels,
        storage: storage(root, finder),
        observe: observe(root, finder),
    };
    if !finder.has_errors() {
        warnings::warn(root, &pipeline, &timeouts, finder);
    }
    Some(pipeline)
}

/// Reads the table at a path; its defaults where it is absent or was reported already.
fn table<T: DeserializeOwned + Default>(root: &Value, at: &KeyPath, finder: &mut Finder) -> T {
    let value = at
        .find(root)
        .filter(|value| value.is_object())
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    read(value, at, finder)
}

/// Reads a table as its type; the defaults where it does not fit.
fn read<T: DeserializeOwned + Default>(value: Value, at: &KeyPath, finder: &mut Finder) -> T {
    serde_json::from_value(value).unwrap_or_else(|error| {
        if !finder.is_spoilt(at) {
            finder.error_on(at, format!("{} cannot be read: {error}", shape::owner(at).0));
            finder.spoil(at.clone());
        }
        T::default()
    })
}

/// Reads the named tables of a section, in the order of the file.
fn tables<T: DeserializeOwned + Default>(
    root: &Value,
    section: &str,
    finder: &mut Finder,
) -> Vec<(KeyPath, String, T)> {
    let names: Vec<String> =
        root[section].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let mut all: Vec<(KeyPath, String, T)> = names
        .into_iter()
        .map(|name| {
            let at = KeyPath::of(&[section, &name]);
            let table = table(root, &at, finder);
            (at, name, table)
        })
        .collect();
    all.sort_by_key(|(at, _, _)| finder.order(at));
    all
}

/// Splits a table into the common keys and the kind's own, which the common table does not have.
fn split<T: DeserializeOwned + Default + serde::Serialize>(value: &Value) -> (Value, Value) {
    let common = serde_json::to_value(T::default()).unwrap_or_default();
    let (ours, own): (Map<String, Value>, Map<String, Value>) = value
        .as_object()
        .cloned()
        .unwrap_or_default()
        .into_iter()
        .partition(|(key, _)| common.get(key).is_some());
    (Value::Object(ours), Value::Object(own))
}

fn drafts(root: &Value, catalogue: &Catalogue, finder: &mut Finder) -> Vec<StageDraft> {
    let whole: Vec<(KeyPath, String, Value)> = tables(root, "stage", finder);
    let each = whole.into_iter().map(|(at, name, value)| {
        let (common, own) = split::<StageTable>(&value);
        let table: StageTable = read(common, &at, finder);
        let kind = table
            .kind
            .as_deref()
            .and_then(|name| catalogue.kinds.iter().find(|kind| kind.name == name));
        StageDraft { at, name, kind, table, own, inputs: Vec::new() }
    });
    each.collect()
}

/// Returns the policy that a table names, or the default one.
fn policy(
    name: Option<&str>,
    at: &KeyPath,
    policies: &BTreeMap<String, Policy>,
    finder: &mut Finder,
) -> Policy {
    let wanted = name.unwrap_or("default");
    policies.get(wanted).cloned().unwrap_or_else(|| {
        let (owner, shown) = (shape::owner(at).0, finder.shown(at, wanted));
        let hint = suggest(wanted, "the policies are", policies.keys().map(String::as_str));
        finder
            .error_at(at, format!("{owner} uses retry policy {shown}, which is not declared"))
            .hint(hint);
        Policy::default()
    })
}

fn stages(
    drafts: &[StageDraft],
    policies: &BTreeMap<String, Policy>,
    finder: &mut Finder,
) -> Vec<Stage> {
    let mut stages = Vec::new();
    for at in inputs::order(drafts) {
        let draft = &drafts[at];
        let table = &draft.table;
        let policy = policy(table.retry.as_deref(), &draft.at.join("retry"), policies, finder);
        for (n, pattern) in table.types.iter().enumerate() {
            if let Some((why, hint)) = subjects::fault(pattern) {
                let at = draft.at.join("types").join(n.to_string());
                let shown = finder.shown(&at, pattern);
                finder
                    .error_at(&at, format!("{shown} is no pattern of event types: {why}"))
                    .hint(hint);
            }
        }
        if table.ack_wait.0 < Duration::from_secs(1)
            && !finder.is_spoilt(&draft.at.join("ack_wait"))
        {
            let at = draft.at.join("ack_wait");
            finder
                .error_at(&at, format!("{} is too short: {}", shape::what(&at), table.ack_wait))
                .hint(
                    "the server would hand out events again that are still being handled; 1s is \
                     the least",
                );
        }
        let Some(kind) = draft.kind else { continue };
        stages.push(Stage {
            name: draft.name.clone(),
            kind,
            options: draft.own.clone(),
            inputs: draft.inputs.clone(),
            types: table.types.clone(),
            concurrency: table.concurrency.unwrap_or(kind.concurrency),
            ack_wait: table.ack_wait.0,
            max_ack_pending: table.max_ack_pending,
            policy,
            breaker: breakers::of(draft, kind, finder),
            recover: recover::recover(draft, finder),
            dedup: table.dedup.map(|Period(window)| window),
            chain: table.chain,
            renamed_from: renames::of(table),
        });
    }
    stages
}

/// Builds every stage once, so that problems of its own keys are found; returns the timeouts of
/// those that have one.
fn built(
    drafts: &[StageDraft],
    world: &ConfigWorld<'_>,
    finder: &mut Finder,
) -> BTreeMap<String, Duration> {
    let mut timeouts = BTreeMap::new();
    for draft in drafts {
        let problems = match draft.kind.map(|kind| &kind.build) {
            Some(Build::Map(build)) => match build(&draft.own, world) {
                Ok(map) => {
                    timeouts.extend(map.timeout().map(|timeout| (draft.name.clone(), timeout)));
                    continue;
                }
                Err(problems) => problems,
            },
            Some(Build::Reduce(build)) => build(&draft.own, world).err().unwrap_or_default(),
            None => continue,
        };
        for problem in problems {
            report_problem(problem, &draft.at, finder);
        }
    }
    timeouts
}

/// Reports labels in the options of stages that notify, where no stage makes incidents that have
/// them.
fn unknown_labels(drafts: &[StageDraft], finder: &mut Finder) {
    let emits = |draft: &&StageDraft, emits| draft.kind.is_some_and(|kind| kind.emits == emits);
    let own = drafts.iter().filter(|draft| emits(draft, Emits::Incidents)).map(|draft| &draft.own);
    let known = incident_labels(own);
    for draft in drafts.iter().filter(|draft| emits(draft, Emits::Notifications)) {
        for problem in millstream_stages::alert::unknown_labels(&draft.own, &known) {
            report_problem(problem, &draft.at, finder);
        }
    }
}

/// Reports a problem found by a kind, unless its place has been reported already.
fn report_problem(problem: millstream_stages::Problem, base: &KeyPath, finder: &mut Finder) {
    let at = base.extend(problem.at);
    if finder.is_spoilt(&at) {
        return;
    }
    let message = format!("{}: {}", shape::owner(base).0, problem.message);
    if at == *base { finder.error_on(&at, message) } else { finder.error_at(&at, message) }
        .maybe(problem.hint);
}

fn channels(
    root: &Value,
    base: &Path,
    catalogue: &Catalogue,
    policies: &BTreeMap<String, Policy>,
    finder: &mut Finder,
) -> Vec<Channel> {
    let whole: Vec<(KeyPath, String, Value)> = tables(root, "channel", finder);
    let mut channels = Vec::new();
    for (at, name, value) in whole {
        let (common, options) = split::<ChannelTable>(&value);
        let common: ChannelTable = read(common, &at, finder);
        let kind = common.kind.unwrap_or_default();
        let policy = policy(common.retry.as_deref(), &at.join("retry"), policies, finder);
        if catalogue.channels.iter().any(|entry| entry.name == kind) {
            (catalogue.channel)(&kind, &options, base)
                .into_iter()
                .for_each(|problem| report_problem(problem, &at, finder));
        }
        let words = Words { title: common.title, text: common.text };
        words.problems().into_iter().for_each(|problem| report_problem(problem, &at, finder));
        channels.push(Channel {
            name,
            rate: common.rate.unwrap_or_else(|| channels::rate(&kind)),
            kind,
            options,
            words,
            send_resolved: common.send_resolved,
            policy,
        });
    }
    if !channels.iter().any(|channel| channel.name == "log") {
        let policy = policies["default"].clone();
        let options = Value::Object(Map::new());
        channels.push(Channel {
            name: "log".to_owned(),
            kind: "log".to_owned(),
            options,
            words: Words::default(),
            rate: channels::rate("log"),
            send_resolved: true,
            policy,
        });
    }
    channels
}

fn nats(root: &Value, base: &Path, finder: &mut Finder) -> Nats {
    let at = KeyPath::of(&["nats"]);
    let written: NatsTable = table(root, &at, finder);
    let url = written.url.as_ref().map(|url| url.all().to_vec()).unwrap_or_default();
    for (n, address) in url.iter().enumerate() {
        let item = at.join("url").join(n.to_string());
        let place = if item.find(root).is_some() { item } else { at.join("url") };
        let scheme = address.split_once("://").map(|(scheme, _)| scheme);
        if address.is_empty()
            || scheme.is_some_and(|scheme| !["nats", "tls", "ws", "wss"].contains(&scheme))
        {
            let shown = finder.shown(&place, address);
            finder
                .error_at(&place, format!("{shown} is no address of a NATS server"))
                .hint("write nats://host:4222, or tls://host:4222");
        }
    }
    let ways: Vec<&str> = [
        ("creds", written.creds.is_some()),
        ("nkey", written.nkey.is_some()),
        ("user", written.user.is_some() || written.password.is_some()),
        ("token", written.token.is_some()),
    ]
    .iter()
    .filter_map(|(name, is)| is.then_some(*name))
    .collect();
    if let [first, second, ..] = ways.as_slice() {
        finder
            .error_on(
                &at.join(*second),
                format!("[nats] says who we are twice: by \"{first}\" and by \"{second}\""),
            )
            .hint("keep one of creds, nkey, user and password, token");
    }
    let auth = match written {
        NatsTable { creds: Some(path), .. } => Auth::Creds(base.join(path)),
        NatsTable { nkey: Some(seed), .. } => Auth::Nkey(seed),
        NatsTable { user: Some(user), password: Some(password), .. } => Auth::User(user, password),
        NatsTable { user, password, .. } if user.is_some() || password.is_some() => {
            pair(&at, ["user", "password"], user.is_some(), finder);
            Auth::None
        }
        NatsTable { token: Some(token), .. } => Auth::Token(token),
        NatsTable { .. } => Auth::None,
    };
    let tls = written.tls.unwrap_or_default();
    let path = |path: String| -> PathBuf { base.join(path) };
    let tls_identity = match (tls.cert, tls.key) {
        (Some(cert), Some(key)) => Some((path(cert), path(key))),
        (None, None) => None,
        (cert, _) => {
            pair(&at.join("tls"), ["cert", "key"], cert.is_some(), finder);
            None
        }
    };
    Nats { url, auth, tls_ca: tls.ca.map(path), tls_identity }
}

/// Reports that of two keys that go together one is absent.
fn pair(at: &KeyPath, keys: [&str; 2], has_first: bool, finder: &mut Finder) {
    let [given, absent] = if has_first { keys } else { [keys[1], keys[0]] };
    if !finder.is_spoilt(&at.join(absent)) {
        let message = format!("{} has no \"{absent}\"", shape::what(at));
        finder
            .error_on(&at.join(given), message)
            .hint(format!("\"{given}\" and \"{absent}\" go together"));
    }
}

fn storage(root: &Value, finder: &mut Finder) -> Storage {
    let written: StorageTable = table(root, &KeyPath::of(&["storage"]), finder);
    let bytes = |size: Option<Size>| size.map(|Size(bytes)| bytes);
    Storage {
        replicas: written.replicas,
        memory: written.storage == Medium::Memory,
        results_max_age: written.results_max_age.0,
        failed_max_age: written.failed_max_age.0,
        dlq_max_age: written.dlq_max_age.0,
        dlq_max_bytes: bytes(written.dlq_max_bytes),
        max_bytes: bytes(written.max_bytes),
        failed_max_bytes: bytes(written.failed_max_bytes),
        results_max_bytes: bytes(written.results_max_bytes),
        retry_max_bytes: bytes(written.retry_max_bytes),
        state_max_bytes: bytes(written.state_max_bytes),
        retry_max_age: written.retry_max_age.0,
    }
}

fn observe(root: &Value, finder: &mut Finder) -> Observe {
    let at = KeyPath::of(&["observe"]);
    let written: ObserveTable = table(root, &at, finder);
    let listen = written.listen.and_then(|text| {
        let at = at.join("listen");
        let shown = finder.shown(&at, &text);
        let address = text.parse().ok();
        if address.is_none() {
            let hint =
                "write an IP address and a port, such as \"127.0.0.1:9464\" or \"0.0.0.0:9464\"";
            finder
                .error_at(
                    &at,
                    format!("{} should be an address to listen on, got {shown}", shape::what(&at)),
                )
                .hint(hint);
        }
        address
    });
    if let Some(url) = written
        .otlp
        .as_ref()
        .filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        let at = at.join("otlp");
        let shown = finder.shown(&at, url);
        let message =
            format!("{} should begin with http:// or https://, got {shown}", shape::what(&at));
        finder
            .error_at(&at, message)
            .hint("an OTLP/HTTP collector listens on port 4318: \"http://127.0.0.1:4318\"");
    }
    Observe { listen, otlp: written.otlp, sample: written.sample }
}

/// The first 12 hexadecimal digits of the SHA-256 of the file.
fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
