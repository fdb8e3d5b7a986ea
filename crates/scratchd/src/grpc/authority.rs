//! What a client calls the server, `:authority`, made acceptable before the HTTP/2 implementation reads it.
//!
//! On a Unix socket it means nothing, and many clients send the socket's path (`%2Frun%2Fscratchd%2Fgrpc.sock`), which is no
//! authority by RFC 3986 section 3.2: h2 resets the stream, and can't be told otherwise. So such bytes are replaced in place.
//! Lengths stay, and with them the frames (RFC 9113 section 4.1) and the sizes in the dynamic table (RFC 7541 section 4.1).
//!
//! No dynamic table is kept: a field that comes from it was mended when it was put there. Left alone are a value whose name
//! only comes from it (encoders find `:authority` in the static table first), an empty value, and what follows the first
//! character of more than 8 bits in a Huffman-coded one. What makes no sense ends the following: h2 refuses it by itself.

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const PRIORITY_BYTES: usize = 5;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
const STATIC_INDEX: usize = 1;

/// Follows the bytes that a client sends, as far as is needed to find its `:authority`.
#[derive(Debug, Default)]
pub(super) struct Authority {
    part: Part,
    /// Bytes of the part still to come.
    left: usize,
    /// The last bytes of parts that are looked at whole.
    head: [u8; FRAME_HEADER_BYTES],
    /// Bytes of the frame's later parts.
    priority: usize,
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
    /// The preface, padding, the payload of a frame of another type.
    Skipped,
    Lost,
}

impl Authority {
    /// Makes what stands in `bytes`, the next ones read, acceptable.
    pub(super) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() && self.part != Part::Lost {
            let (now, later) = bytes.split_at_mut(self.left.min(bytes.len()));
            (self.part, self.left) = self.read(now).unwrap_or((Part::Lost, 0));
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
        let left = self.left - bytes.len();
        match self.part {
            part if left > 0 => Some((part, left)),
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
            Part::Lost => None,
        }
    }

    fn frame(&mut self) -> Option<(Part, usize)> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let has = |flag| kind == HEADERS && flags & flag != 0;
        if kind == HEADERS {
            self.block = Block::default();
        } else if kind != CONTINUATION {
            return Some((Part::Skipped, length));
        }
        self.padding = 0;
        self.priority = if has(PRIORITY) { PRIORITY_BYTES } else { 0 };
        self.fragment = length.checked_sub(self.priority + usize::from(has(PADDED)))?;
        Some(if has(PADDED) { (Part::PadLength, 1) } else { (Part::Priority, self.priority) })
    }
}

/// Follows a header block (RFC 7541 sections 5 and 6).
#[derive(Debug, Default)]
struct Block {
    at: At,
    /// An integer's value until now; of a string, the bytes still to come.
    value: usize,
    /// Which of an integer's bytes after the first is next; 0: the first.
    more: u32,
    is_authority: bool,
    is_coded: bool,
    /// The bits of a character that is not complete, behind a 1.
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
            At::Value if self.is_coded => self.mend_coded(byte),
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
            self.is_coded = byte & 0x80 != 0;
            self.more = u32::from(byte & mask == mask);
        } else {
            self.value += usize::from(byte & 0x7f) << (7 * (self.more - 1));
            self.more = if byte & 0x80 == 0 { 0 } else { self.more + 1 };
        }
        if self.more == 0 {
            self.at = self.after_integer();
        }
        // h2 takes no longer ones.
        (self.more <= 4).then_some(())
    }

    fn after_integer(&mut self) -> At {
        match self.at {
            At::NameIndex => self.is_authority = self.value == STATIC_INDEX,
            At::NameLength => self.is_authority = self.value == NAME.len() && !self.is_coded,
            _ => self.code = 1,
        }
        match (self.at, self.value) {
            (At::NameIndex, 0) => At::NameLength,
            (At::NameIndex, _) | (At::NameLength, 0) => At::ValueLength,
            (At::NameLength, _) => At::Name,
            (At::ValueLength, 1..) => At::Value,
            _ => At::Field,
        }
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
                // The characters of 5, 6, 7 and 8 bits (RFC 7541 appendix B).
                0b1_00000..=0b1_01001 | 0b1_010100..=0b1_101101 | 0b1_1011100..=0b1_1111011 | 0x1f8..=0x1fd => self.code = 1,
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
        let other = [b"\x04\x10".as_slice(), SENT, b"\x40\x01a\x10", SENT, b"\x3f\xe1\x1f\x82\x7f\x01\x01/"].concat();
        let starts = ["\x41", "\x01", "\x11", "\x40\x0a:authority", "\0\x0a:authority", "\x10\x0a:authority"];
        let fields = starts.map(|start| [start.as_bytes(), &[16], value].concat());
        [&other, &fields.concat(), &other].map(Vec::as_slice).concat()
    }

    /// Wherever the stream is cut, and with other frames in between.
    fn becomes(sent: &[u8], expected: &[u8]) {
        let (settings, data) = (frame(4, 0, &[0; 6]), frame(0, 0, SENT));
        let stream = |headers| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], headers, &data, headers].concat();
        for cut in 0..=stream(sent).len() {
            let (mut bytes, mut authority) = (stream(sent), Authority::default());
            let (first, second) = bytes.split_at_mut(cut);
            authority.mend(first);
            second.chunks_mut(cut.max(1)).for_each(|chunk| authority.mend(chunk));
            assert_eq!(bytes, stream(expected), "cut at {cut}");
        }
    }

    #[test]
    fn an_authority_is_mended_however_it_comes() {
        becomes(&frame(1, 4, &block(SENT)), &frame(1, 4, &block(MENDED)));
        let padded = |value| frame(1, 0x2c, &[b"\x03%%%%%", &block(value)[..], b"%%%"].concat());
        becomes(&padded(SENT), &padded(MENDED));
        let (start, end) = (|value| frame(1, 0, &block(value)[..52]), |value| frame(9, 4, &block(value)[52..]));
        becomes(&[start(SENT), end(SENT)].concat(), &[start(MENDED), end(MENDED)].concat());
        let long = |byte: u8| frame(1, 4, &[b"\x41\x7f\x49", &[byte; 200][..], b"\x04\x01/"].concat());
        becomes(&long(b'/'), &long(b'-'));
        // `/a %bX:c/%%` and `3a-.bXBc3..`, Huffman-coded.
        let coded = |value: &[u8; 9]| frame(1, 4, &[b"\x41\x89", &value[..], b"\x04\x01/"].concat());
        becomes(&coded(b"\x60\x6a\x2b\x1f\xe5\xc2\x30\xaa\xbf"), &coded(b"\x64\x6b\x2f\x1f\xe5\xd2\x32\xba\xff"));
    }

    #[test]
    fn nonsense_is_left_to_who_reads_on() {
        let endless = frame(1, 4, &[b"\x7f\xff\xff\xff\xff\x01\x41\x10", SENT].concat());
        becomes(&endless, &endless);
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        for _ in 0..10_000 {
            let garbage: Vec<u8> = (0..random()).map(|_| random()).collect();
            let mut bytes = [&[0; 24], &frame(1 + random() % 2 * 8, random(), &garbage)[..], &garbage].concat();
            let (length, mut authority) = (usize::from(random()) + 1, Authority::default());
            bytes.chunks_mut(length).for_each(|chunk| authority.mend(chunk));
        }
    }
}
