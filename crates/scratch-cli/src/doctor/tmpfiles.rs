//! Rules of systemd-tmpfiles that reach a pool, see tmpfiles.d(5). The pool's flock keeps what goes by age out of it; what
//! removes without asking for an age is another matter.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::pool;

const CHECK: &str = "tmpfiles.d";
/// Of files with the same name the first one counts.
const DIRECTORIES: [&str; 4] =
    ["/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d"];
/// What may be cleaned by age.
const AGED: &str = "dDevqQC";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    kind: char,
    path: String,
    has_age: bool,
    shown: String,
}

/// What the rules do to a pool.
#[derive(Debug, PartialEq, Eq)]
enum Reach<'a> {
    Nothing,
    /// By age: kept out by the flock.
    Ages(&'a Rule),
    /// At boot, when nothing lives; and by hand.
    Empties(&'a Rule),
    /// Aims at the pool, or removes a directory above it with all below.
    Removes(&'a Rule),
}

/// What the rules of this machine do to a pool.
pub(super) fn check(root: &Path) -> Finding {
    let rules = rules();
    let shown = root.display();
    match reach(&rules, &pool::text(root)) {
        Reach::Nothing => Finding::ok(CHECK, format!("no rule reaches {shown}")),
        Reach::Ages(rule) => {
            Finding::note(CHECK, format!("{} reaches {shown}; the broker's lock keeps it out", rule.shown))
        }
        Reach::Empties(rule) => Finding::note(
            CHECK,
            format!("{} empties a directory above {shown} at boot, when nothing lives", rule.shown),
        )
        .remedy("don't call systemd-tmpfiles --remove while leases live"),
        Reach::Removes(rule) => Finding::fails(CHECK, format!("{} removes what lives in {shown}", rule.shown))
            .remedy("take that rule out, or hide its file behind one of the same name in /etc/tmpfiles.d"),
    }
}

fn rules() -> Vec<Rule> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for entry in DIRECTORIES.iter().flat_map(fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "conf") {
            files.entry(name).or_insert_with(|| entry.path());
        }
    }
    let read = |file: &PathBuf| parse(&fs::read_to_string(file).unwrap_or_default(), &file.display().to_string());
    files.values().flat_map(read).collect()
}

/// The lines of a file whose path is known before it is applied.
fn parse(text: &str, file: &str) -> Vec<Rule> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rule = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let path = expand(fields.get(1)?.trim_matches(['"', '\'']))?;
        let age = fields.get(5).is_some_and(|age| !matches!(*age, "-" | ""));
        let shown = format!("{file}: `{} {path}`", fields[0]);
        Some(Rule { kind: fields[0].chars().next()?, path, has_age: age, shown })
    };
    lines.filter_map(rule).collect()
}

/// Specifiers as the system's own instance has them; none for those that only it knows.
fn expand(path: &str) -> Option<String> {
    let known = [
        ("%T", "/tmp"),
        ("%V", "/var/tmp"),
        ("%t", "/run"),
        ("%S", "/var/lib"),
        ("%C", "/var/cache"),
        ("%L", "/var/log"),
    ];
    let path = known.iter().fold(path.to_owned(), |path, (specifier, value)| path.replace(specifier, value));
    (!path.contains('%')).then_some(path)
}

/// The worst that any rule does to what is below `root`.
fn reach<'a>(rules: &'a [Rule], root: &str) -> Reach<'a> {
    let whole = parts(root).count();
    // How far down each rule's path leads towards the root.
    let covering: Vec<(usize, &Rule)> = rules.iter().filter_map(|rule| Some((depth(rule, root)?, rule))).collect();
    // A path of its own takes the tree below it out of the rules above.
    let is_exempt = |above: usize| covering.iter().any(|(depth, rule)| *depth > above && !"rR".contains(rule.kind));
    let removes = |(depth, rule): &&(usize, &Rule)| rule.kind == 'R' || (rule.kind == 'D' && *depth == whole);
    let empties = |(_, rule): &&(usize, &Rule)| rule.kind == 'D';
    let ages = |(depth, rule): &&(usize, &Rule)| rule.has_age && AGED.contains(rule.kind) && !is_exempt(*depth);
    if let Some((_, rule)) = covering.iter().find(removes) {
        Reach::Removes(rule)
    } else if let Some((_, rule)) = covering.iter().find(empties) {
        Reach::Empties(rule)
    } else if let Some((_, rule)) = covering.iter().find(ages) {
        Reach::Ages(rule)
    } else {
        Reach::Nothing
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// How many components the rule's path has, if those are the root's or lie above it.
fn depth(rule: &Rule, root: &str) -> Option<usize> {
    let may_match = "exXrR".contains(rule.kind);
    let mut below = parts(root);
    let mut count = 0;
    for part in parts(&rule.path) {
        let name = below.next()?;
        let is_same = if may_match { matches(part.as_bytes(), name.as_bytes()) } else { part == name };
        if !is_same {
            return None;
        }
        count += 1;
    }
    Some(count)
}

/// A component against a pattern of `*`, `?` and `[…]`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        ([b'?', rest @ ..], [_, others @ ..]) => matches(rest, others),
        ([b'[', rest @ ..], [first, others @ ..]) => match rest.iter().skip(1).position(|byte| *byte == b']') {
            Some(end) => in_class(&rest[..=end], *first) && matches(&rest[end + 2..], others),
            None => *first == b'[' && matches(rest, others),
        },
        ([byte, rest @ ..], [first, others @ ..]) => byte == first && matches(rest, others),
        _ => false,
    }
}

/// `abc`, `a-z`, negated by a leading `!` or `^`.
fn in_class(class: &[u8], byte: u8) -> bool {
    if let [b'!' | b'^', rest @ ..] = class {
        return !rest.is_empty() && !in_class(rest, byte);
    }
    match class {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_rule_that_reaches_the_pool_is_told() {
        let cases = [
            ("", "nothing"),
            ("# d /tmp 1777 root root 10d", "nothing"),
            ("d /tmp 1777 root root 10d", "ages"),
            ("q /tmp 1777 root root 10d\nx /tmp/scratchd-pool-*", "nothing"),
            ("q /tmp 1777 root root 10d\nX /tmp/scratchd-pool-0", "nothing"),
            ("q /tmp 1777 root root 10d\nx /tmp/other", "ages"),
            ("q /tmp 1777 root root 10d\nd /tmp/scratchd-pool-0 0711 root root -", "nothing"),
            ("d /tmp 1777 root root -", "nothing"),
            ("d /tmp", "nothing"),
            ("d /var/tmp 1777 root root 10d", "nothing"),
            ("d /tmp/scratchd-pool-0/below - - - 10d", "nothing"),
            ("D /tmp 1777 root root -", "empties"),
            ("D! /tmp/scratchd-pool-0 - - - -", "removes"),
            ("R! /tmp/scratchd-*", "removes"),
            ("R /tmp", "removes"),
            ("r /tmp/scratchd-pool-0", "nothing"),
            ("R /tmp/systemd-private-*", "nothing"),
            ("d /t* - - - 10d", "nothing"),
            ("e /t* - - - 10d", "ages"),
            ("q %T - - - 10d", "ages"),
            ("R /tmp/%b", "nothing"),
        ];
        for (text, expected) in cases {
            let rules = parse(text, "a.conf");
            let found = match reach(&rules, "/tmp/scratchd-pool-0") {
                Reach::Nothing => "nothing",
                Reach::Ages(_) => "ages",
                Reach::Empties(_) => "empties",
                Reach::Removes(_) => "removes",
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in
            [("*", "a"), ("a*c", "abbc"), ("a?c", "abc"), ("[a-c]x", "bx"), ("[!a]x", "bx"), ("[x", "[x")]
        {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "b"), ("a?", "a"), ("[a-c]x", "dx"), ("[^a]x", "ax"), ("a*c", "abcd"), ("", "a")]
        {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }
}
