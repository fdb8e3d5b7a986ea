//! The table as files: its cases of the road `channel`, and what each of their steps is.

use std::path::Path;

use serde_json::Value;

/// As tests/conformance/README.md has them. `open` has a key `descriptor`, so the order counts.
const VERBS: [&str; 13] = [
    "call",
    "packet",
    "open",
    "client",
    "child",
    "kill",
    "stop",
    "close",
    "cancel",
    "make",
    "check",
    "descriptor",
    "let",
];

pub(super) struct Case {
    pub(super) name: String,
    pub(super) needs: Vec<String>,
    /// With their numbers, the first is 1; those of other roads are left out.
    pub(super) steps: Vec<(usize, Step)>,
}

pub(super) struct Step {
    pub(super) verb: &'static str,
    pub(super) keys: Value,
}

impl Step {
    /// A text, or nothing.
    pub(super) fn text(&self, key: &str) -> &str {
        self.keys[key].as_str().unwrap_or_default()
    }

    /// What the verb is about.
    pub(super) fn object(&self) -> &str {
        self.text(self.verb)
    }
}

/// Those of one file.
pub(super) fn cases(path: &Path) -> Vec<Case> {
    let text = std::fs::read(path).expect("the table can be read");
    let content: Value = serde_json::from_slice(&text).expect("the table is JSON");
    let cases = content["cases"].as_array().expect("a file has cases");
    cases.iter().filter(|case| is_of_channel(&case["roads"])).map(case).collect()
}

fn case(case: &Value) -> Case {
    let steps = case["steps"].as_array().expect("a case has steps");
    let numbered = steps.iter().enumerate().map(|(at, step)| (at + 1, step));
    let ours = numbered.filter(|(_, step)| step["roads"].is_null() || is_of_channel(&step["roads"]));
    Case {
        name: case["name"].as_str().expect("a case has a name").to_owned(),
        needs: case["needs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        steps: ours.map(|(number, step)| (number, self::step(step))).collect(),
    }
}

fn step(keys: &Value) -> Step {
    let verb = VERBS.into_iter().find(|verb| keys.get(verb).is_some());
    Step { verb: verb.unwrap_or_else(|| panic!("a step without a verb: {keys}")), keys: keys.clone() }
}

fn is_of_channel(roads: &Value) -> bool {
    roads.as_array().is_some_and(|roads| roads.iter().any(|road| road == "channel"))
}
