//! The values of the table: what a request says, and what an answer must say. Bytes are kept as hexadecimal digits.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use regex::Regex;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Map, Value};

/// Why a step did not end as it should.
#[derive(Debug)]
pub(super) enum Stop {
    /// The SDK can't say it, or does not show what it needs.
    NoWord(String),
    /// It is not as the table says.
    Wrong(String),
}

/// Stands for what the SDK does not show.
pub(super) const NOT_SHOWN: &str = "$hidden";

pub(super) fn no_word<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::NoWord(why.into()))
}

pub(super) fn demand(holds: bool, expected: &Value, found: &Value, place: &str) -> Result<(), Stop> {
    if holds {
        return Ok(());
    }
    Err(Stop::Wrong(format!("{}: expected {expected}, found {found}", place.trim_start_matches('.'))))
}

impl Stop {
    /// With all that was found.
    pub(super) fn of(self, found: &Value) -> Self {
        match self {
            Self::Wrong(wrong) => Self::Wrong(format!("{wrong}, of {found}")),
            no_word => no_word,
        }
    }
}

/// Says of a key, and of that key of each element of a list, that the SDK does not show it.
pub(super) fn hide(answer: &mut Value, path: &str) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    match answer {
        Value::Array(elements) => elements.iter_mut().for_each(|element| hide(element, path)),
        Value::Object(fields) => match (fields.get_mut(key), rest) {
            (Some(inner), Some(rest)) => hide(inner, rest),
            (None, None) => drop(fields.insert(key.to_owned(), NOT_SHOWN.into())),
            _ => {}
        },
        _ => {}
    }
}

/// By name, with those that stand for something that the SDK does not show.
#[derive(Default)]
pub(super) struct Variables {
    known: HashMap<String, Value>,
    hidden: HashSet<String>,
}

impl Variables {
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let name = name.into();
        self.hidden.remove(&name);
        self.known.insert(name, value.into());
    }

    /// A value of a request.
    pub(super) fn expand(&self, value: &Value) -> Result<Value, Stop> {
        Ok(match value {
            Value::Object(fields) => match fields.get("$count").and_then(Value::as_u64) {
                Some(count) => (1..=count).map(|number| (number.to_string(), "x".into())).collect::<Map<_, _>>().into(),
                None => {
                    let expanded = fields.iter().map(|(key, one)| Ok((key.clone(), self.expand(one)?)));
                    Value::Object(expanded.collect::<Result<_, Stop>>()?)
                }
            },
            Value::Array(elements) => {
                elements.iter().map(|one| self.expand(one)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::String(text) => self.expand_text(text)?,
            other => other.clone(),
        })
    }

    pub(super) fn text(&self, value: &Value) -> Result<String, Stop> {
        Ok(plain(&self.expand(value)?))
    }

    fn expand_text(&self, text: &str) -> Result<Value, Stop> {
        let (word, rest) = text.split_once(':').unwrap_or((text, ""));
        Ok(match word {
            "$bytes" => hex(plain(&self.expand_text(rest)?).as_bytes()).into(),
            "$hex" => rest.into(),
            "$random" => hex(&random(rest.parse().expect("$random has a number"))).into(),
            "$repeat" => {
                let (times, rest) = rest.split_once(':').expect("$repeat has a number and a text");
                plain(&self.expand_text(rest)?).repeat(times.parse().expect("$repeat has a number")).into()
            }
            _ => self.substitute(text)?,
        })
    }

    fn substitute(&self, text: &str) -> Result<Value, Stop> {
        let (mut replaced, mut rest) = (String::new(), text);
        while let Some((before, (name, after))) =
            rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            let value = self.value(name)?;
            if before.is_empty() && after.is_empty() && replaced.is_empty() {
                return Ok(value.clone());
            }
            replaced += before;
            replaced += &plain(value);
            rest = after;
        }
        Ok((replaced + rest).into())
    }

    fn value(&self, name: &str) -> Result<&Value, Stop> {
        if self.hidden.contains(name) {
            return no_word(format!("${{{name}}} is nothing that the SDK shows"));
        }
        self.known.get(name).ok_or_else(|| Stop::NoWord(format!("${{{name}}} was not captured")))
    }

    /// Compares an answer with what is expected of it, and takes what it captures.
    pub(super) fn compare(&mut self, expected: &Value, found: &Value, place: &str) -> Result<(), Stop> {
        if found == NOT_SHOWN {
            self.capture_nothing(expected);
            return Ok(());
        }
        match expected {
            Value::Object(fields) => fields.iter().try_for_each(|(key, one)| self.compare_key(key, one, found, place)),
            Value::Array(elements) => {
                let others = found.as_array().filter(|others| others.len() == elements.len());
                demand(others.is_some(), expected, found, place)?;
                let mut pairs = elements.iter().zip(others.into_iter().flatten()).enumerate();
                pairs.try_for_each(|(at, (one, other))| self.compare(one, other, &format!("{place}[{at}]")))
            }
            Value::String(text) => self.compare_text(text, found, place),
            other => demand(other == found, expected, found, place),
        }
    }

    fn compare_key(&mut self, key: &str, expected: &Value, found: &Value, place: &str) -> Result<(), Stop> {
        let elements = found.as_array().map_or(&[][..], Vec::as_slice);
        match key {
            "$length" => demand(expected.as_u64() == Some(elements.len() as u64), expected, found, place),
            "$each" => elements.iter().try_for_each(|other| self.compare(expected, other, place)),
            "$some" => demand(self.matches_any(expected, elements)?, expected, found, place),
            "$none" => demand(!self.matches_any(expected, elements)?, expected, found, place),
            _ => {
                demand(found.is_object(), expected, found, place)?;
                self.compare(expected, &found[key], &format!("{place}.{key}"))
            }
        }
    }

    fn matches_any(&mut self, expected: &Value, elements: &[Value]) -> Result<bool, Stop> {
        for other in elements {
            match self.compare(expected, other, "") {
                Ok(()) => return Ok(true),
                Err(Stop::Wrong(_)) => {}
                no_word => no_word?,
            }
        }
        Ok(false)
    }

    fn compare_text(&mut self, expected: &str, found: &Value, place: &str) -> Result<(), Stop> {
        let (word, rest) = expected.split_once(':').unwrap_or((expected, ""));
        let shown = Value::from(expected);
        let there = is_there(found);
        match word {
            "$bytes" => {
                demand(found.is_string(), &shown, found, place)?;
                let text = String::from_utf8_lossy(&unhex(found.as_str().unwrap_or_default())).into_owned();
                self.compare_text(rest, &text.into(), place)
            }
            "$any" => demand(there, &shown, found, place),
            "$absent" => demand(!there, &shown, found, place),
            "$regex" => {
                let whole = Regex::new(&format!("^(?s:{rest})$")).expect("$regex is one");
                demand(found.as_str().is_some_and(|text| whole.is_match(text)), &shown, found, place)
            }
            "$min" => demand(there && number(&plain(found)) >= number(rest), &shown, found, place),
            "$capture" => {
                demand(there, &shown, found, place)?;
                self.set(rest, found.clone());
                Ok(())
            }
            _ => {
                let wanted = self.expand_text(expected)?;
                demand(wanted == *found, &wanted, found, place)
            }
        }
    }

    /// What this would have captured nobody knows.
    fn capture_nothing(&mut self, expected: &Value) {
        match expected {
            Value::Object(fields) => fields.values().for_each(|one| self.capture_nothing(one)),
            Value::Array(elements) => elements.iter().for_each(|one| self.capture_nothing(one)),
            Value::String(text) => {
                if let Some((_, name)) = text.split_once("$capture:") {
                    self.known.remove(name);
                    self.hidden.insert(name.to_owned());
                }
            }
            _ => {}
        }
    }
}

fn is_there(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(elements) => !elements.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) => true,
    }
}

fn number(text: &str) -> f64 {
    text.trim_end_matches('s').parse().expect("a number, or a duration")
}

/// A value within a text; what is not there is none.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn random(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert_eq!(filled.expect("the kernel has random numbers"), count);
    bytes
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(digits: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("bytes are hexadecimal digits");
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Bytes of a request; absent or `""`: none.
pub(super) fn bytes(request: &Value, key: &str) -> OsString {
    OsString::from_vec(unhex(request[key].as_str().unwrap_or_default()))
}
