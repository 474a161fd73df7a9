//! Receivers: those of Alertmanager as channels, one for each integration that we have.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Import, yaml::Node};

/// Integrations that have a channel here, with Alertmanager's default of `send_resolved`.
const KINDS: [(&str, &str, bool); 4] = [
    ("webhook_configs", "webhook", true),
    ("email_configs", "email", false),
    ("slack_configs", "slack", false),
    ("pagerduty_configs", "pagerduty", true),
];

/// Longest name of a channel.
const NAME_MAX: usize = 32;

/// Writes the receivers; returns the channels of each by its name.
pub(super) fn write(import: &mut Import, root: &Node) -> BTreeMap<String, Vec<String>> {
    let empty = Node { line: 0, kind: super::yaml::Kind::Null };
    let global = root.get("global").unwrap_or(&empty);
    let mut channels: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut used = Vec::new();
    for receiver in root.get("receivers").map(Node::items).unwrap_or_default() {
        let name = receiver.text_of("name").unwrap_or_default().to_owned();
        let mut own = Vec::new();
        for (key, line, list) in receiver.entries() {
            let Some((_, kind, resolved)) = KINDS.iter().find(|(known, ..)| known == key) else {
                if key != "name" {
                    import.left_out(*line, &format!("receiver \"{name}\": {key} has no channel"));
                }
                continue;
            };
            for table in list.items() {
                let channel = unique(&name, &mut used);
                let mut keys = Keys { import, table, global, channel: &channel, taken: Vec::new() };
                let text = keys.channel(kind, *resolved);
                keys.rest(kind);
                _ = writeln!(import.out, "[channel.{channel}]\nkind = \"{kind}\"\n{text}");
                own.push(channel);
            }
        }
        channels.insert(name, own);
    }
    channels
}

/// Name of a channel made from that of a receiver, unlike all before it.
fn unique(receiver: &str, used: &mut Vec<String>) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = receiver.chars().map(fit).take(NAME_MAX).collect();
    let name = name.trim_matches('-');
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let name = if starts { name.to_owned() } else { format!("r-{name}") };
    let name = name.trim_end_matches('-');
    let all = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}-{n}")));
    let free = all.into_iter().find(|name| !used.contains(name)).unwrap_or_default();
    used.push(free.clone());
    free
}

/// Keys of one integration, and which of them were taken.
struct Keys<'a, 'b> {
    import: &'b mut Import,
    table: &'a Node,
    global: &'a Node,
    channel: &'b str,
    taken: Vec<&'static str>,
}

impl<'a> Keys<'a, '_> {
    /// The text of a key, or of one of the `global` section.
    fn take(&mut self, key: &'static str, global: &str) -> Option<&'a str> {
        self.taken.push(key);
        let own = self.table.text_of(key);
        own.or_else(|| self.global.text_of(global).filter(|_| !global.is_empty()))
    }

    /// A variable to fill in, named after the channel.
    fn variable(&mut self, what: &str) -> String {
        let name = format!("{}_{what}", self.channel.replace('-', "_").to_uppercase());
        self.import.variables.insert(name.clone());
        format!("\"${{{name}}}\"")
    }

    fn channel(&mut self, kind: &str, resolved: bool) -> String {
        let mut out = String::new();
        match kind {
            "webhook" => self.webhook(&mut out),
            "email" => self.email(&mut out),
            "slack" => {
                let url = self.take("api_url", "slack_api_url").unwrap_or_default();
                self.taken.push("api_url_file");
                let (private, url) = (is_private(url), self.variable("URL"));
                _ = writeln!(out, "url = {url}{}", allowed(private));
            }
            _ => {
                self.taken.extend(["routing_key", "service_key", "routing_key_file"]);
                let key = self.variable("ROUTING_KEY");
                _ = writeln!(out, "routing_key = {key}");
                if let Some(url) = self.take("url", "pagerduty_url") {
                    let (private, url) = (is_private(url), self.variable("URL"));
                    _ = writeln!(out, "url = {url}{}", allowed(private));
                }
            }
        }
        let sends = self.take("send_resolved", "").map_or(resolved, |text| text == "true");
        if !sends {
            out.push_str("send_resolved = false\n");
        }
        out
    }

    fn webhook(&mut self, out: &mut String) {
        let private = is_private(self.take("url", "").unwrap_or_default());
        self.taken.push("url_file");
        let url = self.variable("URL");
        _ = writeln!(out, "url = {url}{}\nformat = \"alertmanager\"", allowed(private));
        let timeout = self.take("timeout", "").and_then(super::routes::seconds);
        if let Some(timeout) = timeout.filter(|timeout| *timeout > 0) {
            _ = writeln!(out, "timeout = \"{}\"", super::routes::period(timeout));
        }
        let Some(http) = self.table.get("http_config") else { return };
        self.taken.push("http_config");
        for (key, line, value) in http.entries() {
            let bearer = key == "bearer_token"
                || (key == "authorization"
                    && value.text_of("type").is_none_or(|kind| kind == "Bearer"));
            if bearer {
                let token = self.variable("TOKEN");
                let token = token.trim_matches('"');
                _ = writeln!(out, "headers = {{ authorization = \"Bearer {token}\" }}");
            } else if key != "follow_redirects" && key != "enable_http2" {
                let what = format!("channel \"{}\": {key} of http_config", self.channel);
                self.import.left_out(*line, &format!("{what} has no counterpart"));
            }
        }
    }

    fn email(&mut self, out: &mut String) {
        let host = self.take("smarthost", "smtp_smarthost").unwrap_or("localhost:25");
        let from = self.take("from", "smtp_from").unwrap_or_default();
        let to: Vec<String> = self
            .take("to", "")
            .unwrap_or_default()
            .split(',')
            .map(|address| super::quoted(address.trim()))
            .collect();
        let (smtp, from) = (super::quoted(host), super::quoted(from));
        _ = writeln!(out, "smtp = {smtp}\nfrom = {from}\nto = [{}]", to.join(", "));
        let user = self.take("auth_username", "smtp_auth_username");
        if let Some(user) = user {
            let password = self.variable("PASSWORD");
            _ = writeln!(out, "user = {}\npassword = {password}", super::quoted(user));
        }
        self.taken.extend(["auth_password", "auth_password_file", "auth_identity"]);
        if self.take("require_tls", "smtp_require_tls") == Some("false") {
            if user.is_none() {
                out.push_str("tls = \"none\"\n");
            } else {
                let line = self.table.get("require_tls").map_or(self.table.line, |node| node.line);
                let text = "require_tls: false: a password is sent only over TLS";
                self.import.left_out(line, &format!("channel \"{}\": {text}", self.channel));
            }
        }
        if is_private(&format!("http://{host}")) {
            out.push_str("allow_private = true\n");
        }
    }

    /// Names the keys that were not taken.
    fn rest(&mut self, kind: &str) {
        for (key, line, _) in self.table.entries() {
            if !self.taken.contains(&key.as_str()) {
                let channel = self.channel;
                let text = format!("channel \"{channel}\": {key} has no counterpart in {kind}");
                let hint = if ["title", "text", "html", "headers", "description"]
                    .contains(&key.as_str())
                {
                    ": write \"title\" and \"text\" as templates of ours"
                } else {
                    ""
                };
                self.import.left_out(*line, &format!("{text}{hint}"));
            }
        }
    }
}

/// Line that allows a private address.
const fn allowed(private: bool) -> &'static str {
    if private { "\nallow_private = true" } else { "" }
}

/// True if a URL leads to this host or a network that is not the Internet.
fn is_private(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        Ok(std::net::IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => {
            !host.is_empty()
                && (!host.contains('.')
                    || [".local", ".internal", ".svc", ".lan"]
                        .iter()
                        .any(|end| host.ends_with(end)))
        }
    }
}
