//! Out: the normalised text so far, its last placeholder, and what was replaced by which rule.

/// Placeholder of a number or an id: one for both, since an id in hexadecimal may be all digits.
pub(super) const NUMBER: &str = "<n>";
pub(super) const TIME: &str = "<time>";
pub(super) const TEXT: &str = "<text>";
pub(super) const PATH: &str = "<path>";

/// One part of a message that a rule replaced, or kept where the like of it is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The part, as it stood in the message.
    pub part: String,
    /// Its placeholder; none where it was dropped or kept.
    pub with: String,
    /// Name of the rule.
    pub rule: &'static str,
    /// True where the part stays.
    pub kept: bool,
}

/// Last placeholder that was written.
#[derive(Debug, Clone, Copy)]
struct Last {
    placeholder: &'static str,
    start: usize,
    end: usize,
    /// True for a date with words, which a day, a year and a zone may follow.
    dated: bool,
}

/// Text so far.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) text: String,
    last: Option<Last>,
    /// Where someone asked for them.
    pub(super) notes: Option<Vec<Note>>,
}

impl Out {
    pub(super) fn new(bytes: usize, notes: Option<Vec<Note>>) -> Self {
        Self { text: String::with_capacity(bytes), last: None, notes }
    }

    /// Notes what became of a part.
    pub(super) fn note(&mut self, part: &str, with: &str, rule: &'static str, kept: bool) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note { part: part.to_owned(), with: with.to_owned(), rule, kept });
        }
    }

    /// Adds a placeholder, unless only commas and spaces part it from one like it.
    pub(super) fn replace(&mut self, part: &str, placeholder: &'static str, rule: &'static str) {
        self.note(part, placeholder, rule, false);
        match self.last {
            Some(last)
                if last.placeholder == placeholder
                    && self.text[last.end..].bytes().all(|b| matches!(b, b' ' | b',')) =>
            {
                self.text.truncate(last.end);
            }
            _ => {
                let start = self.text.len();
                self.text.push_str(placeholder);
                self.last = Some(Last { placeholder, start, end: self.text.len(), dated: false });
            }
        }
    }

    /// Adds the word of a date; a number just before is its day.
    pub(super) fn date(&mut self, part: &str) {
        if let Some(last) = self.last.filter(|_| self.after(NUMBER)) {
            self.text.truncate(last.start);
            self.last = None;
        }
        self.replace(part, TIME, "date");
        if let Some(last) = &mut self.last {
            last.dated = true;
        }
    }

    /// Drops a part that belongs to the placeholder before it: a unit, a year, a zone.
    pub(super) fn absorb(&mut self, part: &str, rule: &'static str) {
        self.note(part, "", rule, false);
        if let Some(last) = self.last {
            self.text.truncate(last.end);
        }
    }

    pub(super) fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
    }

    /// True if this placeholder ended just before, with at most a space since.
    pub(super) fn after(&self, placeholder: &str) -> bool {
        self.last.is_some_and(|last| {
            last.placeholder == placeholder && matches!(&self.text[last.end..], "" | " ")
        })
    }

    /// True right behind a placeholder.
    pub(super) fn behind(&self) -> bool {
        self.last.is_some_and(|last| last.end == self.text.len())
    }

    /// True if the words of a date ended before, with only commas and spaces since.
    pub(super) fn after_date(&self) -> bool {
        self.last.is_some_and(|last| {
            last.dated && self.text[last.end..].bytes().all(|b| matches!(b, b' ' | b','))
        })
    }
}
