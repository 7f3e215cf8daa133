//! Chunks. RFC 9112 §7.1.

use super::{Bad, CHUNK_LINE_LEN_MAX, FIELDS_MAX, Field, TRAILERS_LEN_MAX, framing::may_trail};

/// Room for the fields behind a body, on the stack of whoever reads them.
pub type TrailerRoom<'b> = [Field<'b>; FIELDS_MAX];

/// Empty [`TrailerRoom`].
pub const fn trailer_room<'b>() -> TrailerRoom<'b> {
    [httparse::EMPTY_HEADER; FIELDS_MAX]
}

/// Reads a chunked body: what frames it is taken away, byte for byte, and only what is plainly right is taken.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// Bytes left of the chunk.
    left: u64,
    /// Bytes of the line so far.
    line: usize,
    /// Trailer fields as they came, up to and with the empty line.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In front of a chunk, before its first digit.
    #[default]
    Begin,
    /// Among the digits.
    Size,
    /// Among extensions, which nobody here understands.
    Extension,
    /// Behind the CR of that line.
    SizeEnd,
    Data,
    /// Behind the data: CR,
    DataEnd,
    /// then LF.
    DataEndLf,
    Trailers,
    Done,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing without more bytes.
    More,
    /// So many of the bytes that follow what was consumed are data. They count as consumed, too.
    Data(usize),
    /// The body has ended.
    End,
}

impl Chunked {
    /// Takes bytes up to the end of the next run of data: how many were framing, and what follows them.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, Progress), Bad> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Data => {
                    let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok((at, Progress::Data(len)));
                }
                State::Done => return Ok((at, Progress::End)),
                State::Trailers => {
                    at += self.take_trailers(&bytes[at..])?;
                    if self.state == State::Done {
                        return Ok((at, Progress::End));
                    }
                    continue;
                }
                _ => self.step(byte)?,
            }
            at += 1;
        }
        Ok((at, if self.state == State::Done { Progress::End } else { Progress::More }))
    }

    fn step(&mut self, byte: u8) -> Result<(), Bad> {
        self.line += 1;
        if self.line > CHUNK_LINE_LEN_MAX {
            return Err(Bad::Chunk);
        }
        self.state = match (self.state, byte) {
            (State::Begin | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                // 2^56 bytes are more than anybody sends.
                if self.left >> 52 != 0 {
                    return Err(Bad::Chunk);
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Size, b'\r') => State::SizeEnd,
            // RFC 9112 §7.1.1: white space before an extension was always wrong, and hid things.
            (State::Size, b';') => State::Extension,
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=b'~') => State::Extension,
            (State::SizeEnd, b'\n') => {
                self.line = 0;
                if self.left == 0 { State::Trailers } else { State::Data }
            }
            (State::DataEnd, b'\r') => State::DataEndLf,
            (State::DataEndLf, b'\n') => {
                self.line = 0;
                State::Begin
            }
            _ => return Err(Bad::Chunk),
        };
        Ok(())
    }

    /// Takes bytes up to the empty line behind the trailer fields.
    fn take_trailers(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' && self.trailers.last() != Some(&b'\r')
                || self.trailers.len() >= TRAILERS_LEN_MAX
            {
                return Err(Bad::Chunk);
            }
            self.trailers.push(*byte);
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
                return Ok(at + 1);
            }
        }
        Ok(bytes.len())
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether there are trailer fields; once it [is done](Self::is_done).
    pub fn has_trailers(&self) -> bool {
        self.trailers.len() > 2
    }

    /// Those trailer fields that may go on.
    pub fn trailers<'t>(
        &'t self,
        room: &'t mut TrailerRoom<'t>,
    ) -> Result<impl Iterator<Item = (&'t str, &'t [u8])>, Bad> {
        let mut fields: &[Field<'_>] = &[];
        if self.has_trailers() {
            let parsed = httparse::parse_headers(&self.trailers, room);
            let Ok(httparse::Status::Complete((_, parsed))) = parsed else { return Err(Bad::Chunk) };
            fields = parsed;
        }
        Ok(fields.iter().map(|field| (field.name, field.value)).filter(|(name, _)| may_trail(name)))
    }

    /// Appends the end of the body with those trailer fields that may go on.
    pub fn write_end(&self, out: &mut Vec<u8>) -> Result<(), Bad> {
        write_last_chunk(out, self.trailers(&mut trailer_room())?);
        Ok(())
    }
}

/// Appends the end of a chunked body with those of these trailer fields that may go on.
pub fn write_last_chunk<'f>(out: &mut Vec<u8>, trailers: impl Iterator<Item = (&'f str, &'f [u8])>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.filter(|(name, _)| may_trail(name)) {
        super::rewrite::write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the line in front of a chunk of this length, which is not zero.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    use std::io::Write as _;
    // Writing to memory cannot fail.
    let _infallible = write!(out, "{len:x}\r\n");
}

/// Appends what stands behind the data of a chunk.
pub fn write_chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}
