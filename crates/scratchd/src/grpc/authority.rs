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
/// Its place in the static table (RFC 7541 appendix A).
const STATIC_INDEX: usize = 1;
/// Most bytes of an integer after its first, as h2 has it.
const MORE_MAX: u32 = 4;

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
        match kind {
            HEADERS => self.block = Block::default(),
            CONTINUATION => {}
            _ => return Some((Part::Skipped, length)),
        }
        let has = |flag| kind == HEADERS && flags & flag != 0;
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
        (self.more <= MORE_MAX).then_some(())
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
                0b1_00000..=0b1_01001 | 0b1_010100..=0b1_101101 | 0b1_1011100..=0b1_1111011 => self.code = 1,
                0b1_11111000..=0b1_11111101 => self.code = 1,
                0b1_11111110.. => return self.is_authority = false,
                _ => {}
            }
        }
    }
}
