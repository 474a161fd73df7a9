//! Word: a word of a message, a placeholder where the whole of it varies, else part by part.

use super::{
    ids,
    out::{NUMBER, PATH, TIME},
    paths,
    scan::Scan,
    shape::{self, Shape},
    times, words,
};

impl<'a> Scan<'a> {
    /// Writes a word: a placeholder where the whole of it varies, else its parts. `next` is what
    /// follows.
    pub(super) fn word(&mut self, word: &'a str, next: &str) {
        // Most words are plain.
        let plain = word.bytes().all(|b| b.is_ascii_alphabetic());
        if plain && !ids::is_id(word) && !self.may_go(word, next) {
            return self.plain(word);
        }
        let core = word.trim_end_matches(['.', ':', '-']);
        let tail = &word[core.len()..];
        if core.is_empty() && word.len() > 1 && word.starts_with('.') && self.out.behind() {
            return; // the dots of "…" behind what was cut short
        }
        if !self.beside(core, next) {
            self.by_itself(core);
        }
        self.out.text.push_str(tail);
    }

    fn plain(&mut self, word: &'a str) {
        self.out.text.push_str(word);
        self.note_said(word);
    }

    fn note_said(&mut self, word: &'a str) {
        self.said = [self.said[1], self.said[2], word];
    }

    /// True if a word of letters may belong to what is beside it.
    fn may_go(&self, word: &str, next: &str) -> bool {
        self.out.after(NUMBER)
            || self.out.after_date()
            || self.out.text.ends_with('-')
            || words::is_currency(word)
            || is_boolean(word)
            || self.is_labelled(word)
            || times::is_date_word(word, next, false)
    }

    /// True if the word before labels this one.
    fn is_labelled(&self, word: &str) -> bool {
        let last = self.said[2];
        if last.is_empty() || word.is_empty() || words::is_empty_value(word) {
            return false;
        }
        if last.eq_ignore_ascii_case("bearer") {
            return word.len() >= 8;
        }
        if !words::labels(last) {
            return false;
        }
        // "id: must be positive" is no id, nor is "token=expired".
        let is_value = || {
            last.eq_ignore_ascii_case("string")
                || word.bytes().any(|b| b.is_ascii_digit() || b"+/".contains(&b))
                || word.bytes().skip(1).any(|b| b.is_ascii_uppercase())
        };
        let before = self.out.text.trim_ascii_end();
        let of_person = before.ends_with('=') && words::labels_person(last);
        of_person || before.ends_with([':', '=']) && is_value()
    }

    /// Writes a word that is what it is by what stands beside it; false if none does.
    fn beside(&mut self, core: &'a str, next: &str) -> bool {
        let last = self.out.text.trim_ascii_end().chars().next_back().unwrap_or(' ');
        if core.len() <= 8 && core.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("http/"))
        {
            // The version of a protocol: what follows is the status.
            self.out.note(core, "HTTP", "version of a protocol", false);
            self.out.text.push_str("HTTP");
            self.said = ["", "", "http"];
        } else if words::is_currency(core) && next.starts_with(|c: char| c.is_ascii_digit()) {
            self.out.note(core, "", "currency", false);
        } else if times::is_date_word(core, next, self.out.after(NUMBER)) {
            self.out.date(core);
            self.said = [""; 3];
        } else if self.out.after_date() && times::follows_date(core)
            || self.out.after(TIME) && (times::is_half(core) || times::is_zone(core))
        {
            self.out.absorb(core, "date");
        } else if self.out.after(NUMBER) && (words::is_unit(core) || times::is_half(core)) {
            self.out.absorb(core, "unit");
        } else if self.is_labelled(core) && !(self.tells(core) && core.len() == 3) {
            let rest = self.kind_of_id(core);
            self.out.replace(rest, NUMBER, "value of a label");
            self.said = [""; 3];
        } else if is_boolean(core) && matches!(last, '=' | ':' | '(' | '[' | '{' | ',') {
            self.out.replace(core, "<bool>", "boolean");
            self.said = [""; 3];
        } else if let Some((stem, end)) =
            words::singular(core).filter(|_| self.out.after(NUMBER) && !self.out.behind())
        {
            self.out.text.extend([stem, end]);
            self.note_said(core);
        } else {
            return false;
        }
        true
    }

    /// Writes a word that is what it is by its looks.
    fn by_itself(&mut self, core: &'a str) {
        if shape::is_error_number(core) {
            return self.keep(core, "code");
        }
        if shape::is_term(core) {
            return self.keep(core, "term");
        }
        if let Some(shape) = shape::whole(core) {
            return self.whole(shape, core);
        }
        if core.contains(['/', '\\']) && self.path(core) {
            return;
        }
        if ids::is_jwt(core) {
            self.out.replace(core, NUMBER, "token");
        } else if ids::prefixed(core) {
            let rest = self.kind_of_id(core);
            self.out.replace(rest, NUMBER, "id");
        } else if ids::is_random(core) {
            self.out.replace(core, NUMBER, "id");
        } else {
            return self.parts(core);
        }
        self.said = [""; 3];
    }

    /// Writes the kind of an id that has one, `cus_` of `cus_NffrFeUfNV2Hib`; returns the rest.
    fn kind_of_id(&mut self, word: &'a str) -> &'a str {
        let Some(kind) = ids::kind(word) else { return word };
        self.out.text.push_str(kind);
        &word[kind.len()..]
    }

    /// Writes a path; false if it is none.
    fn path(&mut self, word: &'a str) -> bool {
        if paths::is_media_type(word) {
            self.keep(word, "term");
            return true;
        }
        if paths::is_rpc(word) {
            return false;
        }
        let routed = word.starts_with('/') && words::leads_to_route(self.said[2]);
        let bare = word.split('?').next().unwrap_or_default();
        if routed || paths::is_route(bare) {
            self.route(word);
        } else if !paths::is_path(word) || ids::is_random(word) {
            return false;
        } else if let Some(file) = paths::program_file(word) {
            self.out.note(word, &format!("{PATH}/{file}"), "file of a program", false);
            self.out.text.extend([PATH, "/", &file]);
        } else {
            self.out.replace(word, PATH, "path");
        }
        self.said = [""; 3];
        true
    }

    /// Writes a placeholder for a word that varies as a whole, unless the words before it make it a
    /// code that identifies the failure.
    fn whole(&mut self, shape: Shape, word: &'a str) {
        if shape == Shape::Number && self.tells(word) {
            return self.keep(word, "code");
        }
        let (placeholder, rule) = match shape {
            Shape::Number => (NUMBER, "number"),
            Shape::Address => ("<ip>", "address"),
            Shape::Time => (TIME, "time"),
            Shape::Email => ("<email>", "e-mail"),
        };
        self.out.replace(word, placeholder, rule);
        self.said = [""; 3];
    }

    pub(super) fn parts(&mut self, word: &'a str) {
        let mut rest = word;
        let mut sign = ' ';
        while !rest.is_empty() {
            if ids::begins_with_uuid(rest) {
                self.out.replace(&rest[..36], NUMBER, "id");
                rest = &rest[36..];
                continue;
            }
            let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            let name = &rest[..length];
            self.part(name, sign);
            sign = rest[length..].chars().next().unwrap_or(' ');
            rest = &rest[length..];
            if !rest.is_empty() {
                self.out.text.push(sign);
                rest = &rest[sign.len_utf8()..];
            }
        }
    }

    /// Writes a part of a word; `sign` is what stands before it.
    fn part(&mut self, name: &'a str, sign: char) {
        if name.bytes().any(|b| b.is_ascii_digit()) && self.tells(name) {
            self.keep(name, "code");
        } else if sign == '-' && ids::is_pod_suffix(name) {
            self.out.replace(name, NUMBER, "suffix of a pod");
        } else if sign == '@' && ids::is_object_hash(name) {
            self.out.replace(name, NUMBER, "hash of an object");
        } else {
            if shape::is_term(name) && sign != '-' {
                self.out.note(name, "", "term", true);
                self.out.text.push_str(name);
            } else {
                self.segment(name);
            }
            if !name.is_empty() {
                self.note_said(name);
            }
        }
    }

    /// Writes a part of a word: letters stay, digits do not.
    fn segment(&mut self, text: &str) {
        if !text.bytes().any(|b| b.is_ascii_digit()) && !ids::is_id(text) {
            return self.out.text.push_str(text);
        }
        // Scripts without spaces: the id is one thing, the text around it another.
        for run in text.split_inclusive(|c: char| !c.is_ascii()) {
            let ascii = run.trim_end_matches(|c: char| !c.is_ascii());
            if ids::is_id(ascii) {
                self.out.replace(ascii, NUMBER, "id");
            } else {
                self.digits(ascii);
            }
            self.out.text.push_str(&run[ascii.len()..]);
        }
    }

    fn digits(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            self.out.text.push_str(&rest[..at]);
            if let Some(half) = times::half_before(&self.out.text) {
                let end = self.out.text.trim_end_matches(' ').len() - half.len();
                self.out.text.truncate(end);
                self.out.note(half, "", "date", false);
            }
            let behind = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
            self.out.replace(&rest[at..rest.len() - behind.len()], NUMBER, "number");
            rest = behind;
        }
        self.out.text.push_str(rest);
    }

    /// True if this number identifies the failure, by the words before it.
    fn tells(&self, number: &str) -> bool {
        let [_, earlier, last] = self.said;
        if last.eq_ignore_ascii_case("sqlstate") {
            return number.len() == 5;
        }
        let is_hex = |bare: &str| bare.len() <= 8 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_code = digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit())
            || number.strip_prefix("0x").is_some_and(is_hex);
        let by_code = || {
            last.eq_ignore_ascii_case("code")
                && (words::is_one_of(earlier, words::CODED) || number.len() == 3)
        };
        is_code && (words::is_one_of(last, words::TELLING) || by_code())
    }

    /// Writes a word as it is.
    fn keep(&mut self, word: &str, rule: &'static str) {
        self.out.note(word, "", rule, true);
        self.out.text.push_str(word);
        self.said = [""; 3];
    }
}

fn is_boolean(word: &str) -> bool {
    matches!(word, "true" | "false" | "True" | "False" | "TRUE" | "FALSE")
}
