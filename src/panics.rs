//! Panics: message of a caught panic, and its place in the code.

use std::{cell::RefCell, sync::Once};

thread_local! {
    /// Place of the last panic of this thread.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes the place of every panic from now on; whatever is done at a panic is done as before.
pub(crate) fn note_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            // At the end of a thread there is nobody left who would ask.
            PLACE.try_with(|last| *last.borrow_mut() = place).ok();
            before(info);
        }));
    });
}

/// Message of a panic, or "without a message".
pub(crate) fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Message of a panic that was caught on this thread just now, and its place where that is noted.
pub(crate) fn told(panic: &(dyn std::any::Any + Send)) -> String {
    match PLACE.with(|last| last.borrow_mut().take()) {
        Some(place) => format!("{} (at {place})", text(panic)),
        None => text(panic).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        note_places();
        note_places();
        let panic = std::panic::catch_unwind(|| panic!("no {}", "way")).unwrap_err();
        let told = told(&*panic);
        assert!(told.starts_with("no way (at src/panics.rs:"), "{told}");
    }
}
