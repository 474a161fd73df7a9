//! Rust handler: a handler of your own in a program that is the whole `millstream` command line,
//! plus `enrich`.
//!
//! Name it in `pipeline.toml`: `handler = { rust = "enrich", timeout = "2s" }`. Then, as with
//! `millstream` itself: `cargo run --example rust_handler -- check`, `… -- run`.

use std::process::ExitCode;

use millstream::stages::{Delivery, Event, Failure, Reply};
use serde_json::{Value, json};

fn main() -> ExitCode {
    millstream::Millstream::new().handler("enrich", enrich).main()
}

/// Adds the price with tax; it may be called again for the same event, so it does the same each
/// time.
async fn enrich(event: Event, _: Delivery) -> Result<Reply, Failure> {
    let mut order: Value =
        event.json().map_err(|error| Failure::reject("ValidationError", error))?.clone();
    let Some(amount) = order["eventData"]["amount"].as_f64() else {
        return Err(Failure::reject("ValidationError", "the order has no amount"));
    };
    order["eventData"]["amountWithTax"] = json!(amount * 1.19);
    Ok(Reply::Replace(vec![order.to_string().into()]))
}
