//! The name of a lease: 80 random bits as 16 characters of lower-case base32.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A lease's id, which is also the name of its directory in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId([u8; Self::LEN]);

/// A pool by its place in the configuration; another one after a restart, perhaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

/// The text is not a lease id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a lease id: 16 characters of a-z and 2-7 are wanted")]
pub struct LeaseIdError;

impl LeaseId {
    /// Characters of an id.
    pub const LEN: usize = 16;

    /// The id that stands for these 80 bits; the caller brings the randomness.
    #[must_use]
    pub fn from_bits(bits: [u8; 10]) -> Self {
        let mut text = [0; Self::LEN];
        for (half, chunk) in bits.chunks_exact(5).enumerate() {
            let word = chunk.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            for index in 0..8 {
                text[half * 8 + index] = ALPHABET[(word >> (35 - 5 * index) & 31) as usize];
            }
        }
        Self(text)
    }

    /// Reads an id from bytes, as directory listings give them.
    ///
    /// # Errors
    /// Anything but 16 characters of the alphabet.
    pub fn from_bytes(text: &[u8]) -> Result<Self, LeaseIdError> {
        let text: [u8; Self::LEN] = text.try_into().map_err(|_| LeaseIdError)?;
        if text.iter().all(|c| ALPHABET.contains(c)) { Ok(Self(text)) } else { Err(LeaseIdError) }
    }

    /// A part of a time, the same for one id each time, and evenly spread over all ids.
    #[must_use]
    pub fn part_of(&self, time: Duration) -> Duration {
        let digit = |c: &u8| u32::from(if c.is_ascii_digit() { c - b'2' + 26 } else { c - b'a' });
        let number = self.0[..4].iter().fold(0, |number, c| number << 5 | digit(c));
        time.mul_f64(f64::from(number) / f64::from(1u32 << 20))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

impl FromStr for LeaseId {
    type Err = LeaseIdError;

    fn from_str(text: &str) -> Result<Self, LeaseIdError> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_the_alphabet_and_come_back() {
        assert_eq!(LeaseId::from_bits([0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        assert_eq!(LeaseId::from_bits([255; 10]).as_str(), "7777777777777777");
        let id = LeaseId::from_bits([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn other_names_are_not_ids() {
        for text in
            ["", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa", "AAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaa1", "aaaaaaaa/aaaaaaa"]
        {
            assert_eq!(text.parse::<LeaseId>(), Err(LeaseIdError), "{text}");
        }
    }
}
