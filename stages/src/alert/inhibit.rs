//! Inhibit: incidents that explain others, as Alertmanager's `inhibit_rules`.

use std::collections::{BTreeMap, HashMap};

use super::{
    labels::{label_problems, matchers},
    options::InhibitOptions,
};
use crate::{Problem, fingerprint::hash, matcher::Matchers};

/// Most rules of a stage.
const RULES_MAX: usize = 200;

/// Every rule, with the incidents that go on and fit its source.
#[derive(Debug, Default)]
pub(super) struct Inhibits(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    source: Matchers,
    target: Matchers,
    equal: Vec<String>,
    /// Incidents by the values of the equal labels, each with true where it fits the target too.
    sources: HashMap<u64, BTreeMap<u64, bool>>,
}

impl Rule {
    fn values(&self, labels: &BTreeMap<String, String>) -> u64 {
        let value = |label: &String| labels.get(label).map_or("", String::as_str);
        hash(&self.equal.iter().map(value).collect::<Vec<_>>())
    }
}

impl Inhibits {
    /// Reads the rules; adds every problem of them.
    pub(super) fn checked(options: &[InhibitOptions], problems: &mut Vec<Problem>) -> Self {
        if options.len() > RULES_MAX {
            problems
                .push(Problem::new(&["inhibit"], format!("expected at most {RULES_MAX} rules")));
            return Self::default();
        }
        let mut rules = Vec::new();
        for (n, rule) in options.iter().enumerate() {
            let n = n.to_string();
            for (key, list) in [("source", &rule.source), ("target", &rule.target)] {
                if list.is_empty() {
                    let problem = Problem::new(&["inhibit", &n, key], "needs at least one matcher");
                    problems.push(problem.hint("without one, every incident would fit"));
                }
            }
            problems.extend(label_problems(&["inhibit", &n, "equal"], &rule.equal, false));
            rules.push(Rule {
                source: matchers(&rule.source, &["inhibit", &n, "source"], problems),
                target: matchers(&rule.target, &["inhibit", &n, "target"], problems),
                equal: rule.equal.clone(),
                sources: HashMap::new(),
            });
        }
        Self(rules)
    }

    /// Notes that an incident goes on.
    pub(super) fn add(&mut self, id: u64, labels: &BTreeMap<String, String>) {
        for rule in self.0.iter_mut().filter(|rule| rule.source.match_all(labels)) {
            let both = rule.target.match_all(labels);
            rule.sources.entry(rule.values(labels)).or_default().insert(id, both);
        }
    }

    /// Notes that an incident with these labels no longer goes on.
    pub(super) fn remove(&mut self, id: u64, labels: &BTreeMap<String, String>) {
        for rule in &mut self.0 {
            let values = rule.values(labels);
            if let Some(sources) = rule.sources.get_mut(&values) {
                sources.remove(&id);
                if sources.is_empty() {
                    rule.sources.remove(&values);
                }
            }
        }
    }

    /// Returns an incident that inhibits this one.
    pub(super) fn by(&self, id: u64, labels: &BTreeMap<String, String>) -> Option<u64> {
        self.0.iter().filter(|rule| rule.target.match_all(labels)).find_map(|rule| {
            let sources = rule.sources.get(&rule.values(labels))?;
            let both = rule.source.match_all(labels);
            sources
                .iter()
                .find(|(source, source_both)| **source != id && !(both && **source_both))
                .map(|(id, _)| *id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    fn inhibits(options: serde_json::Value) -> Inhibits {
        let mut problems = Vec::new();
        let inhibits =
            Inhibits::checked(&serde_json::from_value::<Vec<_>>(options).unwrap(), &mut problems);
        assert_eq!(problems, []);
        inhibits
    }

    #[test]
    fn a_target_is_inhibited_while_a_source_with_equal_values_goes_on() {
        let mut inhibits = inhibits(json!([
            {
                "source": ["severity=critical"], "target": ["severity!=critical"],
                "equal": ["service", "zone"],
            },
        ]));
        let source = labels(&[("severity", "critical"), ("service", "cart")]);
        inhibits.add(1, &source);
        assert_eq!(inhibits.by(2, &labels(&[("severity", "low"), ("service", "cart")])), Some(1));
        assert_eq!(
            inhibits.by(2, &labels(&[("severity", "low"), ("service", "cart"), ("zone", "a")])),
            None
        );
        assert_eq!(inhibits.by(2, &labels(&[("severity", "low"), ("service", "shop")])), None);
        assert_eq!(inhibits.by(1, &source), None);
        inhibits.remove(1, &source);
        assert_eq!(inhibits.by(2, &labels(&[("severity", "low"), ("service", "cart")])), None);
        assert!(inhibits.0[0].sources.is_empty());
    }

    #[test]
    fn what_fits_both_sides_is_inhibited_only_by_what_does_not() {
        let mut inhibits =
            inhibits(json!([{ "source": ["code=~DB.*"], "target": ["severity=high"] }]));
        let both = labels(&[("code", "DB_1"), ("severity", "high")]);
        inhibits.add(1, &both);
        inhibits.add(2, &both);
        assert_eq!((inhibits.by(1, &both), inhibits.by(2, &both)), (None, None));
        inhibits.add(3, &labels(&[("code", "DB_2"), ("severity", "low")]));
        assert_eq!(
            (inhibits.by(1, &both), inhibits.by(4, &labels(&[("severity", "high")]))),
            (Some(3), Some(1))
        );
    }
}
