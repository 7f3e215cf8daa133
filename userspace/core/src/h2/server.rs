//! The connection: what comes, frame by frame. RFC 9113 §3, §5, §6.

use std::{collections::VecDeque, time::Duration};

use super::{
    FRAME_HEADER_LEN, FRAME_LEN_MAX, Fatal, Head, OUTPUT_MAX, Reason, StreamId, Terms, WINDOW_MAX,
    WINDOW_MIN,
    frame::{self, Header, flag, kind},
    guard::Guard,
    hpack::{Decoder, Encoder},
    list::List,
    settings,
    streams::{Granted, Stream, Streams, Wait},
};

/// The client's first bytes. RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of output beyond which nothing more is read: what is asked for in the meantime, answers to PING and the like, comes to
/// no more than this.
const OUTPUT_FULL: usize = OUTPUT_MAX + (64 << 10);
/// What has come.
#[derive(Debug)]
pub enum Event<'i> {
    /// A request.
    Request {
        /// The stream it came on, and is answered on.
        id: StreamId,
        /// Its head.
        head: Head,
        /// Whether no body follows.
        ends: bool,
    },
    /// Data of a request, to be [consumed](Server::consumed).
    Data {
        /// Whose.
        id: StreamId,
        /// Some of it; none where only the end comes.
        bytes: &'i [u8],
        /// Whether it ends here.
        ends: bool,
    },
    /// The end of a body, with fields. RFC 9113 §8.1.
    Trailers {
        /// Whose.
        id: StreamId,
        /// The fields.
        fields: Head,
    },
    /// More can be sent on a stream that waits.
    Room {
        /// Which.
        id: StreamId,
    },
    /// A stream has ended before its time: the client gave it up, or was wrong.
    Reset {
        /// Which.
        id: StreamId,
        /// Why.
        reason: Reason,
    },
    /// The client answers to [`Server::ping`].
    PingAnswered,
    /// The connection has ended; why is in the output, too.
    Fatal(Fatal),
}

/// One connection.
#[derive(Debug)]
pub struct Server {
    pub(super) terms: Terms,
    pub(super) stage: Stage,
    pub(super) guard: Guard,
    pub(super) streams: Streams,
    pub(super) decoder: Decoder,
    pub(super) list: List,
    /// The head that is not whole, and what is there of it.
    pub(super) heading: Option<Heading>,
    pub(super) block: Vec<u8>,
    /// The data that is not whole.
    pub(super) payload: Option<Payload>,
    /// What the client may send on all streams together.
    pub(super) granted: Granted,
    /// Bytes the client takes on all streams together, and on a new one.
    pub(super) window: i64,
    pub(super) initial_window: i64,
    pub(super) encoder: Encoder,
    pub(super) output: Vec<u8>,
    /// Where the flags stand of the last frame in the output that can end its stream.
    pub(super) last_frame: Option<(StreamId, usize)>,
    /// Streams that wait for their turn, the first first.
    pub(super) turns: VecDeque<StreamId>,
    pub(super) going: Going,
    is_client_going: bool,
    /// Whether a PING of ours is not answered yet.
    pub(super) has_asked: bool,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Preface,
    /// RFC 9113 §3.4: settings before all else.
    Settings,
    Open,
    Over,
}

/// How far a connection has come to its end on our side. RFC 9113 §6.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    No,
    /// The client was asked to open no more streams; some may be on their way.
    Asked,
    /// The last stream was named.
    Said,
}

/// A head whose end has not come. RFC 9113 §6.2, §6.10.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heading {
    pub(super) id: StreamId,
    pub(super) ends: bool,
    /// Whether it depends on itself. RFC 7540 §5.3.1; all else of priority means nothing any more.
    pub(super) is_circular: bool,
}

/// Data whose end has not come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub(super) id: StreamId,
    pub(super) data: usize,
    pub(super) padding: usize,
    pub(super) ends: bool,
}

impl Server {
    /// A connection nobody has said anything on; our settings are in the output.
    pub fn new(terms: Terms) -> Self {
        let window = |len: u32| len.clamp(WINDOW_MIN, WINDOW_MAX);
        let terms = Terms {
            stream_window: window(terms.stream_window),
            connection_window: window(terms.connection_window),
            ..terms
        };
        let mut output = Vec::new();
        settings::put_ours(&mut output, &terms);
        if terms.connection_window > WINDOW_MIN {
            frame::put_window_update(&mut output, 0, terms.connection_window - WINDOW_MIN);
        }
        Self {
            terms,
            stage: Stage::Preface,
            guard: Guard::default(),
            streams: Streams::default(),
            decoder: Decoder::default(),
            list: List::new(terms.head_len_max),
            heading: None,
            block: Vec::new(),
            payload: None,
            granted: Granted::new(terms.connection_window),
            window: WINDOW_MIN.into(),
            initial_window: WINDOW_MIN.into(),
            encoder: Encoder::default(),
            output,
            last_frame: None,
            turns: VecDeque::new(),
            going: Going::No,
            is_client_going: false,
            has_asked: false,
        }
    }

    /// Takes bytes from the front of what has come, `now` after the connection began: how many, and what they say.
    ///
    /// To be called until it takes nothing and says nothing; with no bytes, too, when output was taken, for there may be room for
    /// streams that wait. It waits for the whole of each frame but DATA, so that the caller keeps no more than a header and
    /// [`FRAME_LEN_MAX`] bytes; and takes nothing while the output is too large.
    pub fn receive<'i>(&mut self, input: &'i [u8], now: Duration) -> (usize, Option<Event<'i>>) {
        let mut used = 0;
        loop {
            if self.stage == Stage::Over {
                return (used, None);
            }
            if let Some(id) = self.next_turn() {
                return (used, Some(Event::Room { id }));
            }
            if self.output.len() >= OUTPUT_FULL {
                return (used, None);
            }
            match self.step(input.get(used..).unwrap_or_default(), now) {
                Ok(None) => return (used, None),
                Ok(Some((len, event))) => {
                    used += len;
                    if event.is_some() {
                        return (used, event);
                    }
                }
                Err(fatal) => {
                    self.give_up(fatal);
                    return (used, Some(Event::Fatal(fatal)));
                }
            }
        }
    }

    /// Takes one frame, or a piece of DATA; `None` where there is no whole one.
    fn step<'i>(
        &mut self,
        input: &'i [u8],
        now: Duration,
    ) -> Result<Option<(usize, Option<Event<'i>>)>, Fatal> {
        if let Some(payload) = self.payload {
            return Ok(self.take_data(payload, input));
        }
        if self.stage == Stage::Preface {
            let len = input.len().min(PREFACE.len());
            if input[..len] != PREFACE[..len] {
                return Err(Fatal::Preface);
            }
            if len < PREFACE.len() {
                return Ok(None);
            }
            self.stage = Stage::Settings;
            return Ok(Some((len, None)));
        }
        let Some(header) = input.first_chunk().map(|bytes| Header::read(*bytes)) else { return Ok(None) };
        if header.len > FRAME_LEN_MAX {
            return Err(Fatal::FrameSize);
        }
        let is_first = self.stage == Stage::Settings;
        if is_first && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Fatal::Misplaced);
        }
        let continues = self.heading.map(|heading| (kind::CONTINUATION, heading.id));
        match continues {
            Some(wanted) if (header.kind, header.stream) != wanted => return Err(Fatal::Headless),
            None if header.kind == kind::CONTINUATION => return Err(Fatal::Headless),
            _ => {}
        }
        if header.kind == kind::DATA {
            return self.begin_data(&header, &input[FRAME_HEADER_LEN..], now);
        }
        let Some(payload) = input.get(FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.len) else {
            return Ok(None);
        };
        self.guard.saw(&header, payload, now)?;
        let event = self.take_frame(&header, payload, now)?;
        self.stage = Stage::Open;
        Ok(Some((FRAME_HEADER_LEN + header.len, event)))
    }

    fn take_frame(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        match header.kind {
            kind::HEADERS => self.take_head(header, payload, now),
            kind::CONTINUATION => self.take_continuation(header, payload, now),
            kind::PRIORITY => self.take_priority(header, payload, now),
            kind::RST_STREAM => self.take_reset(header, payload),
            kind::WINDOW_UPDATE => self.take_window(header, payload, now),
            kind::SETTINGS | kind::PING | kind::GOAWAY if header.stream != 0 => Err(Fatal::Misplaced),
            kind::SETTINGS => self.take_settings(header, payload).map(|()| None),
            kind::PING => self.take_ping(header, payload),
            kind::GOAWAY if payload.len() < 8 => Err(Fatal::FrameSize),
            kind::GOAWAY => {
                self.is_client_going = true;
                Ok(None)
            }
            // RFC 9113 §8.4: clients push nothing.
            kind::PUSH_PROMISE => Err(Fatal::Misplaced),
            // RFC 9113 §5.5: "Implementations MUST discard frames that have unknown or unsupported types."
            _ => Ok(None),
        }
    }

    /// Resets a stream for something the client did wrong.
    pub(super) fn blame(
        &mut self,
        id: StreamId,
        reason: Reason,
        now: Duration,
    ) -> Result<Option<Event<'static>>, Fatal> {
        self.guard.provoked(now)?;
        let was_open = self.streams.get(id).is_some();
        self.reset(id, reason);
        Ok(was_open.then_some(Event::Reset { id, reason }))
    }

    /// Forgets a stream; what nobody will read any more counts as read.
    pub(super) fn close(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.end(id)?;
        if stream.wait == Wait::Turn {
            self.turns.retain(|waits| *waits != id);
        }
        self.give_back(stream.unread);
        Some(stream)
    }

    /// Lets the client send as much again on all streams together.
    pub(super) fn give_back(&mut self, len: usize) {
        if let Some(increment) = self.granted.give_back(len) {
            frame::put_window_update(&mut self.output, 0, increment);
        }
    }

    /// Ends the connection for something wrong. RFC 9113 §5.4.1.
    fn give_up(&mut self, fatal: Fatal) {
        if fatal != Fatal::Preface {
            frame::put_go_away(&mut self.output, self.streams.last(), fatal.reason(), fatal.cause());
        }
        self.stage = Stage::Over;
        self.last_frame = None;
        self.streams.end_all();
        self.turns.clear();
        self.payload = None;
    }

    /// Whether a new stream is refused.
    pub(super) fn refuses(&self) -> bool {
        self.going == Going::Said || self.streams.open() >= self.terms.streams_max as usize
    }

    /// Whether the rest of a head is waited for.
    pub fn is_in_head(&self) -> bool {
        self.heading.is_some()
    }

    /// Streams that have not ended.
    pub fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Whether there is nothing more to do but to write what is left, and to close.
    pub fn is_over(&self) -> bool {
        let is_going = self.going == Going::Said || self.is_client_going;
        self.stage == Stage::Over || is_going && self.streams.open() == 0
    }
}
