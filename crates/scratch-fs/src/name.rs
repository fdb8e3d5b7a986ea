//! Names of areas: what a prefix, a suffix and a whole name may be, random names, and the one retry loop over them.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

/// Most bytes of a name, as Linux file systems have it (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;

/// How often a random name is drawn before giving up; with 8 characters this many clashes never come by chance.
const ATTEMPTS_MAX: usize = 10_000;

/// 36 letters and digits and `_`, as CPython's tempfile draws from.
const ALPHABET: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789_";

/// A name that is refused before anything is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A prefix, suffix or name with `/`.
    #[error("a prefix, suffix or name must not contain '/'; name the directory separately")]
    Slash,
    /// A prefix, suffix or name with NUL.
    #[error("a prefix, suffix or name must not contain a NUL byte")]
    Nul,
    /// No bytes at all.
    #[error("a name must not be empty")]
    Empty,
    /// `.` or `..`.
    #[error("a name must not be '.' or '..'")]
    Dots,
    /// More than [`NAME_BYTES_MAX`] bytes with its random characters.
    #[error("a name has at most 255 bytes, random characters included")]
    TooLong,
    /// Fewer than 3 or more than 64 random characters.
    #[error("random_chars must be 3 to 64")]
    RandomChars,
}

/// A checked prefix, suffix and number of random characters.
#[derive(Debug, Clone, Copy)]
pub struct NamePattern<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
    random_chars: usize,
}

impl<'a> NamePattern<'a> {
    /// Checks the parts and the length of the whole. A random part of at least 3 characters of the alphabet can never
    /// make `.` or `..` of it.
    ///
    /// # Errors
    /// [`NameError`] for whatever could leave the directory or not be a name.
    pub fn new(prefix: &'a [u8], suffix: &'a [u8], random_chars: usize) -> Result<Self, NameError> {
        check_bytes(prefix)?;
        check_bytes(suffix)?;
        if !(3..=64).contains(&random_chars) {
            return Err(NameError::RandomChars);
        }
        if prefix.len() + suffix.len() + random_chars > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self { prefix, suffix, random_chars })
    }

    /// Bytes of every name that it gives.
    #[must_use]
    pub fn length(&self) -> usize {
        self.prefix.len() + self.suffix.len() + self.random_chars
    }

    /// One name, its random characters fresh from the operating system's generator.
    ///
    /// # Errors
    /// That of getrandom(2).
    pub fn draw(&self) -> Result<CString, Errno> {
        let mut name = Vec::with_capacity(self.length() + 1);
        name.extend_from_slice(self.prefix);
        push_random(&mut name, self.random_chars)?;
        name.extend_from_slice(self.suffix);
        Ok(CString::new(name).expect("prefix and suffix were checked for NUL"))
    }
}

/// How a new area gets its name.
#[derive(Debug, Clone, Copy)]
pub enum Naming<'a> {
    /// Random names until one is free.
    Random(NamePattern<'a>),
    /// Just this one; the caller has checked it with [`check_name`].
    Exact(&'a CStr),
}

impl Naming<'_> {
    /// Calls `make` with names until it does not answer EEXIST: the only retry loop over names there is.
    ///
    /// # Errors
    /// What `make` answers; EEXIST for an exact name that is taken, and after 10 000 clashes.
    pub fn make<T>(&self, mut make: impl FnMut(&CStr) -> Result<T, Errno>) -> Result<(T, CString), Errno> {
        match self {
            Self::Exact(name) => Ok((make(name)?, (*name).to_owned())),
            Self::Random(pattern) => {
                for _ in 0..ATTEMPTS_MAX {
                    let name = pattern.draw()?;
                    match make(&name) {
                        Err(Errno::EXIST) => {}
                        result => return result.map(|made| (made, name)),
                    }
                }
                Err(Errno::EXIST)
            }
        }
    }
}

/// Checks one exact name that a client proposes.
///
/// # Errors
/// [`NameError`] when it is no single ordinary component.
pub fn check_name(name: &[u8]) -> Result<CString, NameError> {
    check_bytes(name)?;
    match name {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if name.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ => CString::new(name).map_err(|_| NameError::Nul),
    }
}

fn check_bytes(part: &[u8]) -> Result<(), NameError> {
    for byte in part {
        match byte {
            b'/' => return Err(NameError::Slash),
            0 => return Err(NameError::Nul),
            _ => {}
        }
    }
    Ok(())
}

/// Draws by rejection, so that all 37 characters are equally likely: 6 bits a draw, 27 of 64 are thrown away.
fn push_random(name: &mut Vec<u8>, count: usize) -> Result<(), Errno> {
    let mut bytes = [0; 32];
    let mut left = count;
    while left > 0 {
        getrandom::fill(&mut bytes)
            .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        for byte in bytes {
            if let Some(character) = ALPHABET.get(usize::from(byte & 63)) {
                name.push(*character);
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefix_random_suffix() {
        let pattern = NamePattern::new(b"tmp", b".x", 8).unwrap();
        let name = pattern.draw().unwrap();
        let bytes = name.as_bytes();
        assert_eq!(bytes.len(), 13);
        assert!(bytes.starts_with(b"tmp") && bytes.ends_with(b".x"));
        assert!(bytes[3..11].iter().all(|c| ALPHABET.contains(c)));
        assert_ne!(name, pattern.draw().unwrap());
    }

    #[test]
    fn every_character_is_drawn() {
        let mut seen = Vec::new();
        push_random(&mut seen, 20_000).unwrap();
        for character in ALPHABET {
            // 540 are expected; 300 is 10 standard deviations off.
            assert!(seen.iter().filter(|c| *c == character).count() > 300, "{}", *character as char);
        }
    }

    #[test]
    fn what_could_leave_the_directory_is_refused() {
        for (prefix, suffix, error) in [
            (&b"a/b"[..], &b""[..], NameError::Slash),
            (b"../x", b"", NameError::Slash),
            (b"/abs", b"", NameError::Slash),
            (b"", b"/", NameError::Slash),
            (b"a\0", b"", NameError::Nul),
            (&[b'a'; 248], b"", NameError::TooLong),
        ] {
            assert_eq!(NamePattern::new(prefix, suffix, 8).unwrap_err(), error);
        }
        assert!(NamePattern::new(&[b'a'; 247], b"", 8).is_ok());
        assert!(NamePattern::new(b"\xff\n", b"\xfe", 3).is_ok(), "any other byte is a name's");
        for count in [0, 2, 65] {
            assert_eq!(NamePattern::new(b"", b"", count).unwrap_err(), NameError::RandomChars);
        }
        for (name, error) in [
            (&b""[..], NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/b", NameError::Slash),
            (b"a\0b", NameError::Nul),
            (&[b'a'; 256], NameError::TooLong),
        ] {
            assert_eq!(check_name(name).unwrap_err(), error);
        }
        assert!(check_name(b"...").is_ok());
    }

    #[test]
    fn clashes_are_drawn_again_and_other_errors_are_not() {
        let naming = Naming::Random(NamePattern::new(b"", b"", 8).unwrap());
        let mut calls = 0;
        let made = naming.make(|_| {
            calls += 1;
            if calls < 5 { Err(Errno::EXIST) } else { Ok(()) }
        });
        assert!(made.is_ok());
        assert_eq!(calls, 5);
        assert_eq!(naming.make(|_| Err::<(), _>(Errno::ACCESS)).unwrap_err(), Errno::ACCESS);
        let mut calls = 0;
        let endless = naming.make(|_| {
            calls += 1;
            Err::<(), _>(Errno::EXIST)
        });
        assert_eq!((endless.unwrap_err(), calls), (Errno::EXIST, ATTEMPTS_MAX));
        let exact = Naming::Exact(c"one");
        assert_eq!(exact.make(|_| Err::<(), _>(Errno::EXIST)).unwrap_err(), Errno::EXIST);
    }
}
