//! NOTIFICATION: an error code, a subcode and data. RFC 4271 §4.5, §6; RFC 4486; RFC 6608; RFC 7313 §5; RFC 8538
//! §3; RFC 9003; RFC 9234 §4.2; RFC 9687.

use super::{Family, HEADER_LEN, MESSAGE_MAX, MessageType, frame};
use bytes::Bytes;
use std::fmt;

/// The longest text of a shutdown message. RFC 9003 §2; longer text is cut at a character border.
const SHUTDOWN_TEXT_MAX: usize = 255;

/// What ends a session, in the words of the wire. Both what we send and what we are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code; 6 is Cease.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Diagnostic data; its form depends on the code.
    pub data: Bytes,
}

/// Subcodes of the FSM error, RFC 6608 §3.
pub(crate) mod fsm_subcode {
    pub(crate) const OPEN_SENT: u8 = 1;
    pub(crate) const OPEN_CONFIRM: u8 = 2;
    pub(crate) const ESTABLISHED: u8 = 3;
}

impl Notification {
    /// Any code and subcode with data.
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    pub(crate) fn connection_not_synchronized() -> Self {
        Self::new(1, 1, Bytes::new())
    }

    pub(crate) fn bad_message_length(len_field: [u8; 2]) -> Self {
        Self::new(1, 2, len_field.to_vec())
    }

    pub(crate) fn bad_message_type(message_type: u8) -> Self {
        Self::new(1, 3, vec![message_type])
    }

    pub(crate) fn open_unspecific() -> Self {
        Self::new(2, 0, Bytes::new())
    }

    /// RFC 4271 §6.2: the data is the largest locally supported version, two octets.
    pub(crate) fn unsupported_version() -> Self {
        Self::new(2, 1, vec![0, 4])
    }

    pub(crate) fn bad_peer_as() -> Self {
        Self::new(2, 2, Bytes::new())
    }

    pub(crate) fn bad_bgp_identifier() -> Self {
        Self::new(2, 3, Bytes::new())
    }

    pub(crate) fn unsupported_optional_parameter() -> Self {
        Self::new(2, 4, Bytes::new())
    }

    pub(crate) fn unacceptable_hold_time() -> Self {
        Self::new(2, 6, Bytes::new())
    }

    /// RFC 9234 §4.2: the roles of the two sides do not fit each other.
    pub(crate) fn role_mismatch() -> Self {
        Self::new(2, 11, Bytes::new())
    }

    pub(crate) fn malformed_attribute_list() -> Self {
        Self::new(3, 1, Bytes::new())
    }

    /// RFC 4271 §6.3: "the Data field MUST contain the unrecognized attribute (type, length, and value)".
    pub(crate) fn unrecognized_well_known_attribute(attribute: &[u8]) -> Self {
        Self::new(3, 2, attribute.to_vec())
    }

    pub(crate) fn optional_attribute_error(attribute: &[u8]) -> Self {
        Self::new(3, 9, attribute.to_vec())
    }

    pub(crate) fn invalid_network_field() -> Self {
        Self::new(3, 10, Bytes::new())
    }

    pub(crate) fn hold_timer_expired() -> Self {
        Self::new(4, 0, Bytes::new())
    }

    /// An event the machine has no use for in this state; see [`fsm_subcode`].
    pub(crate) fn fsm_error(subcode: u8) -> Self {
        Self::new(5, subcode, Bytes::new())
    }

    /// RFC 9687 §3: the peer has not taken our bytes.
    pub(crate) fn send_hold_timer_expired() -> Self {
        Self::new(8, 0, Bytes::new())
    }

    /// RFC 7313 §5: the data is the whole message.
    pub(crate) fn bad_refresh_length(message: impl Into<Bytes>) -> Self {
        Self::new(7, 1, message)
    }

    /// Cease, Maximum Number of Prefixes Reached, with the family and the bound. RFC 4486 §4.
    pub(crate) fn maximum_prefixes(family: Family, max: u32) -> Self {
        let mut data = family.afi().to_be_bytes().to_vec();
        data.push(1);
        data.extend(max.to_be_bytes());
        Self::new(6, 1, data)
    }

    /// Cease, Hard Reset around another NOTIFICATION: the session ends without graceful restart. RFC 8538 §3.
    pub fn hard_reset(&self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Self::new(6, 9, data)
    }

    /// Cease, Administrative Shutdown, with a text for the other operator. RFC 9003 §2.
    pub fn administrative_shutdown(text: &str) -> Self {
        Self::with_text(2, text)
    }

    /// Cease, Administrative Reset, with a text: the session comes back. RFC 9003 §2.
    pub fn administrative_reset(text: &str) -> Self {
        Self::with_text(4, text)
    }

    fn with_text(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(SHUTDOWN_TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text.as_bytes()[..end];
        let mut data = Vec::with_capacity(1 + end);
        data.push(end as u8);
        data.extend_from_slice(text);
        Self::new(6, subcode, data)
    }

    pub(crate) fn connection_collision() -> Self {
        Self::new(6, 7, Bytes::new())
    }

    /// Cease, BFD Down. RFC 9384 §3.
    pub(crate) fn bfd_down() -> Self {
        Self::new(6, 10, Bytes::new())
    }

    /// What a Hard Reset is wrapped around. RFC 8538 §3.1.
    fn within(&self) -> Option<Self> {
        match (self.code, self.subcode, self.data.first_chunk::<2>()) {
            (6, 9, Some([code, subcode])) => Some(Self::new(*code, *subcode, self.data.slice(2..))),
            _ => None,
        }
    }

    /// The text of an administrative shutdown or reset, when there is one and it is UTF-8. RFC 9003 §2.
    pub fn shutdown_text(&self) -> Option<&str> {
        if self.code != 6 || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (len, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(*len))?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    /// The body of a NOTIFICATION; the reader has made sure of the two octets.
    pub fn decode(body: &Bytes) -> Self {
        match body.first_chunk::<2>() {
            Some([code, subcode]) => Self::new(*code, *subcode, body.slice(2..)),
            None => Self::new(0, 0, Bytes::new()),
        }
    }

    /// The whole message; data that does not fit is cut.
    pub fn encode(&self) -> Bytes {
        let room = MESSAGE_MAX - HEADER_LEN - 2;
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(&self.data[..self.data.len().min(room)]);
        frame(MessageType::Notification, &body)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.code, self.subcode) {
            (1, 1) => "message header error: connection not synchronized",
            (1, 2) => "message header error: bad message length",
            (1, 3) => "message header error: bad message type",
            (1, _) => "message header error",
            (2, 1) => "open error: unsupported version",
            (2, 2) => "open error: bad peer AS",
            (2, 3) => "open error: bad BGP identifier",
            (2, 4) => "open error: unsupported optional parameter",
            (2, 6) => "open error: unacceptable hold time",
            (2, 7) => "open error: unsupported capability",
            (2, 11) => "open error: role mismatch",
            (2, _) => "open error",
            (3, 1) => "update error: malformed attribute list",
            (3, 2) => "update error: unrecognized well-known attribute",
            (3, 3) => "update error: missing well-known attribute",
            (3, 4) => "update error: attribute flags error",
            (3, 5) => "update error: attribute length error",
            (3, 6) => "update error: invalid origin",
            (3, 8) => "update error: invalid next hop",
            (3, 9) => "update error: optional attribute error",
            (3, 10) => "update error: invalid network field",
            (3, 11) => "update error: malformed AS path",
            (3, _) => "update error",
            (4, _) => "hold timer expired",
            (5, 1) => "unexpected message in OpenSent",
            (5, 2) => "unexpected message in OpenConfirm",
            (5, 3) => "unexpected message in Established",
            (5, _) => "unexpected message",
            (6, 1) => "cease: maximum number of prefixes reached",
            (6, 2) => "cease: administrative shutdown",
            (6, 3) => "cease: peer deconfigured",
            (6, 4) => "cease: administrative reset",
            (6, 5) => "cease: connection rejected",
            (6, 6) => "cease: other configuration change",
            (6, 7) => "cease: connection collision",
            (6, 8) => "cease: out of resources",
            (6, 9) => "cease: hard reset",
            (6, 10) => "cease: bfd down",
            (6, _) => "cease",
            (7, 1) => "route refresh error: invalid message length",
            (7, _) => "route refresh error",
            (8, _) => "send hold timer expired",
            _ => "unknown error",
        };
        write!(f, "{name} ({}/{})", self.code, self.subcode)?;
        // One level: what a hard reset wraps is no hard reset, or shown as its numbers.
        if let Some(within) = self.within() {
            return match (within.code, within.subcode) {
                (6, 9) => write!(f, " of another"),
                _ => write!(f, " of {within}"),
            };
        }
        match self.shutdown_text() {
            // What the peer wrote may hold control characters; the text goes to logs and terminals.
            Some(text) => write!(f, ": {}", text.escape_debug()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrative_shutdown_has_these_bytes() {
        let message = Notification::administrative_shutdown("bye").encode();
        let mut golden = vec![0xff; 16];
        golden.extend([0, 25, 3, /* cease */ 6, 2, /* text */ 3]);
        golden.extend(b"bye");
        assert_eq!(message, golden);
    }

    #[test]
    fn a_hard_reset_wraps_what_it_is_about() {
        let notification = Notification::administrative_shutdown("bye").hard_reset();
        assert_eq!(notification.data[..], [6, 2, 3, b'b', b'y', b'e']);
        assert_eq!(
            notification.to_string(),
            "cease: hard reset (6/9) of cease: administrative shutdown (6/2): bye"
        );
        // A peer that wraps without end is shown to the first level.
        let endless = Notification::new(6, 9, vec![6, 9, 6, 9, 6, 9]);
        assert_eq!(endless.to_string(), "cease: hard reset (6/9) of another");
        assert_eq!(Notification::new(6, 9, vec![6]).to_string(), "cease: hard reset (6/9)");
    }

    #[test]
    fn the_prefix_limit_names_family_and_bound() {
        assert_eq!(Notification::maximum_prefixes(Family::Ipv6, 1000).data[..], [0, 2, 1, 0, 0, 3, 0xe8]);
    }

    #[test]
    fn a_long_shutdown_text_is_cut_at_a_character_border() {
        let text = "ä".repeat(200);
        let notification = Notification::administrative_shutdown(&text);
        assert_eq!(notification.data[0], 254);
        assert_eq!(notification.shutdown_text().map(str::len), Some(254));
    }

    #[test]
    fn a_lying_text_length_is_no_text() {
        assert_eq!(Notification::new(6, 2, vec![9, b'x']).shutdown_text(), None);
        assert_eq!(Notification::new(6, 2, vec![1, 0xff]).shutdown_text(), None);
    }

    #[test]
    fn the_peers_text_is_shown_without_control_characters() {
        let shown = Notification::administrative_shutdown("\u{1b}[31mred").to_string();
        assert_eq!(shown, "cease: administrative shutdown (6/2): \\u{1b}[31mred");
    }
}
