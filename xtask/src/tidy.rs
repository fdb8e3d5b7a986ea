//! `cargo xtask tidy`: the rules of the house that no compiler checks. One line for each finding.

mod errors;
mod layers;
mod source;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::step::{Outcome, root};

/// What was found so far. Warnings fail nothing.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, path: &Path, line: Option<usize>, what: &str) {
        self.errors.push(place(path, line) + what);
    }

    fn warning(&mut self, path: &Path, line: Option<usize>, what: &str) {
        self.warnings.push(place(path, line) + what);
    }
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}: ", path.display()),
        None => format!("{}: ", path.display()),
    }
}

/// A text file of the tree, its path relative to the root.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

pub(crate) fn run() -> Outcome {
    let mut files = Vec::new();
    collect(Path::new(""), &mut files)?;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let mut findings = Findings::default();
    for file in &files {
        text::check(file, &mut findings);
        if file.is_rust() {
            source::check(file, &mut findings);
        }
    }
    layers::check(&files, &mut findings);
    errors::check(&files, &mut findings);

    findings.warnings.iter().for_each(|line| println!("warning: {line}"));
    findings.errors.iter().for_each(|line| println!("{line}"));
    let count = findings.errors.len();
    if count > 0 {
        return Err(format!("tidy: {count} findings in {} files", files.len()));
    }
    println!("tidy: {} files, no findings", files.len());
    Ok(())
}

/// Every text file below `directory`, but for what is hidden or made by tools.
fn collect(directory: &Path, files: &mut Vec<File>) -> Outcome {
    let whole = root().join(directory);
    let failed = |error: std::io::Error| format!("{}: {error}", whole.display());
    for entry in fs::read_dir(&whole).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = directory.join(&*name);
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            let made = name.starts_with("target")
                || ["__pycache__", "node_modules", "corpus", "artifacts", "found"].contains(&&*name);
            if !made && (!name.starts_with('.') || name == ".ci") {
                collect(&path, files)?;
            }
        } else if kind.is_file() && name != "Cargo.lock" {
            // What is not UTF-8 is no text of ours.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(File { path, text });
            }
        }
    }
    Ok(())
}
