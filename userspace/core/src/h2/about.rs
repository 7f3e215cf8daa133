//! Frames about the connection and its streams, and those of ours. RFC 9113 §6.3 to §6.9.

use std::time::Duration;

use super::{
    Event, Fatal, Reason, Server, StreamId, WINDOW_MAX,
    frame::{self, Header, flag},
    server::{Going, Stage},
    settings,
    streams::{Absent, Wait},
};

/// What our PING says.
const PING: [u8; 8] = *b"weir ask";

impl Server {
    /// RFC 9113 §6.3: it means nothing, but has a shape.
    pub(super) fn take_priority(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        if header.stream == 0 {
            return Err(Fatal::Misplaced);
        }
        let Some((depends, 1)) = payload.split_first_chunk().map(|(depends, rest)| (*depends, rest.len()))
        else {
            return Err(Fatal::FrameSize);
        };
        if u32::from_be_bytes(depends) & 0x7fff_ffff != header.stream {
            return Ok(None);
        }
        match self.streams.absent(header.stream) {
            Absent::Idle => Err(Fatal::Misplaced),
            _ => self.blame(header.stream, Reason::PROTOCOL_ERROR, now),
        }
    }

    /// RFC 9113 §6.4.
    pub(super) fn take_reset(
        &mut self,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, Fatal> {
        let reason = Reason(frame::number(payload)?);
        self.known(header.stream)?;
        let Some(stream) = self.streams.get(header.stream) else { return Ok(None) };
        stream.has_client_ended = true;
        self.close(header.stream);
        Ok(Some(Event::Reset { id: header.stream, reason }))
    }

    /// RFC 9113 §6.9.
    pub(super) fn take_window(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        let increment = i64::from(frame::number(payload)? & WINDOW_MAX);
        let most = i64::from(WINDOW_MAX);
        if header.stream == 0 {
            self.window += increment;
            return match increment {
                0 => Err(Fatal::NoIncrement),
                _ if self.window > most => Err(Fatal::Window),
                _ => Ok(None),
            };
        }
        self.known(header.stream)?;
        let Some(stream) = self.streams.get(header.stream) else { return Ok(None) };
        stream.window += increment;
        if increment == 0 {
            return self.blame(header.stream, Reason::PROTOCOL_ERROR, now);
        }
        if stream.window > most {
            return self.blame(header.stream, Reason::FLOW_CONTROL_ERROR, now);
        }
        if stream.wait == Wait::Window && stream.window > 0 {
            stream.wait = Wait::Turn;
            self.turns.push_back(header.stream);
        }
        Ok(None)
    }

    /// RFC 9113 §6.5.
    pub(super) fn take_settings(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Fatal::FrameSize) };
        }
        if let Some(window) = settings::initial_window(payload)? {
            let window = i64::from(window);
            self.streams.widen(window - self.initial_window).ok_or(Fatal::Window)?;
            self.initial_window = window;
            for (id, stream) in self.streams.iter() {
                if stream.wait == Wait::Window && stream.window > 0 {
                    stream.wait = Wait::Turn;
                    self.turns.push_back(id);
                }
            }
        }
        frame::put_settings_ack(&mut self.output);
        Ok(())
    }

    /// RFC 9113 §6.7.
    pub(super) fn take_ping(
        &mut self,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, Fatal> {
        if payload.len() != PING.len() {
            return Err(Fatal::FrameSize);
        }
        if !header.has(flag::ACK) {
            frame::put_ping(&mut self.output, flag::ACK, payload);
            return Ok(None);
        }
        let is_ours = self.has_asked && payload == PING;
        self.has_asked &= !is_ours;
        Ok(is_ours.then_some(Event::PingAnswered))
    }

    /// RFC 9113 §5.1: of a stream nobody opened, nothing can be said.
    fn known(&self, id: StreamId) -> Result<(), Fatal> {
        if self.streams.absent(id) == Absent::Idle { Err(Fatal::Misplaced) } else { Ok(()) }
    }

    /// Asks the client to open no more streams; called again a moment later, names the last one: any later is refused.
    pub fn go_away(&mut self) {
        let last = match self.going {
            _ if self.stage == Stage::Over => return,
            Going::No => {
                self.going = Going::Asked;
                WINDOW_MAX
            }
            Going::Asked => {
                self.going = Going::Said;
                self.streams.last()
            }
            Going::Said => return,
        };
        frame::put_go_away(&mut self.output, last, Reason::NO_ERROR, "");
    }

    /// Asks whether the client is there.
    pub fn ping(&mut self) {
        if self.stage != Stage::Over {
            self.has_asked = true;
            frame::put_ping(&mut self.output, 0, &PING);
        }
    }
}
