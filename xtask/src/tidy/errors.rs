//! Every error reason that the broker can give stands in docs/errors.md, with its cause and its remedy; and each that stands
//! there has a case in tests/conformance, or a line in its elsewhere.json that names the test which shows it.

use std::collections::BTreeSet;
use std::path::Path;

use super::{File, Findings};

const REASONS: &str = "crates/scratchd/src/reason.rs";
const PAGE: &str = "docs/errors.md";
const TABLE: &str = "tests/conformance";
const ELSEWHERE: &str = "tests/conformance/elsewhere.json";

pub(super) fn check(files: &[File], findings: &mut Findings) {
    explained(files, findings);
    shown(files, findings);
    found_elsewhere(files, findings);
}

fn find<'a>(files: &'a [File], path: &str) -> Option<&'a File> {
    files.iter().find(|file| file.path == Path::new(path))
}

/// What the broker gives stands on the page.
fn explained(files: &[File], findings: &mut Findings) {
    let Some(reasons) = find(files, REASONS) else { return };
    let page = find(files, PAGE).map_or("", |file| file.text.as_str());
    let mut seen = BTreeSet::new();
    for (number, line) in reasons.lines() {
        for reason in quoted(line).filter(|text| is_reason(text)) {
            if seen.insert(reason) && !words(page).any(|word| word == reason) {
                findings.error(&reasons.path, Some(number), &format!("{reason} is not in {PAGE}"));
            }
        }
    }
}

/// What stands on the page is in the table, or elsewhere.
fn shown(files: &[File], findings: &mut Findings) {
    let Some(page) = find(files, PAGE) else { return };
    let table = files.iter().filter(|file| file.path.parent() == Some(Path::new(TABLE)));
    let shown: BTreeSet<&str> = table.flat_map(|file| reasons_of(&file.text)).collect();
    for (number, line) in page.lines() {
        let first = line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
        if let Some(reason) = first.filter(|word| is_reason(word) && !shown.contains(word)) {
            findings.error(&page.path, Some(number), &format!("{reason} has no case in {TABLE}, see {ELSEWHERE}"));
        }
    }
}

/// The tests that elsewhere.json names as `file: function` are there.
fn found_elsewhere(files: &[File], findings: &mut Findings) {
    let Some(elsewhere) = find(files, ELSEWHERE) else { return };
    for (number, line) in elsewhere.lines() {
        let quoted: Vec<&str> = quoted(line).collect();
        let test = quoted.windows(2).find(|pair| pair[0] == "test").map(|pair| pair[1]);
        let Some((path, function)) = test.and_then(|test| test.split_once(": ")) else { continue };
        if !find(files, path).is_some_and(|file| file.text.contains(&format!("fn {function}("))) {
            findings.error(&elsewhere.path, Some(number), &format!("there is no {function} in {path}"));
        }
    }
}

/// `"reason": "THIS"`, and `"reason": {"code": "THIS"`.
fn reasons_of(table: &str) -> impl Iterator<Item = &str> {
    let quoted: Vec<&str> = quoted(table).collect();
    let after = |at: usize| quoted.get(at + 1).map(|next| if *next == "code" { at + 2 } else { at + 1 });
    let places: Vec<usize> = (0..quoted.len()).filter(|at| quoted[*at] == "reason").filter_map(after).collect();
    places.into_iter().filter_map(move |at| quoted.get(at).copied())
}

/// What stands in quotes; no text of the table has a quote inside.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// Upper case with underscores, but no errno: those (EBUSY, E2BIG) go into metadata and need no page.
fn is_reason(text: &str) -> bool {
    let errno = text.starts_with('E') && !text.contains('_');
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && !errno
        && text.chars().all(|each| each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_')
}

/// Whole words: NAME_INVALID is not explained by a page on FILENAME_INVALID.
fn words(page: &str) -> impl Iterator<Item = &str> {
    page.split(|each: char| !each.is_ascii_alphanumeric() && each != '_')
}

#[cfg(test)]
mod tests {
    use super::{is_reason, reasons_of};

    #[test]
    fn reasons_are_told_from_other_texts() {
        assert!(is_reason("LEASE_UNKNOWN") && is_reason("BUSY"));
        assert!(!is_reason("EBUSY") && !is_reason("E2BIG") && !is_reason("scratchd") && !is_reason(""));
    }

    #[test]
    fn reasons_are_found_in_the_table() {
        let table = r#"{"error": {"reason": "NO_TTL", "code": "OTHER"}}, {"reason": {"code": "HELD", "text": "x"}}"#;
        assert_eq!(reasons_of(table).collect::<Vec<_>>(), ["NO_TTL", "HELD"]);
    }
}
