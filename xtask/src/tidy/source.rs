//! Rules for Rust files: what each begins with, how long it is, what it is called, where `unsafe` may stand.

use std::path::Path;

use super::{File, Findings};

const LINES_MAX: usize = 600;
const LINES_LOOK_AGAIN: usize = 400;
/// Names that say nothing about what a file owns.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "manager", "common"];
/// The only crate with unsafe code.
const UNSAFE: &str = "crates/scratch-sys";

pub(super) fn check(file: &File, findings: &mut Findings) {
    if !file.text.starts_with("//!") {
        findings.error(&file.path, Some(1), "the first line is to say with //! what this file owns");
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.error(&file.path, None, &format!("{lines} lines, at most {LINES_MAX}"));
    } else if lines > LINES_LOOK_AGAIN && !file.path.starts_with("tests") {
        findings.warning(&file.path, None, &format!("{lines} lines: look again at {LINES_LOOK_AGAIN}"));
    }
    for part in file.path.iter().filter_map(|part| Path::new(part).file_stem()?.to_str()) {
        if EMPTY_NAMES.contains(&part) {
            findings.error(&file.path, None, &format!("{part} says nothing: use a word of the design"));
        }
    }
    if !file.path.starts_with(UNSAFE) {
        for (number, _) in file.lines().filter(|(_, line)| has_unsafe(line)) {
            findings.error(&file.path, Some(number), &format!("unsafe code belongs into {UNSAFE}"));
        }
    }
}

/// The keyword as code: not in a comment or a text, not part of another word.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = concat!("uns", "afe");
    code.match_indices(word).any(|(start, _)| {
        let inside_text = code[..start].matches('"').count() % 2 == 1;
        let follows = code[start + word.len()..].trim_start();
        let begins = !code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let keyword = ["{", "fn ", "impl ", "extern ", "trait ", "("].iter().any(|next| follows.starts_with(next));
        begins && keyword && !inside_text
    })
}

#[cfg(test)]
mod tests {
    use super::has_unsafe;

    #[test]
    fn the_keyword_is_found_only_as_code() {
        let word = concat!("uns", "afe");
        assert!(has_unsafe(&format!("    {word} {{")));
        assert!(has_unsafe(&format!("pub {word} fn name()")));
        assert!(!has_unsafe(&format!("// {word} {{")));
        assert!(!has_unsafe(&format!("let text = \"{word} {{\";")));
        assert!(!has_unsafe(&format!("#![forbid({word}_code)]")));
    }
}
