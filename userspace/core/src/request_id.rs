//! What a request is called on its way: `x-request-id`, and the `traceparent` of W3C Trace Context (level 1).
//!
//! Pure: time and random numbers are arguments. Texts of clients are believed only where they can be nothing else than what they
//! should be; whoever logs or stores them need not look again.

use weir_model::{RequestId, Trace};

/// The field a request's name is in.
pub const REQUEST_ID: &str = "x-request-id";
/// Where the trace it belongs to is told. W3C Trace Context §3.2.
pub const TRACEPARENT: &str = "traceparent";
/// What vendors add; means nothing without the other. W3C Trace Context §3.3.
pub const TRACESTATE: &str = "tracestate";

/// Bytes of a name of ours: a UUID.
pub const ID_LEN: usize = 36;
/// Bytes of a client's name for a request.
pub const CLIENT_ID_LEN_MAX: usize = 128;
/// Bytes of a traceparent of version 00.
pub const TRACEPARENT_LEN: usize = 55;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a request is told to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Empty where it has no name.
    pub id: Vec<u8>,
    /// In place of the client's and its tracestate.
    pub traceparent: Option<[u8; TRACEPARENT_LEN]>,
}

impl Names {
    /// By the fields it came with. `random`: a new number each time.
    pub fn of<'f>(
        (id, trace): (RequestId, Trace),
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        unix_ms: impl FnOnce() -> u64,
        mut random: impl FnMut() -> u64,
    ) -> Self {
        if id == RequestId::Off && trace == Trace::Pass {
            return Self::default();
        }
        let (mut ids, mut traces) = (Once::default(), Once::default());
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(REQUEST_ID) {
                ids.add(value);
            } else if name.eq_ignore_ascii_case(TRACEPARENT) {
                traces.add(value);
            }
        }
        let kept = ids.one().filter(|value| id == RequestId::Keep && is_id(value));
        let made = match (id, kept) {
            (RequestId::Off, _) => Vec::new(),
            (_, Some(kept)) => kept.to_vec(),
            (_, None) => make_id(unix_ms(), [random(), random()]).to_vec(),
        };
        let begins = match trace {
            Trace::Pass => false,
            Trace::Repair => traces.count > 0 && !traces.one().is_some_and(is_traceparent),
            Trace::Make => !traces.one().is_some_and(is_traceparent),
        };
        let traceparent = begins.then(|| make_traceparent([random(), random()], random()));
        Self { id: made, traceparent }
    }

    /// Fields for the server in place of the client's of these names; an empty value is no field, an empty name nothing.
    pub fn fields(&self) -> [(&'static str, &[u8]); 3] {
        let mut fields: [(&str, &[u8]); 3] = [("", b""); 3];
        if !self.id.is_empty() {
            fields[0] = (REQUEST_ID, &self.id);
        }
        if let Some(traceparent) = &self.traceparent {
            fields[1] = (TRACEPARENT, traceparent);
            fields[2] = (TRACESTATE, b"");
        }
        fields
    }
}

/// A field that must not come twice.
#[derive(Default)]
struct Once<'f> {
    value: &'f [u8],
    count: usize,
}

impl<'f> Once<'f> {
    fn add(&mut self, value: &'f [u8]) {
        self.value = value;
        self.count += 1;
    }

    fn one(&self) -> Option<&'f [u8]> {
        (self.count == 1).then_some(self.value)
    }
}

/// Whether a client's name for a request can be taken over: letters, digits and what identifiers are made of, 1 to 128 of them.
pub fn is_id(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=CLIENT_ID_LEN_MAX).contains(&text.len()) && text.iter().all(is_plain)
}

/// A UUID of version 7: they sort by time. RFC 9562 §5.7.
pub fn make_id(unix_ms: u64, random: [u64; 2]) -> [u8; ID_LEN] {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&random[0].to_be_bytes()[..2]);
    bytes[8..].copy_from_slice(&random[1].to_be_bytes());
    bytes[6] = 0x70 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    let mut text = [b'-'; ID_LEN];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        write_hex(&mut text[at..at + 2], &[byte]);
        at += 2;
    }
    text
}

/// Whether this is a traceparent: of version 00, or of a later one that begins alike. W3C Trace Context §3.2.2, §4.3.
pub fn is_traceparent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    if text.len() < TRACEPARENT_LEN || [2, 35, 52].into_iter().any(|dash| text[dash] != b'-') {
        return false;
    }
    let (version, trace, parent, flags) = (&text[..2], &text[3..35], &text[36..52], &text[53..55]);
    let ends_well = match version {
        b"00" => text.len() == TRACEPARENT_LEN,
        // "Version 255 is invalid."
        b"ff" => false,
        _ => text.len() == TRACEPARENT_LEN || text[TRACEPARENT_LEN] == b'-',
    };
    // "All bytes as zero is considered an invalid value", of both.
    ends_well
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && !is_zero(trace)
        && !is_zero(parent)
}

/// The beginning of a trace; nobody is asked to record it.
pub fn make_traceparent(trace: [u64; 2], parent: u64) -> [u8; TRACEPARENT_LEN] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[3..19], &trace[0].to_be_bytes());
    // Never nothing but zeros.
    write_hex(&mut text[19..35], &(trace[1] | 1).to_be_bytes());
    write_hex(&mut text[36..52], &(parent | 1).to_be_bytes());
    text
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_7_and_sort_by_time() {
        let made = |ms| String::from_utf8(make_id(ms, [u64::MAX, 0x0123_4567_89ab_cdef]).to_vec()).unwrap();
        assert_eq!(made(0x0190_1234_5678), "01901234-5678-7fff-8123-456789abcdef");
        assert!(made(1) < made(2));
        assert!(is_id(made(1).as_bytes()));
        for (id, wanted) in [
            ("a", true),
            ("Root=1-67891233-abcdef012345678912345678", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a\r\nx: y", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_id(id.as_bytes()), wanted, "{id:?}");
        }
        assert!(is_id(&[b'x'; 128]) && !is_id(&[b'x'; 129]));
    }

    #[test]
    fn a_request_is_called_what_its_listener_says() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        type Fields = [(&'static str, &'static str)];
        let of = |policy, fields: &Fields| {
            let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
            let names = Names::of(policy, fields, || 1, || 5);
            (String::from_utf8(names.id.clone()).unwrap(), names.traceparent.is_some())
        };
        let made = "00000000-0001-7000-8000-000000000005".to_owned();
        let theirs = "theirs".to_owned();
        use {RequestId::*, Trace::*};
        for (policy, fields, wanted) in [
            ((Off, Pass), &[("X-Request-Id", "theirs"), ("traceparent", "x")][..], (String::new(), false)),
            ((Keep, Pass), &[("X-Request-Id", "theirs")], (theirs.clone(), false)),
            ((Keep, Pass), &[("X-Request-Id", "the irs")], (made.clone(), false)),
            ((Keep, Pass), &[("x-request-id", "a"), ("x-request-id", "b")], (made.clone(), false)),
            ((Keep, Pass), &[], (made.clone(), false)),
            ((RequestId::Make, Pass), &[("x-request-id", "theirs")], (made.clone(), false)),
            ((Off, Repair), &[], (String::new(), false)),
            ((Off, Repair), &[("Traceparent", good)], (String::new(), false)),
            ((Off, Repair), &[("traceparent", "00-x")], (String::new(), true)),
            ((Off, Repair), &[("traceparent", good), ("traceparent", good)], (String::new(), true)),
            ((Off, Trace::Make), &[], (String::new(), true)),
            ((Off, Trace::Make), &[("traceparent", good)], (String::new(), false)),
        ] {
            assert_eq!(of(policy, fields), wanted, "{policy:?} {fields:?}");
        }
    }

    #[test]
    fn a_traceparent_is_known_from_what_only_looks_like_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let with = |at: usize, text: &str| format!("{}{text}{}", &good[..at], &good[at + text.len()..]);
        for (text, wanted) in [
            (good.to_owned(), true),
            (with(0, "cc"), true),
            (with(0, "cc") + "-what-comes-later", true),
            (with(0, "cc") + ".what-comes-later", false),
            (with(0, "ff"), false),
            (with(0, "0g"), false),
            (good.to_owned() + "-more", false),
            (good[..54].to_owned(), false),
            (good.to_uppercase(), false),
            (with(2, "."), false),
            (with(35, "."), false),
            (with(52, "."), false),
            (with(3, &"0".repeat(32)), false),
            (with(36, &"0".repeat(16)), false),
            (with(53, "0x"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_traceparent(text.as_bytes()), wanted, "{text}");
        }
        assert!(is_traceparent(&make_traceparent([0, 0], 0)));
        assert!(is_traceparent(&make_traceparent([u64::MAX, 7], 9)));
    }
}
