//! Every error reason that the broker can give stands in docs/errors.md, with its cause and its remedy.

use std::collections::BTreeSet;
use std::path::Path;

use super::{File, Findings};

const REASONS: &str = "crates/scratchd/src/reason.rs";
const PAGE: &str = "docs/errors.md";

pub(super) fn check(files: &[File], findings: &mut Findings) {
    let find = |path: &str| files.iter().find(|file| file.path == Path::new(path));
    let Some(reasons) = find(REASONS) else { return };
    let page = find(PAGE).map_or("", |file| file.text.as_str());
    let mut seen = BTreeSet::new();
    for (number, line) in reasons.lines() {
        for reason in line.split('"').skip(1).step_by(2).filter(|text| is_reason(text)) {
            if seen.insert(reason) && !words(page).any(|word| word == reason) {
                findings.error(&reasons.path, Some(number), &format!("{reason} is not in {PAGE}"));
            }
        }
    }
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
    use super::is_reason;

    #[test]
    fn reasons_are_told_from_other_texts() {
        assert!(is_reason("LEASE_UNKNOWN") && is_reason("BUSY"));
        assert!(!is_reason("EBUSY") && !is_reason("E2BIG") && !is_reason("scratchd") && !is_reason(""));
    }
}
