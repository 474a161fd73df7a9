//! Robot: what DingTalk's and WeCom's group robots have in common: they answer 200 to everything,
//! and say the rest in a code.

use std::time::Duration;

use millstream_stages::{Failure, failure::class, text::excerpt};
use serde::Deserialize;

use super::http::{Answer, REFUSED, Target};

/// What a robot answers.
#[derive(Deserialize)]
struct Told {
    errcode: i64,
    #[serde(default)]
    errmsg: String,
}

/// A code that means "later", and the wait that it asks for.
pub(super) type Later = (i64, Option<Duration>);

/// What the answer of a robot means. A code that is in `later` is retried, any other than 0
/// rejected.
///
/// # Errors
/// What the code says; that the answer is not a robot's.
pub(super) fn meant(answer: &Answer, later: &[Later], target: &Target) -> Result<(), Failure> {
    let Told { errcode, errmsg } = answer.json(target)?;
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
