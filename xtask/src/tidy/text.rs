//! Rules for every text file: white space, and no paths of somebody's own machine.

use std::path::Path;

use super::{File, Findings};

/// Directories whose inside belongs to one person or one machine.
const PERSONAL: [&str; 4] = ["/home/", "/Users/", "/root/", "/work/"];

pub(super) fn check(file: &File, findings: &mut Findings) {
    // Go's own formatter wants tabs, as does make; patches keep what they came with.
    let tabs = ["go", "mod", "patch"].iter().any(|kind| file.path.extension().is_some_and(|found| found == *kind))
        || file.path.file_name() == Some(Path::new("Makefile").as_os_str());
    for (number, line) in file.lines() {
        if line.contains('\t') && !tabs {
            findings.error(&file.path, Some(number), "tab");
        }
        if line.ends_with([' ', '\t', '\r']) {
            findings.error(&file.path, Some(number), "trailing white space");
        }
        if let Some(path) = personal(line) {
            findings.error(&file.path, Some(number), &format!("a path of one machine: {path}"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.error(&file.path, None, "no newline at the end");
    }
}

/// A personal directory with something in it: the bare name may be spoken of. Only where a path begins.
fn personal(line: &str) -> Option<&str> {
    PERSONAL.iter().find_map(|directory| {
        line.match_indices(directory).find_map(|(start, _)| {
            let begins =
                !line[..start].ends_with(|before: char| before.is_alphanumeric() || "._-}>)$".contains(before));
            let inside = line[start + directory.len()..].starts_with(|after: char| after.is_ascii_alphanumeric());
            let end = line[start..].find(|next: char| next.is_whitespace() || "\"'`)<,;:".contains(next));
            (begins && inside).then(|| &line[start..end.map_or(line.len(), |end| start + end)])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::personal;

    #[test]
    fn a_path_of_one_machine_is_found() {
        let path = concat!("/ho", "me/alice/src");
        for line in [path.to_owned(), format!("see \"{path}\""), format!("cd {path}, then")] {
            assert_eq!(personal(&line), Some(path), "{line}");
        }
    }

    #[test]
    fn the_bare_directory_and_inner_parts_may_be_named() {
        for line in ["/home /root /work", "\"/home/\"", concat!("place.join/wo", "rk/x"), "$HOME/x", "~/work"] {
            assert_eq!(personal(line), None, "{line}");
        }
    }
}
