//! Connection: cut with messages on their way, silent, secured, and with more bytes than it may
//! hold.

use std::time::Duration;

use millstream::broker::ConsumerSpec;

mod bytes;
mod cut;
mod secured;

/// Consumer of all of a stream `s`.
fn consumer(name: &str) -> ConsumerSpec {
    ConsumerSpec {
        stream: "s".to_owned(),
        name: name.to_owned(),
        pipeline: "test".to_owned(),
        filters: Vec::new(),
        ack_wait: Duration::from_secs(60),
        max_deliver: None,
        max_ack_pending: 1000,
    }
}
