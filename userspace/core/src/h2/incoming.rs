//! Requests: their heads, data and ends. RFC 9113 §6.1, §6.2, §6.10, §8.1.

use std::time::Duration;

use super::{
    Event, FRAME_HEADER_LEN, Fatal, Reason, Server, StreamId,
    frame::{self, Header, flag},
    server::{Heading, Payload},
    streams::Absent,
};
use crate::h1::Bad;

impl Server {
    /// RFC 9113 §6.2.
    pub(super) fn take_head(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        // RFC 9113 §5.1.1: clients open streams with odd numbers.
        if header.stream.is_multiple_of(2) {
            return Err(Fatal::Misplaced);
        }
        let mut fragment = header.without_padding(payload)?;
        let mut heading =
            Heading { id: header.stream, ends: header.has(flag::END_STREAM), is_circular: false };
        if header.has(flag::PRIORITY) {
            let ([a, b, c, d, _weight], rest) = fragment.split_first_chunk().ok_or(Fatal::FrameSize)?;
            heading.is_circular = u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff == header.stream;
            fragment = rest;
        }
        if fragment.len() > self.terms.head_len_max as usize {
            return Err(Fatal::HeadLen);
        }
        if header.has(flag::END_HEADERS) {
            return self.head(heading, fragment, now);
        }
        self.heading = Some(heading);
        self.block.extend_from_slice(fragment);
        Ok(None)
    }

    /// RFC 9113 §6.10.
    pub(super) fn take_continuation(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        if self.block.len() + payload.len() > self.terms.head_len_max as usize {
            return Err(Fatal::HeadLen);
        }
        self.block.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Ok(None);
        }
        let heading = self.heading.take().ok_or(Fatal::Headless)?;
        let block = std::mem::take(&mut self.block);
        self.head(heading, &block, now)
    }

    /// Takes the whole of a head. Whatever becomes of it, it is unpacked: others lean on it.
    fn head(
        &mut self,
        heading: Heading,
        block: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        let Heading { id, ends, is_circular } = heading;
        self.list.clear();
        self.decoder.decode(block, &mut self.list).map_err(|_broken| Fatal::Compression)?;
        if self.streams.get(id).is_some() {
            return self.trailers_came(heading, now);
        }
        match self.streams.absent(id) {
            Absent::Idle => {}
            // RFC 9113 §5.1.1: "An endpoint that receives an unexpected stream identifier MUST respond with a connection error".
            Absent::Skipped => return Err(Fatal::Misplaced),
            Absent::EndedByClient => return Err(Fatal::StreamClosed),
            Absent::Ended => return self.guard.provoked(now).map(|()| None),
        }
        let refusal = match (self.refuses(), is_circular) {
            (true, _) => Some(Reason::REFUSED_STREAM),
            (false, true) => Some(Reason::PROTOCOL_ERROR),
            (false, false) => None,
        };
        let stream = self.streams.begin(id, self.initial_window, self.terms.stream_window);
        stream.has_client_ended = ends;
        if let Some(reason) = refusal {
            // Nobody has heard of it.
            return self.blame(id, reason, now).map(|_reset| None);
        }
        let head = self.list.head(ends);
        if head.flaw == Some(Bad::HeadLen) {
            self.guard.provoked(now)?;
        }
        stream.body_left = head.body_len();
        Ok(Some(Event::Request { id, head, ends }))
    }

    /// RFC 9113 §8.1: fields behind a body, which they end.
    fn trailers_came(&mut self, heading: Heading, now: Duration) -> Result<Option<Event<'static>>, Fatal> {
        let Heading { id, ends, is_circular } = heading;
        let fields = self.list.head(true);
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        if stream.has_client_ended {
            return self.blame(id, Reason::STREAM_CLOSED, now);
        }
        let is_whole = matches!(stream.body_left, None | Some(0));
        if !ends || is_circular || !is_whole || !fields.may_trail() {
            return self.blame(id, Reason::PROTOCOL_ERROR, now);
        }
        self.client_ended(id);
        Ok(Some(Event::Trailers { id, fields }))
    }

    /// Takes the header of data: what follows is given out as it comes. RFC 9113 §6.1, §6.9.
    pub(super) fn begin_data<'i>(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<(usize, Option<Event<'i>>)>, Fatal> {
        let id = header.stream;
        let (mut used, mut data, mut padding) = (FRAME_HEADER_LEN, header.len, 0);
        if header.has(flag::PADDED) {
            data = data.checked_sub(1).ok_or(Fatal::FrameSize)?;
            let Some(&len) = payload.first() else { return Ok(None) };
            padding = len.into();
            data = data.checked_sub(padding).ok_or(Fatal::Padding)?;
            used += 1;
        }
        self.guard.saw(header, &[], now)?;
        self.granted.use_up(header.len).ok_or(Fatal::FlowControl)?;
        let Some(stream) = self.streams.get(id) else {
            match self.streams.absent(id) {
                Absent::Idle | Absent::Skipped => return Err(Fatal::Misplaced),
                Absent::EndedByClient => return Err(Fatal::StreamClosed),
                Absent::Ended => self.guard.was_late(now)?,
            }
            self.give_back(header.len);
            self.payload = pass_over(id, data + padding);
            return Ok(Some((used, None)));
        };
        let ends = header.has(flag::END_STREAM);
        // RFC 9113 §8.1.1: as much as the head has said, if it did.
        let left = stream.body_left.map(|left| left.checked_sub(data as u64));
        let wrong = if stream.has_client_ended {
            Some(Reason::STREAM_CLOSED)
        } else if stream.granted.use_up(header.len).is_none() {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else if left == Some(None) || ends && !matches!(left, None | Some(Some(0))) {
            Some(Reason::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(reason) = wrong {
            let event = self.blame(id, reason, now)?;
            self.give_back(header.len);
            self.payload = pass_over(id, data + padding);
            return Ok(Some((used, event)));
        }
        stream.body_left = left.flatten();
        self.give_back_on(id, header.len - data);
        if data == 0 {
            self.payload = pass_over(id, padding);
            if !ends {
                return Ok(Some((used, None)));
            }
            self.client_ended(id);
            return Ok(Some((used, Some(Event::Data { id, bytes: &[], ends }))));
        }
        self.payload = Some(Payload { id, data, padding, ends });
        Ok(Some((used, None)))
    }

    /// Takes what has come of data, or of what is behind it.
    pub(super) fn take_data<'i>(
        &mut self,
        payload: Payload,
        input: &'i [u8],
    ) -> Option<(usize, Option<Event<'i>>)> {
        if input.is_empty() {
            return None;
        }
        let Payload { id, data, padding, ends } = payload;
        if data == 0 {
            let len = padding.min(input.len());
            self.payload = pass_over(id, padding - len);
            return Some((len, None));
        }
        let bytes = &input[..data.min(input.len())];
        let is_last = bytes.len() == data;
        self.payload = if is_last {
            pass_over(id, padding)
        } else {
            Some(Payload { data: data - bytes.len(), ..payload })
        };
        let Some(stream) = self.streams.get(id) else {
            // It has ended since the data began.
            self.give_back(bytes.len());
            return Some((bytes.len(), None));
        };
        stream.unread += bytes.len();
        let ends = ends && is_last;
        if ends {
            self.client_ended(id);
        }
        Some((bytes.len(), Some(Event::Data { id, bytes, ends })))
    }

    /// Takes note that the client has said all on a stream.
    fn client_ended(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        stream.has_client_ended = true;
        if stream.have_we_ended {
            self.close(id);
        }
    }

    /// So many bytes of a body have been read: the client may send as many more.
    pub fn consumed(&mut self, id: StreamId, len: usize) {
        // What was left of a stream that has ended was given back then.
        let Some(stream) = self.streams.get(id) else { return };
        let len = len.min(stream.unread);
        stream.unread -= len;
        self.give_back_on(id, len);
    }

    /// Lets the client send as much again, on a stream and on all together.
    fn give_back_on(&mut self, id: StreamId, len: usize) {
        if let Some(stream) = self.streams.get(id).filter(|stream| !stream.has_client_ended)
            && let Some(increment) = stream.granted.give_back(len)
        {
            frame::put_window_update(&mut self.output, id, increment);
        }
        self.give_back(len);
    }
}

/// Bytes nobody wants.
fn pass_over(id: StreamId, padding: usize) -> Option<Payload> {
    (padding > 0).then_some(Payload { id, data: 0, padding, ends: false })
}
