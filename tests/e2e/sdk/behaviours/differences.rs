//! Where `scratch_client::temp` is not as the tempfile crate: each a decision, seen of both, and told to those who change over.

use super::{Desk, ours, theirs};

/// The guide that every difference is told in.
const GUIDE: &str = include_str!("../../../../docs/migrating-from-tempfile.md");

/// One decision. Its words are a line of the guide's table.
struct Difference {
    what: &'static str,
    theirs: &'static str,
    ours: &'static str,
    why: &'static str,
    seen: [fn(&Desk) -> String; 2],
}

/// The same look at both.
macro_rules! seen {
    ($look:ident) => {
        [theirs::observed::$look, ours::observed::$look]
    };
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        what: "where a file is made that no directory is named for",
        theirs: "TMPDIR",
        ours: "its lease",
        why: "what is under a lease goes with the process, however that ends; there is no `env::override_temp_dir`",
        seen: seen!(place),
    },
    Difference {
        what: "a name that nothing is said about",
        theirs: "`.tmp` and 6 characters",
        ours: "`tmp` and 8 characters",
        why: "what is hidden is not found when somebody looks why a disk is full",
        seen: seen!(name),
    },
    Difference {
        what: "mode of a directory under umask 022",
        theirs: "0755",
        ours: "0700",
        why: "what is temporary is nobody else's business",
        seen: seen!(mode_of_a_directory),
    },
    Difference {
        what: "mode of a file without a name under umask 022",
        theirs: "0644",
        ours: "0600",
        why: "as that of one with a name",
        seen: seen!(mode_of_a_nameless_file),
    },
    Difference {
        what: "a file of mode 0666 under umask 077",
        theirs: "0600",
        ours: "0666",
        why: "a mode that was asked for is meant; an umask is the whole process's",
        seen: seen!(mode_under_an_umask),
    },
    Difference {
        what: "a prefix with a separator, such as `../x`",
        theirs: "a file outside",
        ours: "InvalidInput",
        why: "a prefix that somebody else chose must not choose the directory",
        seen: seen!(prefix_with_a_separator),
    },
    Difference {
        what: "a name of more than 255 bytes",
        theirs: "InvalidFilename",
        ours: "InvalidInput",
        why: "names are checked before anything is made",
        seen: seen!(name_of_many_bytes),
    },
    Difference {
        what: "1 or 2 random characters",
        theirs: "made",
        ours: "InvalidInput",
        why: "3 to 64, or 0 for an exact name: so few are soon used up, and guessed at once",
        seen: seen!(few_random_characters),
    },
    Difference {
        what: "`NamedTempFile`, `TempPath` and `TempDir`, given away by value where a path is asked for",
        theirs: "a path",
        ours: "not a path",
        why: "it would be removed before its path is used; `&guard` is a path",
        seen: seen!(guards_by_value),
    },
    Difference {
        what: "`close` of what is gone already",
        theirs: "NotFound",
        ours: "no error",
        why: "it is as it was asked to be",
        seen: seen!(closed_when_gone),
    },
    Difference {
        what: "errors of `tempfile_in` and `persist`",
        theirs: "without a path",
        ours: "with their path",
        why: "as all errors; kinds are the same, texts are not",
        seen: seen!(errors_without_a_guard),
    },
    Difference {
        what: "another file that has got the name of a guard's in a directory of one's own",
        theirs: "is removed",
        ours: "lives",
        why: "what the broker did not make it does not take away",
        seen: seen!(dropped_when_replaced),
    },
    Difference {
        what: "`persist` from a lease to another file system",
        theirs: "CrossesDevices",
        ours: "moved",
        why: "it is copied, and has its name when it is whole. What was made by `…_in` outside of its lease is moved by its user alone, and stays on its file system",
        seen: seen!(persisted_elsewhere),
    },
    Difference {
        what: "`keep` of what no directory was named for",
        theirs: "where it was",
        ours: "moved to TMPDIR",
        why: "in its lease's directory it would go with the lease; the path that is returned is the one that counts",
        seen: seen!(kept_by_default),
    },
    Difference {
        what: "`TempDir::keep` gives",
        theirs: "a path",
        ours: "a result",
        why: "to move can fail; the error has the guard",
        seen: seen!(keep_of_a_directory),
    },
    Difference {
        what: "a file with `disable_cleanup` when its process has ended",
        theirs: "stays",
        ours: "goes with the process",
        why: "cleanup is the lease's too; for good there are `keep` and `persist`",
        seen: seen!(left_behind),
    },
    Difference {
        what: "`Builder::make_in`",
        theirs: "made",
        ours: "absent",
        why: "what the broker did not make it does not take away: use `make`, then `persist`",
        seen: seen!(making_in_a_directory),
    },
    Difference {
        what: "`TempPath::try_from_path` and `from_path`",
        theirs: "taken",
        ours: "absent",
        why: "what the broker did not make it does not take away: make it here, or move it into a `TempDir`",
        seen: seen!(taking_a_path),
    },
];

pub(in super::super) fn check() {
    let mut wrong = Vec::new();
    let section = GUIDE.split("\n## ").find_map(|section| section.strip_prefix("What is different\n"));
    let section = section.unwrap_or_default();
    for Difference { what, theirs, ours, why, seen } in DIFFERENCES {
        println!("{what}");
        let found = seen.map(|look| look(&Desk::new()));
        if found != [*theirs, *ours] {
            wrong.push(format!("{what}: {found:?}, not {:?}", [theirs, ours]));
        }
        let line = format!("| {what} | {theirs} | {ours} | {why} |");
        if !section.lines().any(|found| found == line) {
            wrong.push(format!("not in the guide: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
