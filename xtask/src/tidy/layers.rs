//! Data flows one way: which crate may use which, by its Cargo.toml and by the names in its sources.

use std::path::Path;

use super::{File, Findings};

struct Layer {
    name: &'static str,
    /// The crates of ours that it may use; all others are forbidden.
    may_use: Allowed,
    /// Crates of others that it must stay free of.
    never: &'static [&'static str],
}

enum Allowed {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

use Allowed::{AllBut, Only};

/// What acts and what decides stays free of tasks, wire and logs.
const PURE: &[&str] = &["tokio", "tonic", "tracing"];

const LAYERS: [Layer; 6] = [
    Layer { name: "scratch-sys", may_use: Only(&[]), never: PURE },
    Layer { name: "scratch-proto", may_use: Only(&[]), never: &["tokio", "tracing"] },
    Layer { name: "scratch-lease", may_use: Only(&[]), never: PURE },
    Layer { name: "scratch-fs", may_use: Only(&["scratch-sys", "scratch-lease"]), never: PURE },
    Layer { name: "scratch-client", may_use: AllBut(&["scratchd", "scratch-cli"]), never: &[] },
    Layer { name: "scratchd", may_use: AllBut(&["scratch-client", "scratch-cli"]), never: &[] },
];

const OURS: [&str; 7] =
    ["scratch-proto", "scratch-sys", "scratch-fs", "scratch-lease", "scratchd", "scratch-client", "scratch-cli"];

impl Layer {
    fn forbidden(&self) -> Vec<&'static str> {
        let ours = OURS.into_iter().filter(|name| *name != self.name);
        let ours = ours.filter(|name| match self.may_use {
            Only(allowed) => !allowed.contains(name),
            AllBut(forbidden) => forbidden.contains(name),
        });
        ours.chain(self.never.iter().copied()).collect()
    }
}

pub(super) fn check(files: &[File], findings: &mut Findings) {
    for layer in &LAYERS {
        let home = Path::new("crates").join(layer.name);
        let forbidden = layer.forbidden();
        for file in files.iter().filter(|file| file.path.starts_with(&home)) {
            let is_manifest = file.path.file_name().is_some_and(|name| name == "Cargo.toml");
            for (number, line) in file.lines() {
                let named = forbidden.iter().find(|name| match is_manifest {
                    true => depends_on(line, name),
                    false => file.is_rust() && uses(line, name),
                });
                if let Some(name) = named {
                    findings.error(&file.path, Some(number), &format!("{} must not use {name}", layer.name));
                }
            }
        }
    }
}

/// `name.workspace = true`, `name = …`, `[dependencies.name]`; with the crates of its family (`tokio-stream`).
fn depends_on(line: &str, name: &str) -> bool {
    let key = line.trim_start_matches(|first: char| first != '.').strip_prefix('.').filter(|_| line.starts_with('['));
    let key = key.unwrap_or(line).split(['.', '=', ']', ' ']).next().unwrap_or_default();
    key == name || (!name.starts_with("scratch") && key.starts_with(&format!("{name}-")))
}

/// `use name…` or `name::…` in code; not inside another word, and not in a comment.
fn uses(line: &str, name: &str) -> bool {
    let name = name.replace('-', "_");
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(&name).any(|(start, _)| {
        let before = &code[..start];
        let alone = !before.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '"');
        let after = &code[start + name.len()..];
        alone && (after.starts_with("::") || (before.trim_end().ends_with("use") && after.starts_with([';', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::{depends_on, uses};

    #[test]
    fn a_dependency_is_found_however_it_is_written() {
        for line in ["tokio.workspace = true", "tokio = \"1\"", "tokio-stream = \"0.1\"", "[dependencies.tokio]"] {
            assert!(depends_on(line, "tokio"), "{line}");
        }
        assert!(depends_on("scratch-fs = { path = \"../scratch-fs\" }", "scratch-fs"));
        assert!(!depends_on("scratch-fs.workspace = true", "scratch"));
        assert!(!depends_on("# tokio.workspace = true", "tokio"));
    }

    #[test]
    fn a_use_is_found_only_as_code() {
        for line in ["use scratchd::Broker;", "    scratchd::run()", "use scratchd;"] {
            assert!(uses(line, "scratchd"), "{line}");
        }
        for line in ["// use scratchd::Broker;", "use my_scratchd::Broker;", "let scratchd = 1;", "\"scratchd::x\""] {
            assert!(!uses(line, "scratchd"), "{line}");
        }
        assert!(uses("use scratch_fs::Name;", "scratch-fs"));
    }
}
