//! What a client calls the server, `:authority`, made acceptable before h2 reads it.
//!
//! On a Unix socket it means nothing, and many clients send the socket's path there (`%2Frun%2Fscratchd%2Fgrpc.sock`). h2
//! allows no `/` and no percent-encoding in it, resets the stream, and can't be told otherwise. So such bytes are replaced in
//! place: lengths stay, and with them the frames (RFC 9113 section 4.1) and the dynamic table's sizes (RFC 7541 section 4.1).
//!
//! No dynamic table is kept: a field that comes from it was mended when it was put there. Left alone are a value of which only
//! the name comes from it (encoders find `:authority` in the static table first), an empty value, and what follows the first
//! character of more than 8 bits in a Huffman-coded one. Nonsense ends the following: h2 refuses it by itself.

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";

/// Follows the bytes that a client sends, as far as is needed to find its `:authority`.
#[derive(Debug, Default)]
pub(super) struct Authority {
    part: Part,
    /// Bytes of the part still to come.
    left: usize,
    /// The last bytes of parts that are looked at whole.
    head: [u8; FRAME_HEADER_BYTES],
    priority: usize, // these are the lengths of the frame's later parts
    fragment: usize,
    padding: usize,
    block: Block,
}

/// What the next bytes are (RFC 9113 sections 3.4, 4.1, 6.2 and 6.10).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Nothing,
    FrameHeader,
    PadLength,
    Priority,
    Fragment,
    /// The preface, padding, the payload of a frame of another type; after nonsense, everything.
    Skipped,
}

impl Authority {
    /// Makes what stands in `bytes`, the next ones read, acceptable.
    pub(super) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at_mut(self.left.min(bytes.len()));
            (self.part, self.left) = self.read(now).unwrap_or((Part::Skipped, usize::MAX));
            bytes = later;
        }
    }

    /// The part that comes next, and what is left of it; none if these bytes make no sense.
    fn read(&mut self, bytes: &mut [u8]) -> Option<(Part, usize)> {
        match self.part {
            Part::FrameHeader | Part::PadLength => bytes.iter().for_each(|byte| {
                self.head.rotate_left(1);
                self.head[FRAME_HEADER_BYTES - 1] = *byte;
            }),
            Part::Fragment => bytes.iter_mut().try_for_each(|byte| self.block.read(byte))?,
            _ => {}
        }
        match self.part {
            part if bytes.len() < self.left => Some((part, self.left - bytes.len())),
            Part::Nothing => Some((Part::Skipped, PREFACE_BYTES)),
            Part::Skipped => Some((Part::FrameHeader, FRAME_HEADER_BYTES)),
            Part::FrameHeader => self.frame(),
            Part::PadLength => {
                self.padding = usize::from(self.head[FRAME_HEADER_BYTES - 1]);
                self.fragment = self.fragment.checked_sub(self.padding)?;
                Some((Part::Priority, self.priority))
            }
            Part::Priority => Some((Part::Fragment, self.fragment)),
            Part::Fragment => Some((Part::Skipped, self.padding)),
        }
    }

    fn frame(&mut self) -> Option<(Part, usize)> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind != HEADERS && kind != CONTINUATION {
            return Some((Part::Skipped, length));
        }
        let has = |flag| kind == HEADERS && flags & flag != 0;
        self.padding = 0;
        self.priority = if has(PRIORITY) { 5 } else { 0 };
        self.fragment = length.checked_sub(self.priority + usize::from(has(PADDED)))?;
        Some(if has(PADDED) { (Part::PadLength, 1) } else { (Part::Priority, self.priority) })
    }
}

/// Follows a header block (RFC 7541 sections 5 and 6).
#[derive(Debug, Default)]
struct Block {
    at: At,
    /// An integer's, until now; then the bytes of its string still to come.
    value: usize,
    /// Which of an integer's bytes after the first is next. 0: the first.
    more: u32,
    is_authority: bool,
    /// Of a Huffman-coded string: the bits of a character that is not complete, behind a 1. Of another one: 0.
    code: u16,
}

/// What the next byte is of: a string, or an integer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Field,
    /// The index of a whole field, or the dynamic table's size.
    Whole,
    NameIndex,
    NameLength,
    Name,
    ValueLength,
    Value,
}

impl Block {
    fn read(&mut self, byte: &mut u8) -> Option<()> {
        match self.at {
            At::Name => self.is_authority &= NAME.iter().nth_back(self.value - 1) == Some(byte),
            At::Value if !self.is_authority => {}
            At::Value if self.code > 0 => self.mend_coded(byte),
            At::Value if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => {}
            At::Value => *byte = b'-',
            _ => return self.integer(*byte),
        }
        self.value -= 1;
        if self.value == 0 {
            self.at = if self.at == At::Name { At::ValueLength } else { At::Field };
        }
        Some(())
    }

    fn integer(&mut self, byte: u8) -> Option<()> {
        if self.more == 0 {
            let (at, mask) = match (self.at, byte) {
                (At::Field, 0x80..) => (At::Whole, 0x7f),
                (At::Field, 0x40..) => (At::NameIndex, 0x3f),
                (At::Field, 0x20..) => (At::Whole, 0x1f),
                (At::Field, _) => (At::NameIndex, 0x0f),
                (length, _) => (length, 0x7f),
            };
            (self.at, self.value) = (at, usize::from(byte & mask));
            self.code = u16::from(byte >> 7);
            self.more = u32::from(byte & mask == mask);
        } else {
            self.value += usize::from(byte & 0x7f) << (7 * (self.more - 1));
            self.more = if byte & 0x80 == 0 { 0 } else { self.more + 1 };
        }
        if self.more > 0 {
            return (self.more <= 4).then_some(()); // h2 takes no longer ones
        }
        self.is_authority = match self.at {
            At::NameIndex => self.value == 1, // in the static table (RFC 7541 appendix A)
            At::NameLength => self.value == NAME.len() && self.code == 0,
            _ => self.is_authority,
        };
        self.at = match (self.at, self.value) {
            (At::NameIndex, 0) => At::NameLength,
            (At::NameIndex, _) | (At::NameLength, 0) => At::ValueLength,
            (At::NameLength, _) => At::Name,
            (At::ValueLength, 1..) => At::Value,
            _ => At::Field,
        };
        Some(())
    }

    /// Flips bits as they come, since those before may have gone on: ` ` and `%` become `-` and `.`, `/` a `3`, `:` a `B`.
    fn mend_coded(&mut self, byte: &mut u8) {
        for bit in (0..8).rev().map(|place| 1 << place) {
            self.code = self.code << 1 | u16::from(*byte & bit != 0);
            if let 0b1_01010 | 0b1_011000 | 0b1_1011100 = self.code {
                *byte ^= bit;
                self.code ^= 1;
            }
            match self.code {
                // The characters of 5 and 6, and of 7 and 8 bits (RFC 7541 appendix B).
                0b1_00000..=0b1_01001 | 0b1_010100..=0b1_101101 => self.code = 1,
                0b1_1011100..=0b1_1111011 | 0b1_11111000..=0b1_11111101 => self.code = 1,
                0b1_11111110.. => return self.is_authority = false,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"%2Frun%2F:\xff.sock";
    const MENDED: &[u8] = b"-2Frun-2F--.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Other fields with the same value, around `:authority` by index and by name: added to the table, not added, never.
    fn block(value: &[u8]) -> Vec<u8> {
        let other = [b"\x04\x10".as_slice(), SENT, b"\x40\x01a\x10", SENT, b"\x3f\xe1\x1f\x82\x60\x01/"].concat();
        let starts = ["\x41", "\x01", "\x11", "\x40\x0a:authority", "\0\x0a:authority", "\x10\x0a:authority"];
        let fields = starts.map(|start| [start.as_bytes(), &[16], value].concat());
        [&other, &fields.concat(), &other].map(Vec::as_slice).concat()
    }

    /// Wherever the stream is cut, and with other frames in between.
    fn becomes(frames: impl Fn(&[u8]) -> Vec<u8>, sent: &[u8], mended: &[u8]) {
        let (start, data) = ([&[b' '; 24], &frame(4, 0, &[0; 6])[..]].concat(), frame(0, 0, SENT));
        let stream = |value| [&start[..], &frames(value), &data, &frames(value)].concat();
        for cut in 0..=stream(sent).len() {
            let (mut bytes, mut authority) = (stream(sent), Authority::default());
            let (first, second) = bytes.split_at_mut(cut);
            authority.mend(first);
            second.chunks_mut(cut.max(1)).for_each(|chunk| authority.mend(chunk));
            assert_eq!(bytes, stream(mended), "cut at {cut}");
        }
    }

    #[test]
    fn an_authority_is_mended_however_it_comes() {
        becomes(|value| frame(1, 4, &block(value)), SENT, MENDED);
        becomes(|value| frame(1, 0x2c, &[b"\x03\0\0\0\0\x41", &block(value)[..], b"%%%"].concat()), SENT, MENDED);
        let start = |block: &[u8]| frame(1, 8, &[b"\x03", block, b"%%%"].concat());
        let continued = |block: Vec<u8>| [start(&block[..52]), frame(9, 0x2c, &block[52..])].concat();
        becomes(|value| continued(block(value)), SENT, MENDED);
        let one = |length: &[u8], value: &[u8]| frame(1, 4, &[b"\x41", length, value, b"\x04\x01/"].concat());
        becomes(|value| one(b"\x7f\x49", value), &[b'/'; 200], &[b'-'; 200]);
        // `/a %bZ:c/%~/%` and `3a-.bZBc3.~/%`, Huffman-coded.
        let sent = b"\x60\x6a\x2b\x1f\xed\xc2\x30\xaf\xff\x58\x57";
        let mended = b"\x64\x6b\x2f\x1f\xed\xd2\x32\xbf\xff\x58\x57";
        becomes(|value| one(b"\x8b", value), sent, mended);
    }

    #[test]
    fn nonsense_is_left_to_who_reads_on() {
        becomes(|value| frame(1, 4, &[b"\x7f\xff\xff\xff\xff\x01\x01/\x41\x10", value].concat()), SENT, SENT);
        let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let random = std::iter::successors(Some(1), next).map(|state| state.to_be_bytes()[0]);
        for garbage in random.take(1_000_000).collect::<Vec<u8>>().chunks(100) {
            let mut bytes = [&[0; 24], &frame(1 + garbage[0] % 2 * 8, garbage[1], garbage)[..], garbage].concat();
            let mut authority = Authority::default();
            bytes.chunks_mut(1 + usize::from(garbage[2])).for_each(|chunk| authority.mend(chunk));
        }
    }
}
