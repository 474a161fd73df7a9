//! Uses: names that files of a crate take from each other, by `use` lines and `crate::` paths.

use std::collections::{BTreeMap, BTreeSet};

/// Path of a module from its crate's root, such as `map::delivery`; the root itself is empty.
pub(super) type Module = Vec<String>;

/// Files of one crate, and the names that each takes from others.
pub(super) struct Uses {
    /// File of each module.
    files: BTreeMap<Module, String>,
    /// Names that a module hands on by `pub use`, with what they are.
    handed_on: BTreeMap<(Module, String), Module>,
    /// Full path of each name taken, by the module that takes it.
    taken: BTreeMap<Module, BTreeSet<Module>>,
}

impl Uses {
    /// Reads the files of a crate below `folder`; tests inside files are left out.
    pub(super) fn read(folder: &str, sources: &[(String, String)]) -> Self {
        let code = sources.iter().filter(|(path, _)| !is_test(path));
        let files: BTreeMap<Module, String> =
            code.clone().map(|(path, _)| (module(folder, path), path.clone())).collect();
        let mut uses = Self { files, handed_on: BTreeMap::new(), taken: BTreeMap::new() };
        for (path, text) in code {
            uses.read_file(&module(folder, path), &without_tests(text));
        }
        uses
    }

    fn read_file(&mut self, me: &Module, text: &str) {
        for (is_public, tree) in use_items(text) {
            for path in leaves(&tree) {
                let Some(path) = self.absolute(me, &path) else { continue };
                let name = path.last().cloned().unwrap_or_default();
                if is_public {
                    self.handed_on.insert((me.clone(), name), path);
                } else {
                    self.taken.entry(me.clone()).or_default().insert(path);
                }
            }
        }
        for (at, _) in text.match_indices("crate::") {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path = text[at + "crate::".len()..].split(|c| !is_path(c)).next().unwrap_or("");
            let path: Module =
                path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            if !path.is_empty() && !text[..at].ends_with(is_path) {
                self.taken.entry(me.clone()).or_default().insert(path);
            }
        }
    }

    /// Path from the crate's root of what `me` writes as `path`; `None` for another crate's.
    fn absolute(&self, me: &Module, path: &[String]) -> Option<Module> {
        let rest = |n: usize| path[n..].to_vec();
        match path.first()?.as_str() {
            "crate" => Some(rest(1)),
            "self" => Some([me.clone(), rest(1)].concat()),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                Some([me[..me.len().saturating_sub(up)].to_vec(), rest(up)].concat())
            }
            first => {
                let child = [me.clone(), vec![first.to_owned()]].concat();
                self.files.contains_key(&child).then(|| [me.clone(), path.to_vec()].concat())
            }
        }
    }

    /// Module in which a name is defined, whoever handed it on.
    fn defined_in(&self, path: &Module) -> Module {
        let mut path = path.clone();
        for _ in 0..10 {
            let known = |n: &usize| self.files.contains_key(&path[..*n]);
            let n = (0..=path.len()).rev().find(known).unwrap_or(0);
            let Some(name) = path.get(n) else { return path };
            match self.handed_on.get(&(path[..n].to_vec(), name.clone())) {
                Some(target) => path = [target.clone(), path[n + 1..].to_vec()].concat(),
                None => return path[..n].to_vec(),
            }
        }
        path
    }

    /// Pairs of files of which the first takes a name from the second, as modules.
    pub(super) fn arrows(&self) -> BTreeSet<(Module, Module)> {
        let mut arrows = BTreeSet::new();
        for (me, paths) in &self.taken {
            for to in paths.iter().map(|path| self.defined_in(path)) {
                // The root hands names on and defines none of its own that others need.
                if to != *me && !to.is_empty() {
                    arrows.insert((me.clone(), to));
                }
            }
        }
        arrows
    }

    /// Groups of files that take names from each other in a loop.
    pub(super) fn circles(&self) -> Vec<BTreeSet<Module>> {
        let arrows = self.arrows();
        let reached = |from: &Module| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(at) = next.pop() {
                for (_, to) in arrows.iter().filter(|(from, _)| *from == at) {
                    if seen.insert(to.clone()) {
                        next.push(to.clone());
                    }
                }
            }
            seen
        };
        let all: BTreeMap<&Module, BTreeSet<Module>> =
            self.files.keys().map(|module| (module, reached(module))).collect();
        let mut circles: Vec<BTreeSet<Module>> = Vec::new();
        for (module, reaches) in &all {
            let with = reaches.iter().filter(|other| all[other].contains(*module)).cloned();
            let circle: BTreeSet<Module> = with.collect();
            if circle.len() > 1 && !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }

    /// Path of a module's file.
    pub(super) fn file(&self, module: &Module) -> &str {
        &self.files[module]
    }
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("/testing.rs")
        || path.ends_with("/main.rs")
}

fn module(folder: &str, path: &str) -> Module {
    let path = path.strip_prefix(folder).unwrap_or(path).trim_start_matches('/');
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let parts = path.split('/').filter(|part| !["mod", "lib"].contains(part));
    parts.map(str::to_owned).collect()
}

/// Text of a file without its comments and without the module of its tests.
fn without_tests(text: &str) -> String {
    let code = text.find("#[cfg(test)]\nmod tests").map_or(text, |at| &text[..at]);
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// `use` items of a file, each with true if it hands names on.
fn use_items(text: &str) -> Vec<(bool, String)> {
    let mut items = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rsplit('\n').next().unwrap_or_default().trim();
        let after = &rest[at + "use ".len()..];
        let end = after.find(';').unwrap_or(after.len());
        if line.is_empty() || line.starts_with("pub") {
            items.push((
                !line.is_empty(),
                after[..end].split_whitespace().collect::<Vec<_>>().join(" "),
            ));
        }
        rest = &after[end..];
    }
    items
}

/// Paths of a `use` tree.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let parts = |text: &str| -> Vec<String> {
        text.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    };
    let Some((before, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let mut path = parts(path);
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        return if path.is_empty() { Vec::new() } else { vec![path] };
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let child = leaves(&group[start..at]);
                let prefix = parts(before);
                found.extend(child.into_iter().map(|path| {
                    let path = if path == ["self"] { Vec::new() } else { path };
                    [prefix.clone(), path].concat()
                }));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn use_trees_are_read_as_rust_reads_them() {
    let all = leaves("crate::{a::{self, B as C}, d::{e::{F, G}, h}, i}");
    let all: Vec<String> = all.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        all,
        ["crate::a", "crate::a::B", "crate::d::e::F", "crate::d::e::G", "crate::d::h", "crate::i"]
    );
    let text = "pub use b::C;\nuse super::{x, y::Z};\nfn f() { use_it(); }\n";
    assert_eq!(
        use_items(text),
        [(true, "b::C".to_owned()), (false, "super::{x, y::Z}".to_owned())]
    );
}
