//! Template: title, text and body of a notification as its channel's own templates word them.
//!
//! A template is checked against samples before it is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::{Arc, LazyLock},
};

use millstream_stages::{Failure, Problem, incident::Severity, notification::Notification};
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value,
    value::{Enumerator, Object},
};

use super::sample;

/// Class of a failure to render.
pub const TEMPLATE: &str = "TemplateError";

/// Most steps a template may take: a loop over everything in the largest notification takes a tenth
/// of it.
const FUEL: u64 = 200_000;
/// Longest text that a template may render, in bytes.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Longest source of a template, in bytes.
const SOURCE_BYTES_MAX: usize = 64 << 10;
/// Tables whose keys are not known beforehand: what is not in them renders as nothing.
const OPEN: [&str; 3] = ["labels", "by", "held"];

/// Form that a template renders: it decides how values are written into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Plain text: values as they are.
    Text,
    /// JSON: values as JSON, quotes included, so that no value can break out.
    Json,
    /// HTML or XML: values with `<`, `>`, `&` and quotes escaped.
    Html,
}

/// Template that was read and checked.
pub(super) struct Template {
    key: &'static str,
    environment: Environment<'static>,
}

impl Template {
    /// Reads a template and tries it on samples.
    ///
    /// # Errors
    /// Problem of the template, at `key`.
    pub(super) fn checked(key: &'static str, source: &str, form: Form) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new(&[key], message);
        if source.len() > SOURCE_BYTES_MAX {
            return Err(problem(format!("\"{key}\" is longer than {SOURCE_BYTES_MAX} bytes")));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_debug(false);
        environment.set_auto_escape_callback(move |_| match form {
            Form::Text => minijinja::AutoEscape::None,
            Form::Json => minijinja::AutoEscape::Json,
            Form::Html => minijinja::AutoEscape::Html,
        });
        environment.add_template_owned(key, source.to_owned()).map_err(|error| {
            problem(format!("\"{key}\" is no template: {}", error_text(&error))).hint(
                "values are written {{ incident.code }}, conditions {% if incident %}…{% endif %}",
            )
        })?;
        let template = Self { key, environment };
        if let Some(unknown) = template.unknown() {
            return Err(problem(format!(
                "\"{key}\" uses \"{unknown}\", which no notification has"
            ))
            .hint(hint(&unknown)));
        }
        for about in sample::SampleKind::ALL {
            let at = jiff::Timestamp::UNIX_EPOCH;
            let incident = sample::incident("REDIS_CONNECTION_FAILED", Severity::High, "shop", at);
            let (why, hint) = match template.write(&sample::notification("sample", about, incident))
            {
                Ok(text) if form == Form::Json => {
                    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
                        Ok(_) => continue,
                        Err(error) => {
                            let hint = "values are written as JSON, quotes included: \
                                        {\"text\": {{ title }}}";
                            (format!("it is no JSON: {error}"), Some(hint.to_owned()))
                        }
                    }
                }
                Ok(_) => continue,
                Err(error) => (error_text(&error), absent(&error).then(|| about_absent(about))),
            };
            let found =
                problem(format!("\"{key}\" cannot be rendered for {}: {why}", about.as_str()));
            return Err(Problem { hint, ..found });
        }
        Ok(template)
    }

    /// Renders the text for a notification.
    ///
    /// # Errors
    /// [`TEMPLATE`] rejection: the same template fails for the same notification again.
    pub(super) fn render(&self, notification: &Notification) -> Result<String, Failure> {
        self.write(notification).map_err(|error| {
            Failure::reject(
                TEMPLATE,
                format!("could not render \"{}\": {}", self.key, error_text(&error)),
            )
        })
    }

    fn write(&self, notification: &Notification) -> Result<String, Error> {
        let mut out = Bounded(Vec::new());
        self.environment
            .get_template(self.key)?
            .render_captured_to(context(notification), &mut out)?;
        Ok(String::from_utf8(out.0).unwrap_or_default())
    }

    /// First name in the template that no notification has.
    fn unknown(&self) -> Option<String> {
        let template = self.environment.get_template(self.key).ok()?;
        let mut named: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        named.sort();
        let builtin = |name: &str| self.environment.globals().any(|(global, _)| global == name);
        named.into_iter().find(|name| {
            let parts: Vec<&str> = name.split('.').collect();
            let open = |n: usize| parts[..n].last().is_some_and(|part| OPEN.contains(part));
            !builtin(parts[0]) && !FIELDS.contains(name) && !(1..parts.len()).any(open)
        })
    }
}

/// Variables that a template sees: the notification as JSON, and besides `incidents` (a list, empty
/// for a digest), `incident` (the first) and `grouped` (what a group has in common). What a
/// notification does not have is null.
fn context(notification: &Notification) -> Value {
    let mut table = serde_json::to_value(notification).expect("a notification is plain data");
    let incidents =
        serde_json::to_value(notification.incidents()).expect("an incident is plain data");
    let mut incidents: Vec<serde_json::Value> = incidents.as_array().cloned().unwrap_or_default();
    for incident in &mut incidents {
        for name in INCIDENT.iter() {
            if incident.get(name).is_none() {
                incident[name.as_str()] = serde_json::Value::Null;
            }
        }
    }
    let mut grouped = table.get_mut("incidents").map(serde_json::Value::take).unwrap_or_default();
    if let Some(grouped) = grouped.as_object_mut() {
        grouped.remove("list");
    }
    table["incident"] = incidents.first().cloned().unwrap_or_default();
    table["incidents"] = incidents.into();
    table["grouped"] = grouped;
    for absent in ["digest", "held"] {
        if table.get(absent).is_none() {
            table[absent] =
                if absent == "held" { serde_json::json!({}) } else { serde_json::Value::Null };
        }
    }
    value("", &table)
}

fn value(key: &str, json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Object(table) if OPEN.contains(&key) => Value::from_object(Open(
            table.iter().map(|(key, inner)| (key.clone(), value(key, inner))).collect(),
        )),
        Json::Object(table) => {
            Value::from_pairs(table.iter().map(|(key, inner)| (key.clone(), value(key, inner))))
        }
        Json::Array(list) => Value::from_iter(list.iter().map(|inner| value("", inner))),
        Json::Null => Value::from(()),
        Json::Bool(yes) => Value::from(*yes),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
    }
}

/// Table whose keys are not known beforehand.
#[derive(Debug)]
struct Open(BTreeMap<String, Value>);

impl Object for Open {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(self.0.get(key.as_str()?).cloned().unwrap_or_else(|| Value::from("")))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|key| Value::from(key.as_str())).collect())
    }
}

/// Every key of an incident, those that are often absent included.
static INCIDENT: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let incident =
        serde_json::to_value(&sample::everything("sample").incidents()[0]).unwrap_or_default();
    incident.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
});

/// Every path that a template may name, such as `incident.code`.
static FIELDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut fields = BTreeSet::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    let samples = sample::SampleKind::ALL.map(|about| {
        sample::notification("sample", about, sample::incident("CODE", Severity::High, "shop", at))
    });
    for notification in samples.iter().chain([&sample::everything("sample")]) {
        paths("", &context(notification), &mut fields);
    }
    fields
});

fn paths(prefix: &str, value: &Value, fields: &mut BTreeSet<String>) {
    if value.kind() != minijinja::value::ValueKind::Map {
        return;
    }
    for key in value.try_iter().into_iter().flatten() {
        let path = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
        if let Ok(inner) = value.get_item(&key) {
            paths(&path, &inner, fields);
        }
        fields.insert(path);
    }
}

/// True if an error means that something is not there.
fn absent(error: &Error) -> bool {
    error.kind() == ErrorKind::UndefinedError
}

/// Hint for a template that uses what such a notification does not have.
fn about_absent(about: sample::SampleKind) -> String {
    if about == sample::SampleKind::Digest {
        "a digest has no incident: \
         {% if incident %}{{ incident.code }}{% else %}{{ title }}{% endif %}"
            .to_owned()
    } else {
        hint("")
    }
}

/// Hint for an unknown name: what there is in its place.
fn hint(unknown: &str) -> String {
    let (parent, name) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    let (parent, name) = if FIELDS.contains(parent) { (parent, name) } else { ("", unknown) };
    let beside: Vec<&str> = FIELDS
        .iter()
        .filter_map(|path| match path.rsplit_once('.') {
            Some((above, last)) => (above == parent).then_some(last),
            None => parent.is_empty().then_some(path.as_str()),
        })
        .collect();
    let near = beside.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    let near = match near {
        Some((distance, known)) if distance <= 2 && !name.is_empty() => {
            format!("did you mean \"{known}\"? ")
        }
        _ => String::new(),
    };
    let of = if parent.is_empty() { "a notification".to_owned() } else { format!("\"{parent}\"") };
    let more = if parent.is_empty() { "; incident has: " } else { "" };
    let inner: Vec<&str> =
        if parent.is_empty() { INCIDENT.iter().map(String::as_str).collect() } else { Vec::new() };
    format!("{near}{of} has: {}{more}{}", beside.join(", "), inner.join(", "))
}

/// Error text of the template engine, without its own address of the place.
fn error_text(error: &Error) -> String {
    let kind = error.kind();
    let what = match error.detail() {
        _ if kind == ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
        _ if kind == ErrorKind::WriteFailure => {
            format!("it renders more than {OUTPUT_BYTES_MAX} bytes")
        }
        _ if absent(error) => "it uses a value that is not there".to_owned(),
        Some(detail) => detail.to_owned(),
        None => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// Rendered bytes, up to [`OUTPUT_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn shown(key: &'static str, source: &str, form: Form) -> String {
        match Template::checked(key, source, form) {
            Ok(_) => "fine\n".to_owned(),
            Err(problem) => {
                let hint = problem.hint.map(|hint| format!("    {hint}\n")).unwrap_or_default();
                format!("{}: {}\n{hint}", problem.at.join("."), problem.message)
            }
        }
    }

    #[test]
    fn a_template_is_tried_on_every_sort_of_notification_before_it_is_used() {
        let sources = [
            ("title", "{{ severity|upper }} {{ title }}", Form::Text),
            (
                "title",
                "{% if incident %}{{ incident.code }} {{ incident.labels.tenant }}\
                 {% else %}{{ title }}{% endif %}",
                Form::Text,
            ),
            ("title", "{{ incident.cdoe }}", Form::Text),
            ("title", "{{ titel }}", Form::Text),
            ("title", "{{ incident.code }}", Form::Text),
            ("text", "{{ title", Form::Text),
            ("text", "a\n{% for i in incidents %}{{ i.cdoe }}{% endfor %}", Form::Text),
            (
                "text",
                "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                Form::Text,
            ),
            (
                "text",
                "{% for a in range(9000) %}{{ text }}{{ text }}{{ text }}{% endfor %}",
                Form::Text,
            ),
            (
                "body",
                concat!(
                    r#"{"t": {{ title }}, "n": {{ held }}, "#,
                    r#""l": [{% for i in incidents %}{{ i.labels }}, {% endfor %}0]}"#,
                ),
                Form::Json,
            ),
            ("body", r#"{"t": "{{ title }}"}"#, Form::Json),
        ];
        expect![[r#"
            fine
            fine
            title: "title" uses "incident.cdoe", which no notification has
                did you mean "code"? "incident" has: acknowledged, channels, code, count, event, fingerprint, firstSeen, generation, incidentId, labels, lastResolvedAt, lastSeen, message, newErrors, openedAt, perMinute, ratePerMinute, resolvedAt, resolvedBy, samples, services, severity, threshold, total, trend, users, windowMs
            title: "title" uses "titel", which no notification has
                did you mean "title"? a notification has: at, channel, digest, group, grouped, held, incident, incidents, kind, news, notificationId, severity, status, text, title, why; incident has: acknowledged, channels, code, count, event, fingerprint, firstSeen, generation, incidentId, labels, lastResolvedAt, lastSeen, message, newErrors, openedAt, perMinute, ratePerMinute, resolvedAt, resolvedBy, samples, services, severity, threshold, total, trend, users, windowMs
            title: "title" cannot be rendered for a digest: it uses a value that is not there (line 1)
                a digest has no incident: {% if incident %}{{ incident.code }}{% else %}{{ title }}{% endif %}
            text: "text" is no template: unexpected end of input, expected end of variable block (line 1)
                values are written {{ incident.code }}, conditions {% if incident %}…{% endif %}
            text: "text" cannot be rendered for an incident that opened: it uses a value that is not there (line 2)
                a notification has: at, channel, digest, group, grouped, held, incident, incidents, kind, news, notificationId, severity, status, text, title, why; incident has: acknowledged, channels, code, count, event, fingerprint, firstSeen, generation, incidentId, labels, lastResolvedAt, lastSeen, message, newErrors, openedAt, perMinute, ratePerMinute, resolvedAt, resolvedBy, samples, services, severity, threshold, total, trend, users, windowMs
            text: "text" cannot be rendered for an incident that opened: it takes too many steps (line 1)
            text: "text" cannot be rendered for an incident that opened: it renders more than 262144 bytes
            fine
            body: "body" cannot be rendered for an incident that opened: it is no JSON: expected `,` or `}` at line 1 column 9
                values are written as JSON, quotes included: {"text": {{ title }}}
        "#]].assert_eq(&sources.map(|(key, source, form)| shown(key, source, form)).concat());
    }

    #[test]
    fn a_value_does_not_break_out_of_what_it_is_written_into() {
        let mut notification = sample::everything("ops");
        notification.title = "\"}, <b> & {{ incident }}".to_owned();
        let render = |source: &str, form| {
            Template::checked("body", source, form).unwrap().render(&notification).unwrap()
        };
        assert_eq!(render("{{ title }}", Form::Text), notification.title);
        let json: serde_json::Value =
            serde_json::from_str(&render("{\"t\": {{ title }}}", Form::Json)).unwrap();
        assert_eq!(json["t"], notification.title);
        assert_eq!(render("{{ title }}", Form::Html), "&quot;}, &lt;b&gt; &amp; {{ incident }}");
    }
}
