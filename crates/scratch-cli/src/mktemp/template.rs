//! What TEMPLATE, `-t`, `-p` and `--suffix` ask for, by the rules of GNU mktemp. No I/O.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use scratch_fs::{NameError, NamePattern};

const DEFAULT: &str = "tmp.XXXXXXXXXX";
const X_MIN: usize = 3;
const X_MAX: usize = 64;

/// What the command line says of the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base<'a> {
    /// Nothing: the working directory if there is a template.
    Unsaid,
    /// `-t`: the lease's directory, a name in it.
    Lease,
    /// `-p` or `--tmpdir`: that directory, or without one the lease's.
    Below(Option<&'a OsStr>),
}

/// Where to make something, and how to name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) place: Place,
    pub(super) prefix: OsString,
    pub(super) random_chars: usize,
    pub(super) suffix: OsString,
}

/// A directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The lease's, or one below it.
    Lease(PathBuf),
    /// This one, wherever it is.
    Named(PathBuf),
}

/// A command line that makes no sense. Nothing was made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("too few X's in template '{}': its last part needs at least 3 in a row", .0.display())]
    TooFew(OsString),
    #[error("too many X's in template '{}': at most 64 in a row are replaced", .0.display())]
    TooMany(OsString),
    #[error("with --suffix, template '{}' must end in X", .0.display())]
    NoX(OsString),
    #[error("invalid suffix '{}', contains directory separator", .0.display())]
    SuffixSeparator(OsString),
    #[error("invalid template, '{}', contains directory separator: with -t it is a name only", .0.display())]
    Separator(OsString),
    #[error("invalid template, '{}'; with --tmpdir, it may not be absolute", .0.display())]
    Absolute(OsString),
    #[error("invalid template, '{}': {error}", .template.display())]
    Name { template: OsString, error: NameError },
}

/// Works out what is asked for.
pub(super) fn plan(template: Option<&OsStr>, suffix: Option<&OsStr>, base: Base<'_>) -> Result<Plan, TemplateError> {
    let base = if template.is_none() && base == Base::Unsaid { Base::Below(None) } else { base };
    let template = template.unwrap_or_else(|| OsStr::new(DEFAULT));
    let (stem, suffix) = split_suffix(template, suffix)?;
    let x_count = stem.iter().rev().take_while(|byte| **byte == b'X').count();
    match x_count {
        ..X_MIN => return Err(TemplateError::TooFew(template.to_owned())),
        X_MIN..=X_MAX => {}
        _ => return Err(TemplateError::TooMany(template.to_owned())),
    }
    let stem = &stem[..stem.len() - x_count];
    let name_at = stem.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, prefix) = stem.split_at(name_at);
    NamePattern::new(prefix, &suffix, x_count)
        .map_err(|error| TemplateError::Name { template: template.to_owned(), error })?;
    Ok(Plan {
        place: place(template, Path::new(OsStr::from_bytes(directory)), base)?,
        prefix: OsStr::from_bytes(prefix).to_owned(),
        random_chars: x_count,
        suffix: OsString::from_vec(suffix),
    })
}

/// What ends in the run of X, and what follows.
fn split_suffix<'a>(template: &'a OsStr, suffix: Option<&OsStr>) -> Result<(&'a [u8], Vec<u8>), TemplateError> {
    let bytes = template.as_bytes();
    let (stem, suffix) = match suffix {
        Some(_) if !bytes.ends_with(b"X") => return Err(TemplateError::NoX(template.to_owned())),
        Some(suffix) => (bytes, suffix.as_bytes()),
        None => bytes.split_at(bytes.iter().rposition(|byte| *byte == b'X').map_or(0, |last| last + 1)),
    };
    if suffix.contains(&b'/') && !stem.is_empty() {
        return Err(TemplateError::SuffixSeparator(OsStr::from_bytes(suffix).to_owned()));
    }
    Ok((stem, suffix.to_vec()))
}

fn place(template: &OsStr, directory: &Path, base: Base<'_>) -> Result<Place, TemplateError> {
    match base {
        Base::Lease if !directory.as_os_str().is_empty() => Err(TemplateError::Separator(template.to_owned())),
        Base::Below(_) if directory.is_absolute() => Err(TemplateError::Absolute(template.to_owned())),
        Base::Lease => Ok(Place::Lease(PathBuf::new())),
        Base::Below(named) => Ok(match named.filter(|named| !named.is_empty()) {
            Some(named) => Place::Named(tidy(&Path::new(named).join(directory))),
            None => Place::Lease(directory.to_owned()),
        }),
        Base::Unsaid => Ok(Place::Named(tidy(&Path::new(".").join(directory)))),
    }
}

/// Without the slash at the end, as messages show it.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: Option<&str>, suffix: Option<&str>, base: Base<'_>) -> Result<Plan, TemplateError> {
        plan(template.map(OsStr::new), suffix.map(OsStr::new), base)
    }

    #[test]
    fn the_last_run_of_x_is_replaced() {
        let cases = [
            (None, None, ("tmp.", 10, "")),
            (None, Some(".c"), ("tmp.", 10, ".c")),
            (Some("XXX"), None, ("", 3, "")),
            (Some("aXXXb"), None, ("a", 3, "b")),
            (Some("XXXaXXXX.txt"), None, ("XXXa", 4, ".txt")),
            (Some("aXXX"), Some("XX"), ("a", 3, "XX")),
            (Some("a XXX"), Some(""), ("a ", 3, "")),
        ];
        for (template, suffix, (prefix, random_chars, after)) in cases {
            let plan = of(template, suffix, Base::Lease).unwrap();
            assert_eq!(
                (plan.prefix.to_str(), plan.random_chars, plan.suffix.to_str()),
                (Some(prefix), random_chars, Some(after)),
                "{template:?} {suffix:?}"
            );
        }
    }

    #[test]
    fn where_it_goes() {
        let lease = |path: &str| Place::Lease(path.into());
        let named = |path: &str| Place::Named(path.into());
        let below = |path: &'static str| Base::Below(Some(OsStr::new(path)));
        let cases = [
            (None, Base::Unsaid, lease("")),
            (None, Base::Lease, lease("")),
            (None, Base::Below(None), lease("")),
            (None, below(""), lease("")),
            (None, below("/d"), named("/d/")),
            (Some("aXXX"), Base::Unsaid, named("./")),
            (Some("d/aXXX"), Base::Unsaid, named("./d/")),
            (Some("/d/aXXX"), Base::Unsaid, named("/d/")),
            (Some("aXXX"), Base::Lease, lease("")),
            (Some("aXXX"), Base::Below(None), lease("")),
            (Some("d/aXXX"), Base::Below(None), lease("d/")),
            (Some("e/aXXX"), below("/d"), named("/d/e/")),
        ];
        for (template, base, expected) in cases {
            assert_eq!(of(template, None, base).unwrap().place, expected, "{template:?} {base:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = "a".repeat(254);
        let cases: Vec<(&str, Option<&str>, Base<'_>, TemplateError)> = vec![
            ("", None, Base::Lease, TemplateError::TooFew("".into())),
            ("foo", None, Base::Lease, TemplateError::TooFew("foo".into())),
            ("aXX", None, Base::Lease, TemplateError::TooFew("aXX".into())),
            ("XXXaXX", None, Base::Lease, TemplateError::TooFew("XXXaXX".into())),
            ("aXX", Some("X"), Base::Lease, TemplateError::TooFew("aXX".into())),
            ("a/b", None, Base::Lease, TemplateError::TooFew("a/b".into())),
            ("", Some("b"), Base::Lease, TemplateError::NoX("".into())),
            ("aXXXb", Some("c"), Base::Lease, TemplateError::NoX("aXXXb".into())),
            ("aXXX", Some("/c"), Base::Lease, TemplateError::SuffixSeparator("/c".into())),
            ("aXXX/b", None, Base::Unsaid, TemplateError::SuffixSeparator("/b".into())),
            ("a/XXX", None, Base::Lease, TemplateError::Separator("a/XXX".into())),
            ("/aXXX", None, Base::Below(None), TemplateError::Absolute("/aXXX".into())),
            (
                "aXXX",
                Some(&long),
                Base::Lease,
                TemplateError::Name { template: "aXXX".into(), error: NameError::TooLong },
            ),
        ];
        for (template, suffix, base, expected) in cases {
            assert_eq!(of(Some(template), suffix, base), Err(expected), "{template:?} {suffix:?} {base:?}");
        }
        let many = "X".repeat(65);
        assert_eq!(of(Some(&many), None, Base::Lease), Err(TemplateError::TooMany(many.clone().into())));
    }
}
