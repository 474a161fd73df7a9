//! Renames: names that stages had before, each claimed by one stage, and none that is still there.

use std::collections::BTreeMap;

use super::{Finder, inputs::StageDraft, names::is_name, written::StageTable};

/// Names that a stage had before.
pub fn of(table: &StageTable) -> Vec<String> {
    table.renamed_from.as_ref().map(|names| names.all().to_vec()).unwrap_or_default()
}

/// Reports names that cannot have been those of the stage.
pub fn check(drafts: &[StageDraft], finder: &mut Finder) {
    let mut claimed: BTreeMap<String, &str> = BTreeMap::new();
    for draft in drafts {
        let at = draft.at.join("renamed_from");
        if finder.is_spoilt(&at) {
            continue;
        }
        for name in of(&draft.table) {
            let (stage, shown) = (&draft.name, finder.shown(&at, &name));
            if !is_name(&name) {
                finder
                    .error_at(&at, format!("{shown} cannot have been the name of a stage"))
                    .hint("write the name as it stood in [stage.<name>]");
            } else if drafts.iter().any(|other| other.name == name) {
                finder
                    .error_at(
                        &at,
                        format!("stage \"{stage}\" cannot be renamed from {shown}: it is there"),
                    )
                    .hint("a stage that took over from another has its name gone from the file");
            } else if let Some(other) = claimed.insert(name.clone(), stage) {
                finder
                    .error_at(
                        &at,
                        format!("stages \"{other}\" and \"{stage}\" are both renamed from {shown}"),
                    )
                    .hint("what it holds can go on at one stage only");
            }
        }
    }
}
