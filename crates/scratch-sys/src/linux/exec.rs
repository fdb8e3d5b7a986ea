//! What execve(2) takes, made before a fork: between fork and exec nothing may allocate or lock.
//! The search is that of execvp(3): along PATH, and through /bin/sh for a file without a known format.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::io::Errno;

use super::identity::last_errno;

/// What glibc's execvp searches where PATH is not set.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Whether this program runs with rights that its caller does not have (AT_SECURE): then the environment is the caller's
/// word, not the user's.
#[must_use]
pub fn secure_execution() -> bool {
    // SAFETY: getauxval reads the process's own auxiliary vector; it takes no pointers.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// A program to become: its candidates, arguments and environment as C strings, and the pointers to them.
pub(crate) struct Image {
    candidates: Vec<CString>,
    /// A free slot for the shell, the arguments, a null.
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Owns what the pointers point to.
    _strings: Vec<CString>,
}

impl Image {
    /// Prepares `program` with `arguments` (the first of which is its name) and exactly this environment, whose PATH is
    /// searched.
    ///
    /// # Errors
    /// INVAL for a NUL in any of them.
    pub(crate) fn new(
        program: &OsStr,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Self, Errno> {
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
        let candidates = candidates(program.as_bytes(), path.unwrap_or(DEFAULT_PATH))?;
        let mut strings = Vec::new();
        let mut own = |bytes: &[u8]| -> Result<*const c_char, Errno> {
            let text = CString::new(bytes).map_err(|_| Errno::INVAL)?;
            strings.push(text);
            Ok(strings.last().map_or(ptr::null(), |text| text.as_ptr()))
        };
        let mut argument_pointers = vec![ptr::null()];
        for argument in arguments {
            argument_pointers.push(own(argument.as_bytes())?);
        }
        argument_pointers.push(ptr::null());
        let mut environment_pointers = Vec::with_capacity(environment.len() + 1);
        for (name, value) in environment {
            environment_pointers.push(own(&[name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        environment_pointers.push(ptr::null());
        Ok(Self { candidates, arguments: argument_pointers, environment: environment_pointers, _strings: strings })
    }

    /// Becomes the program; returns only with the reason why not. Calls nothing that is not async-signal-safe.
    pub(crate) fn execute(&mut self) -> Errno {
        let mut denied = false;
        let mut last = Errno::NOENT;
        for index in 0..self.candidates.len() {
            last = self.execute_one(index);
            match last {
                Errno::ACCESS => denied = true,
                // Nothing there, or the directory can't be reached: the next one may have it.
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                _ => return last,
            }
        }
        if denied { Errno::ACCESS } else { last }
    }

    fn execute_one(&mut self, index: usize) -> Errno {
        let candidate = self.candidates[index].as_ptr();
        // SAFETY: all pointers are to C strings that `self` owns, and both lists end with a null.
        unsafe { libc::execve(candidate, self.arguments[1..].as_ptr(), self.environment.as_ptr()) };
        let errno = last_errno();
        if errno != Errno::NOEXEC {
            return errno;
        }
        self.arguments[0] = c"/bin/sh".as_ptr();
        self.arguments[1] = candidate;
        // SAFETY: as above.
        unsafe { libc::execve(c"/bin/sh".as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        Errno::NOEXEC
    }
}

/// Where the program may be, in order. A name with a slash is taken as it is; an empty one is nowhere.
fn candidates(program: &[u8], path: &[u8]) -> Result<Vec<CString>, Errno> {
    let whole = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    if program.is_empty() {
        return Ok(Vec::new());
    }
    if program.contains(&b'/') {
        return Ok(vec![whole(program)?]);
    }
    path.split(|byte| *byte == b':')
        .map(|directory| match directory {
            b"" => whole(program),
            directory => whole(&[directory, b"/", program].concat()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_along_the_path_and_a_path_is_not() {
        let found = |program: &str, path: &str| candidates(program.as_bytes(), path.as_bytes()).unwrap();
        assert_eq!(found("sh", "/bin::/usr/bin"), [c"/bin/sh", c"sh", c"/usr/bin/sh"].map(CString::from));
        assert_eq!(found("./sh", "/bin"), [c"./sh"].map(CString::from));
        assert!(found("", "/bin").is_empty());
        assert_eq!(candidates(b"s\0h", b"/bin"), Err(Errno::INVAL));
    }
}
