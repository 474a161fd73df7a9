//! Channel names: check of a list of channels in the options of a stage.

use crate::{Problem, World};

/// Most channels of one route or rule, those of an escalation included: each is a key of the state
/// when a group is flushed.
pub(crate) const CHANNELS_MAX: usize = 32;

/// Returns the problems of a list of channels at `at`.
pub(crate) fn channel_problems(
    at: &[&str],
    channels: &[String],
    world: &dyn World,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if channels.len() > CHANNELS_MAX {
        problems.push(Problem::new(at, format!("expected at most {CHANNELS_MAX} channels")));
    }
    let declared = world.channels();
    for (n, name) in channels
        .iter()
        .enumerate()
        .filter(|(_, name)| declared.iter().all(|known| known.name != **name))
    {
        let problem = Problem::new(
            &[at, &[&n.to_string()]].concat(),
            format!("channel \"{name}\" is not declared"),
        );
        problems.push(problem.hint(format!("declare it with [channel.{name}]")));
    }
    problems
}
