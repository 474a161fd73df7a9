//! Redo: changes of a commit of more keys than the server takes in one batch, packed.
//!
//! The batch holds the fence and the packed changes. Once it is stored the commit holds; whoever
//! has the fence writes the keys, each only if nothing has been written to it since, so that it can
//! be done again, and a leader that was fenced out meanwhile overwrites nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Change of one key, as it is packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Packed {
    Text(String, String),
    Bytes(String, Vec<u8>),
    Gone(String),
}

/// Room that a packed message leaves for its headers and subject.
const RESERVE: usize = 4 << 10;

/// Text of a commit that the server takes in no form.
pub(super) fn too_many(most: usize) -> String {
    format!(
        "a checkpoint needs more than the {most} messages that the server takes in a batch: raise \
         max_msgs in jetstream.limits.batch of the server"
    )
}

/// Changes packed into the messages that a batch of `most` has beside the fence.
///
/// # Errors
/// They do not fit.
pub(super) fn packed(
    fence_key: &str,
    changes: &[(String, Option<Bytes>)],
    most: usize,
    max_payload: usize,
) -> Result<Vec<(String, Option<Bytes>)>, String> {
    let room = max_payload.saturating_sub(RESERVE);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (key, value) in changes {
        let change = match value {
            None => Packed::Gone(key.clone()),
            Some(value) => match std::str::from_utf8(value) {
                Ok(text) => Packed::Text(key.clone(), text.to_owned()),
                Err(_) => Packed::Bytes(key.clone(), value.to_vec()),
            },
        };
        let line = serde_json::to_vec(&change).expect("a change is plain data");
        match parts.last_mut().filter(|part| part.len() + line.len() < room) {
            Some(part) => {
                part.push(b'\n');
                part.extend(line);
            }
            None => parts.push(line),
        }
    }
    if parts.len() >= most || parts.iter().any(|part| part.len() > room) {
        return Err(too_many(most));
    }
    let part = |(n, part): (usize, Vec<u8>)| (format!("{fence_key}.redo.{n}"), Some(part.into()));
    Ok(parts.into_iter().enumerate().map(part).collect())
}

/// Changes of a packed message.
///
/// # Errors
/// It is not one of ours.
pub(super) fn unpacked(part: &[u8]) -> Result<Vec<Packed>, serde_json::Error> {
    part.split(|byte| *byte == b'\n').map(serde_json::from_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_packed_into_the_messages_that_there_are() {
        let changes: Vec<(String, Option<Bytes>)> = (0..100)
            .map(|n| {
                (format!("errors.state.{n}"), (n % 3 > 0).then(|| Bytes::from(vec![b'x'; 100])))
            })
            .collect();
        let parts = packed("errors.offsets", &changes, 10, RESERVE + 2000).unwrap();
        assert!((5..10).contains(&parts.len()), "{}", parts.len());
        assert!(parts.iter().all(|(_, part)| part.as_ref().is_some_and(|part| part.len() <= 2000)));
        let said = packed("errors.offsets", &changes, 3, RESERVE + 2000).unwrap_err();
        assert!(said.contains("the 3 messages") && said.contains("max_msgs"), "{said}");
        packed("errors.offsets", &changes, 10, RESERVE + 50).unwrap_err();
    }
}
