//! Closures: calls of a filter's own definitions that take filters, kept off the tail.
//!
//! jaq turns a call of itself at the end of a definition into a loop. Where the definition takes
//! filters, each round wraps those of the round before, and what is wrapped a million times over
//! overflows the stack when it is freed. Called as `f(g) | .`, it takes stack at once, which is
//! measured.

#![expect(clippy::wildcard_enum_match_arm, reason = "jaq's enum: the rest holds no terms")]

use jaq_core::{
    load::{
        lex::StrPart,
        parse::{BinaryOp, Def, Pattern, Term},
    },
    path::Part,
};

/// Signature of a definition: name and number of arguments.
type Signature<'s> = (&'s str, usize);

/// Takes such calls of a program off the tail.
pub(super) fn off_the_tail(program: Term<&str>) -> Term<&str> {
    Walk { around: Vec::new() }.term(program)
}

struct Walk<'s> {
    /// Definitions around the term that take filters.
    around: Vec<Signature<'s>>,
}

impl<'s> Walk<'s> {
    #[expect(clippy::boxed_local, reason = "terms hold their parts in boxes")]
    fn boxed(&mut self, term: Box<Term<&'s str>>) -> Box<Term<&'s str>> {
        Box::new(self.term(*term))
    }

    fn term(&mut self, term: Term<&'s str>) -> Term<&'s str> {
        match term {
            Term::Call(name, arguments) => {
                let is_own = self.around.contains(&(name, arguments.len()));
                let arguments = arguments.into_iter().map(|term| self.term(term)).collect();
                let call = Term::Call(name, arguments);
                match is_own {
                    true => Term::BinOp(call.into(), BinaryOp::Pipe(None), Term::Id.into()),
                    false => call,
                }
            }
            Term::Def(definitions, term) => {
                let definitions = definitions.into_iter().map(|def| self.definition(def)).collect();
                Term::Def(definitions, self.boxed(term))
            }
            Term::Str(format, parts) => {
                let parts = parts.into_iter().map(|part| match part {
                    StrPart::Term(term) => StrPart::Term(self.term(term)),
                    part @ (StrPart::Str(_) | StrPart::Char(_)) => part,
                });
                Term::Str(format, parts.collect())
            }
            Term::Arr(term) => Term::Arr(term.map(|term| self.boxed(term))),
            Term::Obj(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|(key, item)| (self.term(key), item.map(|item| self.term(item))));
                Term::Obj(entries.collect())
            }
            Term::Neg(term) => Term::Neg(self.boxed(term)),
            Term::BinOp(left, operator, right) => {
                let operator = match operator {
                    BinaryOp::Pipe(pattern) => {
                        BinaryOp::Pipe(pattern.map(|pattern| self.pattern(pattern)))
                    }
                    other => other,
                };
                Term::BinOp(self.boxed(left), operator, self.boxed(right))
            }
            Term::Label(name, term) => Term::Label(name, self.boxed(term)),
            Term::Fold(name, over, pattern, terms) => {
                let over = self.boxed(over);
                let pattern = self.pattern(pattern);
                Term::Fold(name, over, pattern, terms.into_iter().map(|t| self.term(t)).collect())
            }
            Term::TryCatch(term, caught) => {
                Term::TryCatch(self.boxed(term), caught.map(|term| self.boxed(term)))
            }
            Term::IfThenElse(branches, otherwise) => {
                let branches =
                    branches.into_iter().map(|(is, then)| (self.term(is), self.term(then)));
                Term::IfThenElse(branches.collect(), otherwise.map(|term| self.boxed(term)))
            }
            Term::Path(term, mut path) => {
                let term = self.boxed(term);
                for (part, _) in &mut path.0 {
                    *part = match std::mem::take(part) {
                        Part::Index(term) => Part::Index(self.term(term)),
                        Part::Range(from, upto) => {
                            Part::Range(from.map(|t| self.term(t)), upto.map(|t| self.term(t)))
                        }
                    };
                }
                Term::Path(term, path)
            }
            leaf @ (Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_)) => {
                leaf
            }
        }
    }

    fn definition(&mut self, definition: Def<&'s str>) -> Def<&'s str> {
        let takes_filters = definition.args.iter().any(|argument| !argument.starts_with('$'));
        if takes_filters {
            self.around.push((definition.name, definition.args.len()));
        }
        let body = self.term(definition.body);
        if takes_filters {
            self.around.pop();
        }
        Def { body, ..definition }
    }

    fn pattern(&mut self, pattern: Pattern<&'s str>) -> Pattern<&'s str> {
        match pattern {
            Pattern::Var(name) => Pattern::Var(name),
            Pattern::Arr(parts) => {
                Pattern::Arr(parts.into_iter().map(|part| self.pattern(part)).collect())
            }
            Pattern::Obj(parts) => {
                let parts = parts.into_iter().map(|(key, part)| {
                    let key = self.term(key);
                    (key, self.pattern(part))
                });
                Pattern::Obj(parts.collect())
            }
        }
    }
}
