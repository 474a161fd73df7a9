//! Paths: routes of services and files of programs stay by name, other paths are data.

use super::{ids, shape};

/// Folders at the root of a file system: a path that begins with another one may be a route.
const ROOTS: &[&str] = &[
    "app",
    "apps",
    "bin",
    "boot",
    "build",
    "cache",
    "code",
    "data",
    "dev",
    "etc",
    "home",
    "lib",
    "lib64",
    "media",
    "mnt",
    "nix",
    "node_modules",
    "opt",
    "private",
    "proc",
    "root",
    "run",
    "sbin",
    "snap",
    "spool",
    "src",
    "srv",
    "storage",
    "sys",
    "tmp",
    "usr",
    "users",
    "var",
    "volumes",
    "workspace",
];
/// Collections whose members are people: what follows is a name, whatever it looks like.
const PEOPLE: &[&str] = &["users", "customers", "accounts", "members", "profiles", "u"];
/// What follows them and is no name.
const NO_PERSON: &[&str] = &[
    "me", "self", "search", "login", "logout", "current", "new", "bulk", "export", "import",
    "count", "list",
];
/// Ends of the names of files with code.
const CODE: &[&str] = &[
    "rs", "go", "py", "js", "mjs", "cjs", "ts", "tsx", "jsx", "java", "kt", "kts", "scala", "cs",
    "fs", "vb", "rb", "php", "c", "cc", "cpp", "cxx", "h", "hpp", "swift", "ex", "exs", "erl",
    "clj", "lua", "pl", "pm", "sh", "bash", "sql", "vue", "svelte", "dart", "zig", "wasm", "so",
    "dll", "jar", "dylib", "proto", "erb", "groovy", "ps1",
];
/// Ends of the names of files that configure a program.
const CONFIGURATION: &[&str] = &[
    "toml",
    "yaml",
    "yml",
    "conf",
    "ini",
    "env",
    "pem",
    "key",
    "crt",
    "cer",
    "properties",
    "cfg",
    "sock",
    "service",
];
/// Top-level types of media (RFC 6838).
const MEDIA: &[&str] =
    &["application", "audio", "font", "image", "message", "model", "multipart", "text", "video"];
const SEGMENTS_MAX: usize = 16;

/// Returns the length of the URL that `text` begins with.
pub(super) fn url(text: &str) -> Option<usize> {
    let scheme = text.bytes().take(16).position(|b| !b.is_ascii_alphanumeric() && b != b'+')?;
    if scheme == 0 || !text[scheme..].starts_with("://") {
        return None;
    }
    let end = text
        .find(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>(){}|,;".contains(c))
        .unwrap_or(text.len());
    Some(text[..end].trim_end_matches(['.', ':', '!', '?']).len().max(scheme + 3))
}

/// True for `application/vnd.ms-excel`.
pub(super) fn is_media_type(word: &str) -> bool {
    word.split_once('/').is_some_and(|(kind, rest)| MEDIA.contains(&kind) && !rest.contains('/'))
        && !is_code_file(word)
}

/// True for the full name of a method of gRPC: `/shop.v1.Orders/Create`.
pub(super) fn is_rpc(word: &str) -> bool {
    let parts = word.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    parts.is_some_and(|(service, method)| {
        let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        service.contains('.')
            && service.split('.').all(|part| !part.is_empty() && is_name(part))
            && method.starts_with(|c: char| c.is_ascii_uppercase())
            && is_name(method)
    })
}

/// True for an absolute path that is no file by its looks.
pub(super) fn is_route(word: &str) -> bool {
    let Some(path) = word.strip_prefix('/') else { return false };
    let first = path.split('/').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    first.starts_with(|c: char| c.is_ascii_alphabetic())
        && !word.contains(['\\', '~', '$'])
        && !last.contains(['.', ':'])
        && !ROOTS.iter().any(|root| root.eq_ignore_ascii_case(first))
}

/// Returns a route without ids, query and what follows them at its end.
pub(super) fn route(path: &str) -> String {
    let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    let mut out = String::with_capacity(path.len());
    let (mut before, mut end) = ("", 0);
    for segment in path.split('/').filter(|segment| !segment.is_empty()).take(SEGMENTS_MAX) {
        let of_person = PEOPLE.contains(&before) && !NO_PERSON.contains(&segment);
        out.push('/');
        match (!of_person).then(|| step(segment)).flatten() {
            Some(kept) => {
                out.push_str(&kept);
                end = out.len();
            }
            None => out.push_str("<n>"),
        }
        before = segment;
    }
    out.truncate(end);
    out
}

/// Returns a step of a route as it stays; none where it is an id.
fn step(segment: &str) -> Option<String> {
    if segment.contains('.') {
        return file_name(segment);
    }
    let is_name = segment.chars().all(|c| c.is_alphabetic() || matches!(c, '-' | '_'))
        && !ids::is_id(segment)
        && !segment.split('-').any(ids::is_id);
    let of_hex = segment.split_once('_').is_some_and(|(kind, rest)| {
        matches!(kind.len(), 2..=4)
            && rest.len() >= 6
            && rest.bytes().all(|b| b.is_ascii_hexdigit())
    });
    (is_name && !of_hex || is_version(segment) || shape::is_term(segment))
        .then(|| segment.to_owned())
}

/// True for the version of an interface: `v1`, `v2beta1`.
fn is_version(segment: &str) -> bool {
    let rest = segment.strip_prefix('v').unwrap_or_default();
    rest.len() <= 8
        && rest.starts_with(|c: char| c.is_ascii_digit())
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        && rest.bytes().filter(u8::is_ascii_digit).count() <= 3
}

/// True for a path whose file has code in it.
fn is_code_file(word: &str) -> bool {
    let name = bare(word.rsplit(['/', '\\']).next().unwrap_or_default());
    name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && CODE.contains(&end))
}

/// Returns the name of the file of a path, if the program or its configuration is made of it.
pub(super) fn program_file(word: &str) -> Option<String> {
    let name = word.rsplit(['/', '\\']).next().unwrap_or_default();
    if is_code_file(word) {
        return file_name(name);
    }
    let configures =
        bare(name).rsplit_once('.').is_some_and(|(_, end)| CONFIGURATION.contains(&end));
    let of_user = || {
        word.split(['/', '\\'])
            .any(|part| matches!(part, "tmp" | "home" | "Users" | "uploads" | "Temp" | "data"))
    };
    let kept = word.starts_with("/etc/") || configures && !of_user();
    (kept && !name.is_empty()).then(|| without_digits(bare(name)))
}

/// Returns the name of a file without the line that follows it.
fn bare(name: &str) -> &str {
    let name = name.strip_suffix(":line").unwrap_or(name);
    let end = name.split_once(':').map_or(name.len(), |(file, _)| file.len());
    &name[..end]
}

/// Returns the name of a file without what a build adds: `index-4f9c2b1e.js` is `index.js`.
fn file_name(name: &str) -> Option<String> {
    let (stem, end) = bare(name).rsplit_once('.')?;
    let is_code = CODE.contains(&end);
    if !is_code && (stem.contains('.') || end.bytes().any(|b| b.is_ascii_digit())) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    for piece in stem.split_inclusive(['-', '.']) {
        let text = piece.trim_end_matches(['-', '.']);
        if !text.bytes().all(|b| b.is_ascii_digit()) && !ids::is_id(text) {
            out.push_str(piece);
        }
    }
    let kept = out.trim_end_matches(['-', '.']).len();
    out.truncate(kept);
    (!out.is_empty()).then(|| format!("{}.{end}", without_digits(&out)))
}

fn without_digits(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with("<n>") {
            out.push_str("<n>");
        }
    }
    out
}

/// True for an absolute path, or one of several parts with a file at its end.
pub(super) fn is_path(word: &str) -> bool {
    if !word.contains(['/', '\\']) {
        return false;
    }
    let absolute = ["/", "~/", "./", "../", "\\\\"]
        .iter()
        .any(|root| word.len() > root.len() && word.starts_with(root));
    let drive =
        word.len() > 3 && word.as_bytes()[0].is_ascii_alphabetic() && word[1..].starts_with(":\\");
    let parts = word.split(['/', '\\']).count();
    let file = word.rsplit(['/', '\\']).next().is_some_and(|last| last.contains('.'));
    absolute || drive || parts > 2 || (parts == 2 && file)
}
