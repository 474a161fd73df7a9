//! Route: tree that decides the channels, groups and intervals of incidents.

use std::collections::{BTreeMap, HashMap};

use super::{
    labels::{label_problems, matchers},
    options::{Options, RouteOptions, StepOptions},
    times::Times,
};
use crate::{
    Problem, World,
    channel_names::{CHANNELS_MAX, channel_problems},
    fingerprint::{hash, hex},
    matcher::{Matcher, Matchers},
    units::Period,
};

/// Deepest nesting of routes.
const DEPTH_MAX: usize = 8;
/// Most routes of a stage.
const ROUTES_MAX: usize = 200;
/// Most routes with `continue`: an incident is in one group more than these at the most, and each
/// is a key of the state.
const CONTINUE_MAX: usize = 40;
/// Shortest interval. A shorter one is a storm: <https://github.com/grafana/grafana/issues/126401>.
const INTERVAL_MIN: Period = Period::seconds(1);

/// Terms of the groups of a route, all of them filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Channels of its incidents.
    pub channels: Vec<String>,
    /// Labels by which they are grouped; `...` is every label.
    pub group_by: Vec<String>,
    /// Wait of a new group for more incidents.
    pub group_wait: Period,
    /// Least time between two messages with news of a group.
    pub group_interval: Period,
    /// Time after which a message is repeated.
    pub repeat_interval: Period,
    /// Times within which nothing is sent.
    pub mute: Vec<String>,
    /// Times outside of which nothing is sent.
    pub active: Vec<String>,
    /// Steps of the escalation: time without an acknowledgement, and channels then added.
    pub escalate: Vec<(Period, Vec<String>)>,
}

/// Route that was looked at for an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visited {
    /// Place in the tree: `root`, `route 0`, `route 0 > route 1`.
    pub path: String,
    /// Conditions; empty where it has none.
    pub matchers: String,
    /// True where they hold.
    pub matched: bool,
    /// True where the incident ends in it: it is in a group of this route.
    pub takes: bool,
    /// Terms of its groups.
    pub terms: Terms,
}

/// Every route, the root first. There is always a root.
#[derive(Debug)]
pub(super) struct Tree {
    routes: Vec<Route>,
    by_id: HashMap<u64, usize>,
}

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    /// Hash of its conditions and those above it, the same wherever it stands.
    pub(super) id: u64,
    pub(super) path: String,
    matchers: Matchers,
    pub(super) terms: Terms,
    go_on: bool,
    children: Vec<usize>,
}

impl Tree {
    /// Reads the routes; adds every problem of them.
    pub(super) fn checked(
        options: &Options,
        world: &dyn World,
        times: &Times,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let terms = Terms {
            channels: options.channels.clone(),
            group_by: options.group_by.clone(),
            group_wait: options.group_wait,
            group_interval: options.group_interval,
            repeat_interval: options.repeat_interval,
            mute: options.mute.clone(),
            active: options.active.clone(),
            escalate: steps(&options.escalate),
        };
        let mut check = Check {
            world,
            times,
            problems,
            tree: Self { routes: Vec::new(), by_id: HashMap::new() },
        };
        check.terms(&terms, &[], true);
        let root = Route {
            id: 0,
            path: "root".to_owned(),
            matchers: Matchers::default(),
            terms,
            go_on: false,
            children: Vec::new(),
        };
        check.tree.by_id.insert(0, 0);
        check.tree.routes.push(root);
        check.children(0, &options.route, &[]);
        let Check { problems, tree, .. } = check;
        if tree.routes.iter().filter(|route| route.go_on).count() > CONTINUE_MAX {
            let many = Problem::new(
                &["route"],
                format!("expected at most {CONTINUE_MAX} routes with continue = true"),
            );
            problems.push(many.hint(
                "an incident would be in too many groups: put several channels on one route",
            ));
        }
        tree
    }

    /// Returns the route of this id, if there is one still.
    pub(super) fn get(&self, id: u64) -> Option<&Route> {
        self.by_id.get(&id).map(|at| &self.routes[*at])
    }

    /// Returns the root.
    pub(super) fn root(&self) -> &Route {
        &self.routes[0]
    }

    /// Returns the routes that take an incident with these labels: at least one.
    pub(super) fn takers(&self, labels: &BTreeMap<String, String>) -> Vec<&Route> {
        let mut takers = Vec::new();
        self.walk(0, labels, &mut |route, _, takes| {
            if takes {
                takers.push(route);
            }
        });
        takers
    }

    /// Returns every route that is looked at for an incident with these labels, in order.
    pub(super) fn visited(&self, labels: &BTreeMap<String, String>) -> Vec<Visited> {
        let mut visited: Vec<Visited> = Vec::new();
        self.walk(0, labels, &mut |route, matched, takes| {
            // A route is looked at before its children, and is known to take the incident after
            // them.
            if let Some(before) = visited.iter_mut().find(|before| before.path == route.path) {
                before.takes = takes;
                return;
            }
            let (path, matchers) = (route.path.clone(), route.matchers.to_string());
            visited.push(Visited { path, matchers, matched, takes, terms: route.terms.clone() });
        });
        visited
    }

    /// Calls `tell` for each route looked at, with true where it matches and true where it takes
    /// the incident; returns true if this one matches.
    fn walk<'a>(
        &'a self,
        at: usize,
        labels: &BTreeMap<String, String>,
        tell: &mut dyn FnMut(&'a Route, bool, bool),
    ) -> bool {
        let route = &self.routes[at];
        let matched = route.matchers.match_all(labels);
        tell(route, matched, false);
        if !matched {
            return false;
        }
        let mut taken = false;
        for child in &route.children {
            let matched = self.walk(*child, labels, tell);
            taken |= matched;
            if matched && !self.routes[*child].go_on {
                break;
            }
        }
        if !taken {
            tell(route, true, true);
        }
        true
    }
}

/// Check of the routes, with everything it needs.
struct Check<'a> {
    world: &'a dyn World,
    times: &'a Times,
    problems: &'a mut Vec<Problem>,
    tree: Tree,
}

impl Check<'_> {
    fn children(&mut self, parent: usize, routes: &[RouteOptions], at: &[&str]) {
        for (n, options) in routes.iter().enumerate() {
            let n = n.to_string();
            let at = [at, &["route", &n]].concat();
            if at.len() / 2 > DEPTH_MAX {
                return self
                    .problems
                    .push(Problem::new(&at, format!("routes may be nested {DEPTH_MAX} deep")));
            }
            if self.tree.routes.len() > ROUTES_MAX {
                return self
                    .problems
                    .push(Problem::new(&at, format!("expected at most {ROUTES_MAX} routes")));
            }
            let above = &self.tree.routes[parent];
            let matchers = conditions(options, &at, self.problems);
            let mut id = hash(&[&hex(above.id), &matchers.to_string()]);
            while self.tree.by_id.contains_key(&id) {
                id = hash(&[&hex(id), "again"]);
            }
            let name = format!("route {n}");
            let terms = below(&above.terms, options);
            let path = if parent == 0 { name } else { format!("{} > {name}", above.path) };
            let intervals =
                [options.group_interval, options.repeat_interval].iter().any(Option::is_some);
            self.terms_of(&terms, options, &at, intervals);
            let route =
                Route { id, path, matchers, terms, go_on: options.go_on, children: Vec::new() };
            let index = self.tree.routes.len();
            self.tree.by_id.insert(id, index);
            self.tree.routes.push(route);
            self.tree.routes[parent].children.push(index);
            self.children(index, &options.route, &at);
        }
    }

    /// Checks what a route sets; what it inherits was checked above.
    fn terms_of(&mut self, terms: &Terms, options: &RouteOptions, at: &[&str], intervals: bool) {
        let mut own = terms.clone();
        if options.channels.is_none() {
            own.channels.clear();
        }
        if options.escalate.is_none() {
            own.escalate.clear();
        }
        if options.group_by.is_none() {
            own.group_by.clear();
        }
        self.terms(&own, at, intervals);
    }

    fn terms(&mut self, terms: &Terms, at: &[&str], intervals: bool) {
        let key = |key| [at, &[key]].concat();
        self.problems.extend(channel_problems(&key("channels"), &terms.channels, self.world));
        self.problems.extend(label_problems(&key("group_by"), &terms.group_by, true));
        if intervals {
            self.intervals(terms, at);
        }
        for (list, names) in [("mute", &terms.mute), ("active", &terms.active)] {
            for (n, name) in names.iter().enumerate().filter(|(_, name)| !self.times.has(name)) {
                let problem = Problem::new(
                    &[at, &[list, &n.to_string()]].concat(),
                    format!("no time is named \"{name}\""),
                );
                let known: Vec<_> = self.times.names().map(|name| format!("\"{name}\"")).collect();
                self.problems.push(problem.hint(if known.is_empty() {
                    format!(
                        "describe it: time = [{{ name = \"{name}\", times = [\"22:00-06:00\"] }}]"
                    )
                } else {
                    format!("there is {}", known.join(", "))
                }));
            }
        }
        let mut before = Period::default();
        for (n, (after, channels)) in terms.escalate.iter().enumerate() {
            let n = n.to_string();
            let at = |key| [at, &["escalate", &n, key]].concat();
            self.problems.extend(channel_problems(&at("channels"), channels, self.world));
            if channels.is_empty() {
                self.problems
                    .push(Problem::new(&at("channels"), "a step of an escalation needs a channel"));
            }
            if *after < INTERVAL_MIN || *after <= before {
                let problem = Problem::new(
                    &at("after"),
                    format!("{after} is not later than what comes before it"),
                );
                self.problems
                    .push(problem.hint("steps go by the time since the group was first told"));
            }
            before = *after;
        }
        let steps: usize = terms.escalate.iter().map(|(_, channels)| channels.len()).sum();
        if terms.channels.len() + steps > CHANNELS_MAX && terms.channels.len() <= CHANNELS_MAX {
            let message =
                format!("expected at most {CHANNELS_MAX} channels, those of the route included");
            self.problems.push(Problem::new(&key("escalate"), message));
        }
    }

    fn intervals(&mut self, terms: &Terms, at: &[&str]) {
        let Terms { group_interval, repeat_interval, .. } = *terms;
        if group_interval < INTERVAL_MIN {
            let at = [at, &["group_interval"]].concat();
            let problem = Problem::new(
                &at,
                format!("{group_interval} is too short: at least {INTERVAL_MIN}"),
            );
            self.problems
                .push(problem.hint("a tiny interval tells every single change; the default is 5m"));
        }
        if repeat_interval < group_interval {
            let at = [at, &["repeat_interval"]].concat();
            let message =
                format!("{repeat_interval} is shorter than the group_interval of {group_interval}");
            self.problems.push(
                Problem::new(&at, message)
                    .hint("nothing is repeated before its group may be told again"),
            );
        }
    }
}

/// Returns the terms of a route below another.
fn below(above: &Terms, options: &RouteOptions) -> Terms {
    Terms {
        channels: options.channels.clone().unwrap_or_else(|| above.channels.clone()),
        group_by: options.group_by.clone().unwrap_or_else(|| above.group_by.clone()),
        group_wait: options.group_wait.unwrap_or(above.group_wait),
        group_interval: options.group_interval.unwrap_or(above.group_interval),
        repeat_interval: options.repeat_interval.unwrap_or(above.repeat_interval),
        mute: options.mute.clone(),
        active: options.active.clone(),
        escalate: options.escalate.as_deref().map_or_else(|| above.escalate.clone(), steps),
    }
}

fn steps(steps: &[StepOptions]) -> Vec<(Period, Vec<String>)> {
    steps.iter().map(|step| (step.after, step.channels.clone())).collect()
}

/// Returns the conditions of a route: its matchers, and its short forms as matchers.
fn conditions(options: &RouteOptions, at: &[&str], problems: &mut Vec<Problem>) -> Matchers {
    let before = problems.len();
    let mut matchers = matchers(&options.matchers, &[at, &["matchers"]].concat(), problems);
    let severities: Vec<String> =
        options.severity.iter().map(|severity| severity.as_str().to_owned()).collect();
    let codes: Vec<String> = options
        .code
        .iter()
        .map(|glob| glob.split('*').map(regex::escape).collect::<Vec<_>>().join(".*"))
        .collect();
    for (label, any) in [("severity", severities), ("code", codes)] {
        if any.is_empty() {
            continue;
        }
        match Matcher::any_of(label, &any) {
            Ok(matcher) => matchers.0.push(matcher),
            Err(why) => problems.push(Problem::new(&[at, &[label]].concat(), why)),
        }
    }
    if let (true, Some((why, hint))) = (problems.len() == before, matchers.never()) {
        problems.push(Problem::new(&[at, &["severity"]].concat(), why).hint(hint));
    }
    matchers
}
