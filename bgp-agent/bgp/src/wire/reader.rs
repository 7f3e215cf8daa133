//! A byte stream in, whole messages out. Checks the header and nothing behind it.
//!
//! RFC 4271 §4.1, §6.1; RFC 2918 §3; RFC 8654 §4.

use super::{EXTENDED_MESSAGE_MAX, HEADER_LEN, MESSAGE_MAX, MessageType, Notification};
use bytes::{Buf, Bytes, BytesMut};

/// One message whose header was checked; the body has at least the length its type needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message this is.
    pub message_type: MessageType,
    /// Everything behind the header.
    pub body: Bytes,
}

/// Collects bytes until a message is whole.
///
/// After draining, fewer than [`MESSAGE_MAX`] bytes stay behind ([`EXTENDED_MESSAGE_MAX`] where extended messages were
/// agreed), so the buffer is bounded by that plus the largest chunk the caller pushes. After an error the stream is lost:
/// every later call returns the same error.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    buffer: BytesMut,
    extended: bool,
}

impl Reader {
    /// Both sides have offered extended messages. RFC 8654 §3.
    pub fn allow_extended(&mut self) {
        self.extended = true;
    }

    /// Append received bytes. Drain with [`Reader::next_frame`] before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Notification> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (len, message_type) = check_header(header, self.extended)?;
        if self.buffer.len() < len {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(len);
        message.advance(HEADER_LEN);
        Ok(Some(Frame { message_type, body: message.freeze() }))
    }

    /// Bytes waiting for the rest of their message.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }
}

fn check_header(header: &[u8; HEADER_LEN], extended: bool) -> Result<(usize, MessageType), Notification> {
    // RFC 4271 §6.1: "If the Marker field of the message header is not as expected, then a synchronization error
    // has occurred and the Error Subcode MUST be set to Connection Not Synchronized."
    if header[..16] != [0xff; 16] {
        return Err(Notification::connection_not_synchronized());
    }
    let len_field = [header[16], header[17]];
    let len = usize::from(u16::from_be_bytes(len_field));
    // RFC 4271 §6.1: "The Data field MUST contain the erroneous Length field."
    let bad_length = || Notification::bad_message_length(len_field);
    let max = if extended { EXTENDED_MESSAGE_MAX } else { MESSAGE_MAX };
    if !(HEADER_LEN..=max).contains(&len) {
        return Err(bad_length());
    }
    let (message_type, allowed) = match header[18] {
        1 => (MessageType::Open, 29..=MESSAGE_MAX),
        2 => (MessageType::Update, 23..=max),
        3 => (MessageType::Notification, 21..=max),
        4 => (MessageType::Keepalive, HEADER_LEN..=HEADER_LEN),
        5 => (MessageType::RouteRefresh, 23..=max),
        other => return Err(Notification::bad_message_type(other)),
    };
    if !allowed.contains(&len) {
        return Err(bad_length());
    }
    Ok((len, message_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(marker: u8, len: u16, message_type: u8) -> Vec<u8> {
        let mut bytes = vec![marker; 16];
        bytes.extend(len.to_be_bytes());
        bytes.push(message_type);
        bytes
    }

    fn first(bytes: &[u8]) -> Result<Option<Frame>, Notification> {
        let mut reader = Reader::default();
        reader.push(bytes);
        reader.next_frame()
    }

    #[test]
    fn header_errors_carry_code_subcode_and_data() {
        type Case = (&'static str, Vec<u8>, (u8, u8, Vec<u8>));
        let table: &[Case] = &[
            ("marker", header(0xfe, 19, 4), (1, 1, vec![])),
            ("shorter than a header", header(0xff, 18, 4), (1, 2, vec![0, 18])),
            ("longer than 4096", header(0xff, 4097, 2), (1, 2, vec![0x10, 0x01])),
            ("keepalive with a body", header(0xff, 20, 4), (1, 2, vec![0, 20])),
            ("open below 29", header(0xff, 28, 1), (1, 2, vec![0, 28])),
            ("update below 23", header(0xff, 22, 2), (1, 2, vec![0, 22])),
            ("notification below 21", header(0xff, 20, 3), (1, 2, vec![0, 20])),
            ("route refresh below 23", header(0xff, 22, 5), (1, 2, vec![0, 22])),
            ("type 0", header(0xff, 19, 0), (1, 3, vec![0])),
            ("type 6", header(0xff, 19, 6), (1, 3, vec![6])),
        ];
        for (name, bytes, (code, subcode, data)) in table {
            let error = first(bytes).expect_err(name);
            assert_eq!(
                (error.code, error.subcode, error.data.to_vec()),
                (*code, *subcode, data.clone()),
                "{name}"
            );
        }
    }

    #[test]
    fn messages_come_out_whole_whatever_the_chunks() {
        let mut stream = Vec::new();
        stream.extend(header(0xff, 19, 4));
        stream.extend(header(0xff, 23, 2));
        stream.extend([0; 4]);
        stream.extend(header(0xff, 19, 4));
        for chunk_len in 1..=stream.len() {
            let mut reader = Reader::default();
            let mut types = Vec::new();
            for chunk in stream.chunks(chunk_len) {
                reader.push(chunk);
                while let Some(frame) = reader.next_frame().unwrap() {
                    types.push((frame.message_type, frame.body.len()));
                }
                assert!(reader.buffered_len() < MESSAGE_MAX);
            }
            assert_eq!(
                types,
                [(MessageType::Keepalive, 0), (MessageType::Update, 4), (MessageType::Keepalive, 0)],
                "chunks of {chunk_len}"
            );
        }
    }

    #[test]
    fn extended_messages_are_long_only_where_agreed_and_never_an_open() {
        let mut reader = Reader::default();
        reader.allow_extended();
        reader.push(&header(0xff, 65_535, 2));
        assert_eq!(reader.next_frame(), Ok(None));
        for message_type in [1, 4] {
            let mut reader = Reader::default();
            reader.allow_extended();
            reader.push(&header(0xff, 4097, message_type));
            assert_eq!(reader.next_frame().map_err(|n| (n.code, n.subcode)), Err((1, 2)));
        }
    }

    #[test]
    fn a_bad_header_is_reported_before_the_body_arrives() {
        assert!(first(&header(0xff, 4097, 2)).is_err());
        assert_eq!(first(&header(0xff, 4096, 2)), Ok(None));
    }
}
