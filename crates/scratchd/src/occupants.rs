//! Who is in the way of a removal: processes that have something open below a path, and what is mounted there. A search
//! through /proc that ends in time; what it may not see is left out.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many processes are named.
const NAMED_MAX: usize = 64;

/// How long the search may take.
const SEARCH_FOR: Duration = Duration::from_secs(1);

/// The processes below each of these paths.
pub(crate) fn occupants(paths: &[PathBuf]) -> Vec<Vec<i32>> {
    let mut found = vec![Vec::new(); paths.len()];
    let until = Instant::now() + SEARCH_FOR;
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if Instant::now() > until {
            break;
        }
        let open = open_paths(&process.path());
        for (path, found) in paths.iter().zip(&mut found) {
            if found.len() < NAMED_MAX && open.iter().any(|open| open.starts_with(path)) {
                found.push(pid);
            }
        }
    }
    found.iter_mut().for_each(|pids| pids.sort_unstable());
    found
}

fn open_paths(process: &Path) -> Vec<PathBuf> {
    let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let names = ["cwd", "root", "exe"].iter().map(|name| process.join(name));
    // Gone meanwhile, or closed to us: what can't be seen is left out.
    names.chain(descriptors.map(|entry| entry.path())).filter_map(|link| std::fs::read_link(link).ok()).collect()
}

/// What is mounted at each of these paths or below, in words; empty where nothing is.
pub(crate) fn mounts(paths: &[PathBuf]) -> Vec<String> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(mount).collect();
    let below = |path: &PathBuf| mounts.iter().find(|(point, _)| point.starts_with(path));
    paths.iter().map(|path| below(path).map_or_else(String::new, |(_, text)| text.clone())).collect()
}

/// The mount point of a line of mountinfo, and the mount in words.
fn mount(line: &[u8]) -> Option<(PathBuf, String)> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let end = fields.iter().position(|field| *field == b"-")?;
    let (id, point) = (fields.first()?, unescape(fields.get(4)?));
    let (kind, source) = (fields.get(end + 1)?, unescape(fields.get(end + 2)?));
    let text = format!(
        "{} ({}) at {}, mount {}",
        String::from_utf8_lossy(&source),
        String::from_utf8_lossy(kind),
        String::from_utf8_lossy(&point),
        String::from_utf8_lossy(id)
    );
    Some((PathBuf::from(std::ffi::OsStr::from_bytes(&point)), text))
}

/// Space, tab, newline and backslash are three octal digits there.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|text| u8::from_str_radix(text, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_what_it_has_open() {
        let own = i32::try_from(std::process::id()).unwrap();
        let program = std::env::current_exe().unwrap();
        let (above, beside) = (program.parent().unwrap().to_owned(), program.with_extension("not"));
        let found = occupants(&[program, above, beside]);
        assert!(found[0].contains(&own) && found[1].contains(&own) && found[2].is_empty(), "{found:?}");
    }

    #[test]
    fn a_mount_is_named_with_its_id() {
        let line = b"36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let (point, text) = mount(line).unwrap();
        assert_eq!((point.to_str(), text.as_str()), (Some("/a b"), "/dev/root (ext3) at /a b, mount 36"));
        assert_eq!(mount(b""), None);
        assert!(mounts(&["/proc".into(), "/nowhere".into()]).iter().map(String::is_empty).eq([false, true]));
    }
}
