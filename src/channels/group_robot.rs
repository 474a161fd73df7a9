//! Group robot: the answers that DingTalk's and WeCom's group robots share.
//!
//! The status is 200 whatever happened; a code gives the outcome.

use std::time::Duration;

use millstream_stages::{Failure, failure::class, text::excerpt};
use serde::Deserialize;

use super::http::{Answer, REFUSED, Target};

/// Answer of a robot.
#[derive(Deserialize)]
struct RobotAnswer {
    errcode: i64,
    #[serde(default)]
    errmsg: String,
}

/// Code that means "later", and the wait that it asks for.
pub(super) type Later = (i64, Option<Duration>);

/// Outcome that the answer of a robot means. A code that is in `later` is retried, any other than 0
/// rejected.
///
/// # Errors
/// Failure that the code means, or that the answer is not a robot's.
pub(super) fn meant(answer: &Answer, later: &[Later], target: &Target) -> Result<(), Failure> {
    let RobotAnswer { errcode, errmsg } = answer.json(target)?;
    if errcode == 0 {
        return Ok(());
    }
    let message = format!("errcode {errcode}: {}", excerpt(&errmsg, 200));
    let failure = match later.iter().find(|(code, _)| *code == errcode) {
        Some((_, Some(wait))) => Failure::retry(class::RATE_LIMITED, message).after(*wait),
        Some((_, None)) => Failure::retry(class::HTTP_SERVER, message),
        None => Failure::reject(REFUSED, message),
    };
    Err(target.failure(failure))
}
