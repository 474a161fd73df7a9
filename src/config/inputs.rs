//! Inputs: sources and stages that each stage reads, globs resolved; checks of cycles and chains.

use std::collections::BTreeSet;

use millstream_stages::{Build, Emits, Kind, retry::glob_matches};
use serde_json::Value;

use super::{Finder, KeyPath, pipeline::Input, written::StageTable};
use crate::suggest::nearest;

/// A stage on its way to being checked.
#[derive(Debug)]
pub struct StageDraft {
    /// Path of its table.
    pub at: KeyPath,
    /// Name of the stage.
    pub name: String,
    /// Kind of the stage, if known.
    pub kind: Option<&'static Kind>,
    /// Keys that every stage has.
    pub table: StageTable,
    /// Keys of the kind itself.
    pub own: Value,
    /// Inputs, globs resolved.
    pub inputs: Vec<Input>,
}

impl StageDraft {
    /// True for a map stage; `None`: the kind is unknown, and counts as whatever raises no further
    /// error.
    pub fn maps(&self) -> Option<bool> {
        self.kind.map(|kind| matches!(kind.build, Build::Map(_)))
    }
}

/// Name of the input of the monitor's findings. No stage has this name.
pub const MONITOR: &str = "monitor";

/// Text of an input, as written in `inputs`.
pub fn written(input: &Input) -> String {
    match input {
        Input::Source(name) => format!("source.{name}"),
        Input::Results(name) => name.clone(),
        Input::Failed(name) => format!("{name}.failed"),
        Input::Findings => MONITOR.to_owned(),
    }
}

/// Resolves the inputs of every stage, and reports those that no stage may have.
pub fn resolve(drafts: &mut [StageDraft], sources: &[&str], finder: &mut Finder) {
    let mut all: Vec<Input> =
        sources.iter().map(|name| Input::Source((*name).to_owned())).collect();
    all.extend(drafts.iter().map(|draft| Input::Results(draft.name.clone())));
    all.extend(
        drafts
            .iter()
            .filter(|d| d.maps() != Some(false))
            .map(|draft| Input::Failed(draft.name.clone())),
    );
    all.push(Input::Findings);
    let resolved: Vec<Vec<Input>> =
        drafts.iter().map(|draft| inputs(draft, drafts, &all, finder)).collect();
    for (draft, inputs) in drafts.iter_mut().zip(resolved) {
        draft.inputs = inputs;
    }
    cycles(drafts, finder);
    drafts.iter().for_each(|draft| chain(draft, drafts, finder));
}

fn inputs(
    draft: &StageDraft,
    drafts: &[StageDraft],
    all: &[Input],
    finder: &mut Finder,
) -> Vec<Input> {
    let mut found = BTreeSet::new();
    for (n, text) in draft.table.inputs.iter().enumerate() {
        let at = draft.at.join("inputs").join(n.to_string());
        let fitting = all.iter().filter(|input| matches(text, input, draft));
        let (readable, unreadable): (Vec<&Input>, Vec<&Input>) =
            fitting.partition(|input| refusal(draft, input, drafts).is_none());
        if let (true, Some(input)) = (readable.is_empty(), unreadable.first()) {
            let (message, hint) = refusal(draft, input, drafts).expect("it was refused just now");
            finder.error_at(&at, message).hint(hint);
        } else if readable.is_empty() && !finder.is_spoilt(&at) {
            nothing(draft, text, &at, drafts, all, finder);
        }
        found.extend(readable.into_iter().cloned());
    }
    found.into_iter().collect()
}

/// True if an entry of `inputs` means this input. A glob never means the stage itself.
fn matches(text: &str, input: &Input, reader: &StageDraft) -> bool {
    let (glob, name) = match (input, text.strip_prefix("source."), text.strip_suffix(".failed")) {
        (Input::Source(name), Some(glob), _) => (glob, name),
        (Input::Failed(name), None, Some(glob)) => (glob, name),
        (Input::Results(name), None, None) => (text, name),
        (Input::Findings, None, None) => return text == MONITOR,
        _ => return false,
    };
    let own = !matches!(input, Input::Source(_)) && *name == reader.name;
    glob_matches(glob, name) && !(own && glob.contains('*'))
}

/// Message and hint for an input that a stage cannot read; `None`: it can.
fn refusal(
    reader: &StageDraft,
    input: &Input,
    drafts: &[StageDraft],
) -> Option<(String, &'static str)> {
    let Input::Results(name) = input else { return None };
    let read = drafts.iter().find(|draft| draft.name == *name)?;
    let kind = read.kind.filter(|kind| matches!(kind.build, Build::Reduce(_)))?;
    if kind.emits == Emits::Notifications {
        let hint = "declare a [channel.<name>] for where they should go";
        return Some((
            format!(
                "stage \"{}\" cannot read \"{name}\": its notifications go to channels",
                reader.name
            ),
            hint,
        ));
    }
    let message = format!(
        "stage \"{}\" cannot read \"{name}\", which is of kind \"{}\"",
        reader.name, kind.name
    );
    (kind.emits == Emits::Incidents && reader.maps() == Some(true))
        .then_some((message, "incidents are read by stages that keep state, such as alert"))
}

fn nothing(
    draft: &StageDraft,
    text: &str,
    at: &KeyPath,
    drafts: &[StageDraft],
    all: &[Input],
    finder: &mut Finder,
) {
    let reader = &draft.name;
    let names: Vec<String> =
        all.iter().filter(|input| refusal(draft, input, drafts).is_none()).map(written).collect();
    let own = [reader.clone(), format!("{reader}.failed")];
    let names: Vec<String> = names.into_iter().filter(|name| !own.contains(name)).collect();
    let shown = finder.shown(at, text);
    let list = || format!("it could read: {}", names.join(", "));
    let stage = text
        .strip_suffix(".failed")
        .and_then(|name| drafts.iter().find(|draft| draft.name == name));
    if let Some(kind) = stage.and_then(|stage| stage.kind) {
        finder
            .error_at(
                at,
                format!(
                    "stage \"{reader}\" reads {shown}, which does not exist: a stage of kind \
                     \"{}\" has no failures",
                    kind.name
                ),
            )
            .hint("only stages that map events, such as validate and handle, have them");
    } else if text.contains('*') {
        finder
            .error_at(at, format!("{shown} in the inputs of stage \"{reader}\" matches nothing"))
            .hint(list());
    } else {
        let prefixed = format!("source.{text}");
        let near = names.iter().find(|name| **name == prefixed).map(String::as_str);
        let near = near.or_else(|| nearest(text, names.iter().map(String::as_str)));
        let hint = near.map_or_else(list, |name| format!("did you mean \"{name}\"?"));
        finder
            .error_at(at, format!("stage \"{reader}\" reads {shown}, which is not declared"))
            .hint(hint);
    }
}

/// Reports each cycle once, with the way around it.
fn cycles(drafts: &[StageDraft], finder: &mut Finder) {
    let mut done = BTreeSet::new();
    for start in 0..drafts.len() {
        follow(start, drafts, &mut Vec::new(), &mut done, finder);
    }
}

fn follow(
    at: usize,
    drafts: &[StageDraft],
    path: &mut Vec<usize>,
    done: &mut BTreeSet<usize>,
    finder: &mut Finder,
) {
    if let Some(start) = path.iter().position(|seen| *seen == at) {
        // The path goes from reader to read; events go the other way.
        let first = path[start..].iter().copied().min().expect("the cycle has a stage");
        let mut way: Vec<usize> = path[start..].iter().rev().copied().collect();
        let turn = way.iter().position(|stage| *stage == first).expect("it is in the cycle");
        way.rotate_left(turn);
        way.push(first);
        let names: Vec<&str> = way.iter().map(|stage| drafts[*stage].name.as_str()).collect();
        let message = format!("the stages go round in a circle: {}", names.join(" -> "));
        finder
            .error_at(&drafts[first].at.join("inputs"), message)
            .hint("an event would never leave it; take one of the inputs away");
        return;
    }
    if done.contains(&at) {
        return;
    }
    path.push(at);
    for input in &drafts[at].inputs {
        let (Input::Results(name) | Input::Failed(name)) = input else { continue };
        if let Some(read) = drafts.iter().position(|draft| draft.name == *name) {
            follow(read, drafts, path, done, finder);
        }
    }
    path.pop();
    done.insert(at);
}

fn chain(draft: &StageDraft, drafts: &[StageDraft], finder: &mut Finder) {
    if !draft.table.chain || finder.is_spoilt(&draft.at.join("inputs")) {
        return;
    }
    let (at, name) = (draft.at.join("chain"), &draft.name);
    let maps = |name: &str| {
        drafts
            .iter()
            .find(|draft| draft.name == name)
            .is_some_and(|draft| draft.maps() != Some(false))
    };
    if draft.maps() == Some(false) {
        finder
            .error_at(&at, format!("stage \"{name}\" cannot be chained: it keeps state"))
            .hint("only stages that map events, such as validate and handle, can be");
    } else if !matches!(draft.inputs.as_slice(), [Input::Results(read)] if maps(read))
        && !draft.inputs.is_empty()
    {
        let list: Vec<String> = draft.inputs.iter().map(written).collect();
        finder
            .error_at(
                &at,
                format!("stage \"{name}\" cannot be chained: it reads {}", list.join(", ")),
            )
            .hint(
                "a chained stage reads the results of exactly one stage that maps events; remove \
                 chain, or the other inputs",
            );
    }
}

/// Order in which each stage comes after its inputs; the file's order where that leaves a choice.
pub fn order(drafts: &[StageDraft]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(drafts.len());
    while order.len() < drafts.len() {
        let next = (0..drafts.len()).filter(|at| !order.contains(at)).find(|at| {
            drafts[*at].inputs.iter().all(|input| match input {
                Input::Source(_) | Input::Findings => true,
                Input::Results(name) | Input::Failed(name) => {
                    order.iter().any(|done| drafts[*done].name == *name)
                }
            })
        });
        // Nothing is next in a circle, which was reported: then the order does not matter.
        let Some(next) = next.or_else(|| (0..drafts.len()).find(|at| !order.contains(at))) else {
            break;
        };
        order.push(next);
    }
    order
}
