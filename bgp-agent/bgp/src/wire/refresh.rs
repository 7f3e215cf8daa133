//! ROUTE-REFRESH: send it again, and the marks around what is sent again. RFC 2918, RFC 7313.

use super::{Family, HEADER_LEN, MessageType, Notification, frame};
use bytes::Bytes;

/// What a ROUTE-REFRESH of the peer asks or says. RFC 7313 §3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Subtype 0: send the family again.
    Request(Family),
    /// Subtype 1: what follows is the family again, from the beginning.
    Begin(Family),
    /// Subtype 2: that was all of it.
    End(Family),
    /// A family or subtype we do not have: ignored. RFC 2918 §4, RFC 7313 §5.
    Ignored,
}

impl Refresh {
    /// The body of a ROUTE-REFRESH; the reader has made sure of four octets.
    pub(crate) fn decode(body: &Bytes) -> Result<Self, Notification> {
        let [afi_high, afi_low, subtype, safi] = match body.first_chunk() {
            Some(fixed) => *fixed,
            None => return Ok(Self::Ignored),
        };
        // RFC 7313 §5: "If the length, excluding the fixed-size message header, of the received ROUTE-REFRESH message with
        // Message Subtype 1 and 2 is not 4, then the BGP speaker MUST send a NOTIFICATION message".
        if matches!(subtype, 1 | 2) && body.len() != 4 {
            return Err(Notification::bad_refresh_length(frame(MessageType::RouteRefresh, body)));
        }
        let family = Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi);
        Ok(match (family, subtype) {
            (Some(family), 0) => Self::Request(family),
            (Some(family), 1) => Self::Begin(family),
            (Some(family), 2) => Self::End(family),
            _ => Self::Ignored,
        })
    }
}

/// A whole ROUTE-REFRESH; [`Refresh::Ignored`] has no form on the wire and asks for nothing.
pub fn encode_refresh(refresh: Refresh) -> Option<Bytes> {
    let (family, subtype) = match refresh {
        Refresh::Request(family) => (family, 0),
        Refresh::Begin(family) => (family, 1),
        Refresh::End(family) => (family, 2),
        Refresh::Ignored => return None,
    };
    let [high, low] = family.afi().to_be_bytes();
    let message = frame(MessageType::RouteRefresh, &[high, low, subtype, 1]);
    debug_assert_eq!(message.len(), HEADER_LEN + 4);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subtype_survives_the_wire() {
        for family in Family::ALL {
            for refresh in [Refresh::Request(family), Refresh::Begin(family), Refresh::End(family)] {
                let message = encode_refresh(refresh).expect("a message");
                assert_eq!(Refresh::decode(&message.slice(HEADER_LEN..)), Ok(refresh));
            }
        }
    }

    #[test]
    fn strange_subtypes_and_families_are_ignored_and_a_wrong_length_of_a_mark_is_an_error() {
        let decode = |body: &'static [u8]| Refresh::decode(&Bytes::from_static(body));
        assert_eq!(decode(&[0, 1, 3, 1]), Ok(Refresh::Ignored));
        assert_eq!(decode(&[0, 1, 255, 1]), Ok(Refresh::Ignored));
        assert_eq!(decode(&[0, 25, 0, 70]), Ok(Refresh::Ignored));
        // RFC 5291 puts filters behind subtype 0; the request stands.
        assert_eq!(decode(&[0, 1, 0, 1, 1, 64, 0, 0]), Ok(Refresh::Request(Family::Ipv4)));
        for subtype in [1, 2] {
            let body = Bytes::from(vec![0, 1, subtype, 1, 9]);
            let error = Refresh::decode(&body).expect_err("five octets");
            assert_eq!((error.code, error.subcode), (7, 1));
            assert_eq!(error.data, frame(MessageType::RouteRefresh, &body), "the data is the message");
        }
    }
}
