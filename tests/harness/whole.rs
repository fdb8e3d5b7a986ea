//! Contents that tell whether they are whole: what a program that is killed has persisted.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Of files that are persisted, and of those in directories that are.
pub const PERSISTED_FILE_MODE: u32 = 0o640;
/// Of directories that are persisted, and of those in them.
pub const PERSISTED_DIRECTORY_MODE: u32 = 0o750;
/// More than one page, one pipe or one read.
const BYTES: usize = 300_000;

/// The content of that number.
#[must_use]
pub fn whole(number: u64) -> Vec<u8> {
    // Quickly: who is killed while it writes is not to spend its time here.
    let mut content = format!("{number} ").into_bytes().repeat(BYTES / 2);
    content.truncate(BYTES);
    content
}

/// Whether that file, or each file of that directory, has a whole content and the mode that goes with it. Gives the number, or
/// what is wrong.
///
/// # Errors
/// In words.
pub fn is_whole(path: &Path) -> Result<u64, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let about = path.symlink_metadata().map_err(|error| wrong(error.to_string()))?;
    let mode = about.permissions().mode() & 0o7777;
    let expected = if about.is_dir() { PERSISTED_DIRECTORY_MODE } else { PERSISTED_FILE_MODE };
    if mode != expected {
        return Err(wrong(format!("mode {mode:o}, not {expected:o}")));
    }
    if about.is_dir() {
        let [file, below] = ["file", "below"].map(|name| path.join(name));
        let inside = is_whole(&file)?;
        let depth = if below.symlink_metadata().is_ok() { is_whole(&below)? } else { inside };
        let names = crate::names_in(path);
        let names: Vec<_> = names.iter().filter(|name| *name != "file" && *name != "below").collect();
        if depth != inside || !names.is_empty() {
            return Err(wrong(format!("of {inside} and of {depth}, with {names:?}")));
        }
        return Ok(inside);
    }
    let found = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let number = found.split(|&byte| byte == b' ').next().and_then(|digits| str::from_utf8(digits).ok());
    let number = number.and_then(|digits| digits.parse().ok());
    let number = number.ok_or_else(|| wrong(format!("{} bytes of something else", found.len())))?;
    if found == whole(number) { Ok(number) } else { Err(wrong(format!("{} bytes, not whole", found.len()))) }
}
