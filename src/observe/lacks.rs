//! Lacks: what this worker's host has run out of, as conditions, for as long as it does.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Conditions, Trouble};
use crate::{descriptors, limits, shortage::Shortage};

/// Keeps a condition for each thing that runs short (`files`, `memory`, `disk`, `processes`,
/// `ports`), until `stop`. Descriptors are counted beforehand as well.
pub async fn watch(conditions: Arc<Conditions>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(limits::SHORTAGE_LOOK)).await.is_some() {
        for shortage in Shortage::ALL {
            look(shortage, &conditions);
        }
    }
}

fn look(shortage: Shortage, conditions: &Conditions) {
    let name = shortage.name();
    let nearly = || (shortage == Shortage::Files).then(nearly_gone).flatten();
    let why = match shortage.was_noticed_within(limits::SHORTAGE_SAID) {
        true => Some(format!("this worker had {} a moment ago; events wait", shortage.lacks())),
        false => nearly(),
    };
    match why {
        Some(why) => conditions.failing(name, Trouble::with_remedy(why, shortage.remedy())),
        None if conditions.all().iter().any(|(known, _)| known == name) => conditions.ok(name),
        None => {}
    }
}

/// Words for descriptors of which few are left. They name no exact number, which would be a new
/// cause each time.
fn nearly_gone() -> Option<String> {
    let most = descriptors::limit();
    let open = descriptors::open();
    // Without one to look with, there is none.
    let is_near =
        open.is_none_or(|open| open as f64 >= limits::DESCRIPTORS_NEARLY_GONE * most as f64);
    is_near.then(|| {
        let percent = limits::DESCRIPTORS_NEARLY_GONE * 100.0;
        format!("more than {percent:.0}% of the {most} file descriptors it may have are open")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_a_condition_until_it_was_not_noticed_for_a_while() {
        let conditions = Conditions::default();
        look(Shortage::Processes, &conditions);
        assert!(conditions.all().is_empty(), "what was never short is not shown");
        Shortage::Processes.notice();
        look(Shortage::Processes, &conditions);
        let (name, condition) = conditions.failed().remove(0);
        let trouble = condition.trouble.unwrap();
        assert_eq!(name, "processes");
        assert!(trouble.why.contains("no processes or threads left"), "{trouble:?}");
        assert!(trouble.remedy.unwrap().contains("ulimit -u"));
    }
}
