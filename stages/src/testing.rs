//! Testing: helpers of several kinds' tests: a world in memory, a delivery, an answer at once.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use serde_json::Value;

use crate::{Build, ChannelTerms, Delivery, Handler, Kind, Map, Pending, Problem, World};

/// World with these files in whatever folder is asked for, and this handler.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) files: Vec<(&'static str, &'static str)>,
    pub(crate) handler: Option<Arc<dyn Handler>>,
}

impl World for Memory {
    fn folder(&self, path: &str) -> Result<Vec<(String, String)>, String> {
        if path == "missing" {
            return Err("cannot read folder \"missing\": no such file or directory".to_owned());
        }
        Ok(self.files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn handler(&self, _: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>> {
        self.handler.clone().ok_or_else(|| vec![Problem::new(&["http"], "is not a URL")])
    }

    fn channels(&self) -> Vec<ChannelTerms> {
        Vec::new()
    }
}

/// Returns the map stage that a kind builds.
pub(crate) fn map_stage(
    kind: &Kind,
    options: &Value,
    world: &Memory,
) -> Result<Box<dyn Map>, String> {
    let Build::Map(build) = kind.build else { panic!("{} is no map kind", kind.name) };
    build(options, world).map_err(|problems| {
        let line = |problem: Problem| {
            let hint = problem.hint.map(|hint| format!("\n hint: {hint}")).unwrap_or_default();
            format!("{}: {}{hint}\n", problem.at.join("."), problem.message)
        };
        problems.into_iter().map(line).collect()
    })
}

/// Returns a first delivery at the beginning of 1970.
pub(crate) fn delivery() -> Delivery {
    Delivery {
        stage: "stage".to_owned(),
        attempt: 1,
        now: SystemTime::UNIX_EPOCH,
        traceparent: None,
        edit: None,
    }
}

/// Returns an answer in one line: the reply, or the failure with what is to become of the event.
pub(crate) fn shown(answer: Result<impl std::fmt::Debug, crate::Failure>) -> String {
    match answer {
        Ok(reply) => format!("{reply:?}"),
        Err(failure) => format!("{:?} {failure}", failure.disposition),
    }
}

/// Returns the answer of a stage that waits for nothing.
#[track_caller]
pub(crate) fn answer<T>(pending: Pending<'_, T>) -> Result<T, crate::Failure> {
    match pin!(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the stage waits for something"),
    }
}
