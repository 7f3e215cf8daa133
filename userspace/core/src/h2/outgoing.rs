//! Responses: their heads, data and ends, and whose turn it is. RFC 9113 §6.9, §8.1.

use super::{
    FRAME_HEADER_LEN, FRAME_LEN_MAX, Gone, OUTPUT_MAX, Reason, Server, StreamId,
    frame::{self, flag, kind},
    hpack::{put_field, put_status},
    streams::{Stream, Wait},
};

impl Server {
    /// Bytes to write, to be taken as a whole. They may be taken at any time; [`Self::receive`] tells afterwards who can send more.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.last_frame = None;
        &mut self.output
    }

    /// How many bytes there are to write.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Begins a response, or says an interim one (1xx, which does not end). Names may have letters of any size; none of the fields
    /// is of HTTP/1's connections (RFC 9113 §8.2.2).
    pub fn respond<'f>(
        &mut self,
        id: StreamId,
        status: u16,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        end: bool,
    ) -> Result<(), Gone> {
        self.speaking(id)?;
        self.put_head(id, Some(status), fields, end);
        Ok(())
    }

    /// Ends a response with fields.
    pub fn trailers<'f>(
        &mut self,
        id: StreamId,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<(), Gone> {
        self.speaking(id)?;
        self.put_head(id, None, fields, true);
        Ok(())
    }

    /// Sends data, and the end if all of it went: how many bytes did, as windows and the output have room for them. If some did
    /// not, [`Event::Room`](super::Event::Room) tells when to go on.
    pub fn send(&mut self, id: StreamId, data: &[u8], end: bool) -> Result<usize, Gone> {
        let (window, room) = (self.window, OUTPUT_MAX.saturating_sub(self.output.len()));
        let stream = self.speaking(id)?;
        let open = usize::try_from(stream.window.min(window)).unwrap_or_default();
        let len = data.len().min(open).min(room);
        let is_all = len == data.len();
        stream.window -= len as i64;
        let wait = match stream.window {
            _ if is_all => Wait::No,
            ..=0 => Wait::Window,
            1.. => Wait::Turn,
        };
        if stream.wait != wait {
            self.wait(id, wait);
        }
        self.window -= len as i64;
        let (data, _) = data.split_at(len);
        for (index, piece) in data.chunks(FRAME_LEN_MAX).enumerate() {
            let is_last = (index + 1) * FRAME_LEN_MAX >= len;
            let flags = if end && is_all && is_last { flag::END_STREAM } else { 0 };
            let at = frame::put_header(&mut self.output, piece.len(), kind::DATA, flags, id);
            self.output.extend_from_slice(piece);
            self.last_frame = Some((id, at));
        }
        if end && is_all {
            if len == 0 { self.end(id)? } else { self.ended(id) }
        }
        Ok(len)
    }

    /// Ends a response: in its last frame if that has not been taken, else by another.
    pub fn end(&mut self, id: StreamId) -> Result<(), Gone> {
        self.speaking(id)?;
        match self.last_frame {
            Some((last, at)) if last == id => {
                if let Some(flags) = self.output.get_mut(at) {
                    *flags |= flag::END_STREAM;
                }
            }
            _ => _ = frame::put_header(&mut self.output, 0, kind::DATA, flag::END_STREAM, id),
        }
        self.ended(id);
        Ok(())
    }

    /// Ends a stream at once. Of one that has ended already nothing is said.
    pub fn reset(&mut self, id: StreamId, reason: Reason) {
        if self.close(id).is_some() {
            frame::put_reset(&mut self.output, id, reason);
        }
    }

    /// A stream on which we have something to say.
    fn speaking(&mut self, id: StreamId) -> Result<&mut Stream, Gone> {
        self.streams.get(id).filter(|stream| !stream.have_we_ended).ok_or(Gone)
    }

    /// Takes note that we have said all on a stream.
    fn ended(&mut self, id: StreamId) {
        self.last_frame = None;
        let Some(stream) = self.streams.get(id) else { return };
        stream.have_we_ended = true;
        if stream.has_client_ended {
            self.close(id);
        } else {
            self.wait(id, Wait::No);
        }
    }

    /// Writes a head, in as many frames as it takes. RFC 9113 §4.3.
    fn put_head<'f>(
        &mut self,
        id: StreamId,
        status: Option<u16>,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        end: bool,
    ) {
        let out = &mut self.output;
        let begin = out.len();
        let flags = if end { flag::END_STREAM } else { 0 };
        let at = frame::put_header(out, 0, kind::HEADERS, flags | flag::END_HEADERS, id);
        self.encoder.begin(out);
        if let Some(status) = status {
            put_status(out, status);
        }
        for (name, value) in fields {
            put_field(out, name, value);
        }
        let len = out.len() - begin - FRAME_HEADER_LEN;
        if len <= FRAME_LEN_MAX {
            // The length stands in front.
            let [_, len @ ..] = (len as u32).to_be_bytes();
            out[begin..begin + len.len()].copy_from_slice(&len);
        } else {
            let block = out.split_off(begin + FRAME_HEADER_LEN);
            out.truncate(begin);
            for (index, piece) in block.chunks(FRAME_LEN_MAX).enumerate() {
                let is_last = (index + 1) * FRAME_LEN_MAX >= block.len();
                let (kind, flags) = if index == 0 { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
                let flags = if is_last { flags | flag::END_HEADERS } else { flags };
                frame::put_header(out, piece.len(), kind, flags, id);
                out.extend_from_slice(piece);
            }
        }
        // An interim response ends nothing.
        let is_final = status.is_none_or(|status| status >= 200);
        self.last_frame = is_final.then_some((id, at));
        if end {
            self.ended(id);
        }
    }

    /// Has a stream wait, or not.
    fn wait(&mut self, id: StreamId, wait: Wait) {
        let Some(stream) = self.streams.get(id) else { return };
        let before = std::mem::replace(&mut stream.wait, wait);
        match (before, wait) {
            (Wait::Turn, Wait::No | Wait::Window) => self.turns.retain(|waits| *waits != id),
            (Wait::No | Wait::Window, Wait::Turn) => self.turns.push_back(id),
            _ => {}
        }
    }

    /// The next stream that can send.
    pub(super) fn next_turn(&mut self) -> Option<StreamId> {
        if self.turns.is_empty() || self.window <= 0 || self.output.len() >= OUTPUT_MAX {
            return None;
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(stream) = self.streams.get(id) else { continue };
            if stream.window > 0 {
                stream.wait = Wait::No;
                return Some(id);
            }
            stream.wait = Wait::Window;
        }
        None
    }
}
