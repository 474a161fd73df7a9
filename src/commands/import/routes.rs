//! Routes: those of Alertmanager, its inhibitions and its time intervals.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use millstream_stages::{
    incident::Severity,
    matcher::{LABELS, Matchers},
    units::Period,
};

use super::{Import, quoted, yaml::Node};

/// Intervals of a route, in seconds.
#[derive(Clone, Copy)]
struct Intervals {
    wait: u64,
    group: u64,
    repeat: u64,
}

/// Alertmanager's own, where the file does not say.
const DEFAULTS: Intervals = Intervals { wait: 30, group: 300, repeat: 4 * 3600 };

/// Keys of a route that are read.
const KEYS: [&str; 12] = [
    "receiver",
    "group_by",
    "group_wait",
    "group_interval",
    "repeat_interval",
    "match",
    "match_re",
    "matchers",
    "continue",
    "routes",
    "mute_time_intervals",
    "active_time_intervals",
];

/// Writes the stage: its root route, the routes below, inhibitions and times.
pub(super) fn write(
    import: &mut Import,
    root: &Node,
    channels: &BTreeMap<String, Vec<String>>,
    stage: &str,
    input: &str,
) {
    let table = format!("stage.{stage}");
    _ = writeln!(import.out, "[{table}]\nkind = \"alert\"\ninputs = [{}]", quoted(input));
    if let Some(route) = root.get("route") {
        let mut writer = Writer { import, channels };
        writer.route(route, &table, DEFAULTS, true);
    }
    for rule in root.get("inhibit_rules").map(Node::items).unwrap_or_default() {
        inhibit(import, rule, &table);
    }
    for key in ["time_intervals", "mute_time_intervals"] {
        for interval in root.get(key).map(Node::items).unwrap_or_default() {
            times(import, interval, &table);
        }
    }
}

struct Writer<'a> {
    import: &'a mut Import,
    channels: &'a BTreeMap<String, Vec<String>>,
}

impl Writer<'_> {
    fn route(&mut self, route: &Node, table: &str, above: Intervals, is_root: bool) {
        for (key, line, _) in route.entries() {
            if !KEYS.contains(&key.as_str()) {
                self.import.left_out(*line, &format!("{key} of a route has no counterpart"));
            }
        }
        let mut out = String::new();
        if !is_root {
            let Some(matchers) = matchers(self.import, route, "", "this route") else { return };
            _ = writeln!(out, "\n[[{table}]]");
            if !matchers.is_empty() {
                _ = writeln!(out, "matchers = {}", list(&matchers));
            }
        }
        if let Some(receiver) = route.text_of("receiver") {
            let channels = self.channels.get(receiver).cloned().unwrap_or_default();
            _ = writeln!(out, "channels = {}", list(&channels));
        } else if is_root {
            out.push_str("channels = []\n");
        }
        if let Some(by) = route.get("group_by").or(is_root.then_some(route)) {
            let labels = self.group_by(by);
            _ = writeln!(out, "group_by = {}", list(&labels));
        }
        let own = |key: &str, from: u64| route.text_of(key).and_then(seconds).unwrap_or(from);
        let mut now = Intervals {
            wait: own("group_wait", above.wait),
            group: own("group_interval", above.group).max(1),
            repeat: own("repeat_interval", above.repeat),
        };
        if now.repeat < now.group {
            let line = route.get("repeat_interval").map_or(route.line, |node| node.line);
            self.import.note(line, "repeat_interval is raised to group_interval, as it would act");
            now.repeat = now.group;
        }
        for (key, value, before) in [
            ("group_wait", now.wait, above.wait),
            ("group_interval", now.group, above.group),
            ("repeat_interval", now.repeat, above.repeat),
        ] {
            if is_root || value != before {
                _ = writeln!(out, "{key} = \"{}\"", period(value));
            }
        }
        for (key, ours) in [("mute_time_intervals", "mute"), ("active_time_intervals", "active")] {
            if let Some(names) = route.get(key) {
                _ = writeln!(out, "{ours} = {}", list(&names.texts()));
            }
        }
        if route.text_of("continue") == Some("true") && !is_root {
            out.push_str("continue = true\n");
        }
        self.import.out.push_str(&out);
        for child in route.get("routes").map(Node::items).unwrap_or_default() {
            self.route(child, &format!("{table}.route"), now, false);
        }
    }

    /// Labels to group by: `alertname` is `code`, and those that no incident has are left out.
    fn group_by(&mut self, by: &Node) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for node in by.items() {
            let label = ours(node.text().unwrap_or_default());
            if label != "..." && !LABELS.contains(&label) {
                let text = format!("group_by: {}", no_label(label));
                self.import.left_out(node.line, &text);
            } else if !labels.iter().any(|known| known == label) {
                labels.push(label.to_owned());
            }
        }
        if labels.contains(&"...".to_owned()) { vec!["...".to_owned()] } else { labels }
    }
}

/// Our name of one of Alertmanager's labels.
fn ours(label: &str) -> &str {
    if label == "alertname" { "code" } else { label }
}

fn no_label(label: &str) -> String {
    format!(
        "no incident has the label \"{label}\" (\"metadata.{label}\" in the fingerprint of \
         aggregate-errors would make it one)"
    )
}

/// A matcher as it is written, whatever is in it.
pub(super) fn written(label: &str, op: &str, value: &str) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{}\"{op}\"{}\"", escaped(label), escaped(value))
}

/// Reads the matchers of a table, whose keys begin with `prefix`; `None` where one has no
/// counterpart, so that the whole would mean something else.
fn matchers(import: &mut Import, table: &Node, prefix: &str, whole: &str) -> Option<Vec<String>> {
    let mut texts: Vec<(usize, String)> = Vec::new();
    for (key, op) in [("match", "="), ("match_re", "=~")] {
        let old = table.get(&format!("{prefix}{key}"));
        for (label, line, value) in old.map(Node::entries).unwrap_or_default() {
            texts.push((*line, written(label, op, value.text().unwrap_or_default())));
        }
    }
    if let Some(list) = table.get(&format!("{prefix}matchers")) {
        let nodes = if list.text().is_some() { std::slice::from_ref(list) } else { list.items() };
        texts.extend(nodes.iter().filter_map(|node| Some((node.line, node.text()?.to_owned()))));
    }
    let mut read = Vec::new();
    for (line, text) in texts {
        match translated(&text) {
            Ok(matchers) => read.extend(matchers),
            Err(why) => {
                import.left_out(line, &format!("{whole}: {why}"));
                return None;
            }
        }
    }
    Some(read)
}

/// Matchers of a text in our words: our labels, our severities.
///
/// # Errors
/// Why one has no counterpart.
pub(super) fn translated(text: &str) -> Result<Vec<String>, String> {
    let mut matchers: Matchers = text.parse()?;
    for matcher in &mut matchers.0 {
        matcher.label = ours(&matcher.label).to_owned();
    }
    let known: BTreeSet<String> = LABELS.map(str::to_owned).into();
    if let Some(label) = matchers.unknown(&known).first() {
        return Err(no_label(label));
    }
    let texts: Vec<String> = matchers.0.iter().map(|one| severity(&one.to_string())).collect();
    for text in &texts {
        if let Some((why, hint)) = text.parse::<Matchers>()?.never() {
            return Err(format!("{why}; {hint}"));
        }
    }
    Ok(texts)
}

/// A matcher with severities of other names as those that they mean: `warning` is `medium`.
fn severity(matcher: &str) -> String {
    for op in ["!=\"", "=~\"", "!~\"", "=\""] {
        let value = matcher.strip_prefix("severity").and_then(|rest| rest.strip_prefix(op));
        let Some(value) = value.and_then(|rest| rest.strip_suffix('"')) else { continue };
        let meant = |word: &str| {
            Severity::meant_by(word).map_or_else(|| word.to_owned(), |s| s.as_str().to_owned())
        };
        let words: Vec<String> = value.split('|').map(meant).collect();
        return format!("severity{op}{}\"", words.join("|"));
    }
    matcher.to_owned()
}

fn inhibit(import: &mut Import, rule: &Node, table: &str) {
    let Some(source) = matchers(import, rule, "source_", "this inhibition") else { return };
    let Some(target) = matchers(import, rule, "target_", "this inhibition") else { return };
    let mut equal = Vec::new();
    for node in rule.get("equal").map(Node::items).unwrap_or_default() {
        let label = ours(node.text().unwrap_or_default());
        if !LABELS.contains(&label) {
            import.left_out(node.line, &format!("this inhibition: {}", no_label(label)));
            return;
        }
        equal.push(label);
    }
    if source.is_empty() || target.is_empty() {
        import.left_out(rule.line, "this inhibition fits every incident");
        return;
    }
    let (source, target) = (list(&source), list(&target));
    _ = writeln!(import.out, "\n[[{table}.inhibit]]\nsource = {source}\ntarget = {target}");
    if !equal.is_empty() {
        _ = writeln!(import.out, "equal = {}", list(&equal));
    }
}

fn times(import: &mut Import, interval: &Node, table: &str) {
    let name = interval.text_of("name").unwrap_or_default();
    for one in interval.get("time_intervals").map(Node::items).unwrap_or_default() {
        _ = writeln!(import.out, "\n[[{table}.time]]\nname = {}", quoted(name));
        for (key, line, value) in one.entries() {
            // `1:3` is a range there, and `-` one here.
            let ranges = || value.texts().into_iter().map(|text| text.replace(':', "-")).collect();
            let (ours, texts): (_, Vec<String>) = match key.as_str() {
                "times" => {
                    let range = |node: &Node| {
                        let (from, to) = (node.text_of("start_time")?, node.text_of("end_time")?);
                        Some(format!("{from}-{to}"))
                    };
                    ("times", value.items().iter().filter_map(range).collect())
                }
                "weekdays" => ("weekdays", value.texts().into_iter().flat_map(weekdays).collect()),
                "days_of_month" => ("days", ranges()),
                "months" => ("months", ranges()),
                "years" => ("years", ranges()),
                "location" => {
                    let zone = value.text().unwrap_or_default();
                    if zone == "Local" {
                        import.left_out(*line, "location Local: name the time zone");
                    } else {
                        _ = writeln!(import.out, "zone = {}", quoted(zone));
                    }
                    continue;
                }
                _ => {
                    import.left_out(*line, &format!("{key} of a time has no counterpart"));
                    continue;
                }
            };
            _ = writeln!(import.out, "{ours} = {}", list(&texts));
        }
    }
}

/// Days of the week: weeks begin on Monday here, and on Sunday there.
fn weekdays(range: &str) -> Vec<String> {
    match range.to_ascii_lowercase().split_once(':') {
        Some(("sunday", "sunday")) | None => vec![range.to_ascii_lowercase()],
        Some(("sunday", to)) => vec!["sunday".to_owned(), format!("monday-{to}")],
        Some((from, to)) => vec![format!("{from}-{to}")],
    }
}

/// Seconds of one of Prometheus's durations, such as `1d12h`; less than one is one.
pub(super) fn seconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut millis) = (text.trim(), 0_u64);
    while !rest.is_empty() {
        let at = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..at].parse().ok()?;
        let (unit, each) = [
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
            ("w", 604_800_000),
            ("y", 31_536_000_000),
        ]
        .into_iter()
        .find(|(unit, _)| rest[at..].starts_with(unit))?;
        millis = millis.checked_add(number.checked_mul(each)?)?;
        rest = &rest[at + unit.len()..];
    }
    Some(millis.div_ceil(1000))
}

/// A duration as we write it.
pub(super) fn period(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

/// A list of texts in TOML.
fn list<T: AsRef<str>>(texts: &[T]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}
