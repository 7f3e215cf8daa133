//! What a TLS client asks for before anything is encrypted: the server name. Pure; for those who pass TLS on without ending it.
//!
//! ```text
//!  record (type 22, version, length) × n  ─ joined ─►  handshake message (type 1, length)
//!      ─►  version, random, session id, cipher suites, compression  ─►  extensions  ─►  server_name (0)
//! ```
//!
//! RFC 8446 §4.1.2, §5.1 (and RFC 5246 §7.4.1.2, which it looks like); RFC 6066 §3 for the name.

use std::borrow::Cow;

/// Bytes of a hello with its records: a handshake message of 16 KiB, more than twice the largest seen in the wild.
pub const HELLO_LEN_MAX: usize = 16 << 10;

/// The most records a hello may come in: each costs five bytes, and none may be empty.
const RECORDS_MAX: usize = 64;

/// A client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The host the client wants, in lower case and without a dot at the end; absent when it names none.
    pub server_name: Option<String>,
}

/// Why it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// The first bytes are of something else.
    #[error("this is not TLS")]
    NotTls,
    /// A length does not fit.
    #[error("a ClientHello cut in itself")]
    Malformed,
    /// Longer than [`HELLO_LEN_MAX`], or in more records than anybody needs.
    #[error("a ClientHello too long")]
    TooLong,
    /// A name that is no host name.
    #[error("a server name that is none")]
    Name,
}

/// Reads what has come of a connection: `None` while the hello is not whole.
pub fn parse(came: &[u8]) -> Result<Option<ClientHello>, BadHello> {
    let Some(message) = message(came)? else { return Ok(None) };
    let mut hello = Reader(&message);
    // legacy_version and random.
    hello.take(2 + 32)?;
    let session_id = hello.sized::<1>()?;
    let suites = hello.sized::<2>()?;
    let compression = hello.sized::<1>()?;
    if session_id.0.len() > 32 || suites.0.is_empty() || suites.0.len() % 2 != 0 || compression.0.is_empty() {
        return Err(BadHello::Malformed);
    }
    // RFC 5246 §7.4.1.2: before there were extensions the message ended here.
    if hello.0.is_empty() {
        return Ok(Some(ClientHello { server_name: None }));
    }
    let mut extensions = hello.sized::<2>()?;
    if !hello.0.is_empty() {
        return Err(BadHello::Malformed);
    }
    let mut server_name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let content = extensions.sized::<2>()?;
        if kind == 0 {
            // RFC 8446 §4.2: no extension twice.
            if server_name.replace(name(content)?).is_some() {
                return Err(BadHello::Malformed);
            }
        }
    }
    Ok(Some(ClientHello { server_name }))
}

/// The body of the handshake message, out of its records; borrowed where there is only one.
fn message(came: &[u8]) -> Result<Option<Cow<'_, [u8]>>, BadHello> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = Reader(came);
    for _ in 0..RECORDS_MAX {
        // Whoever speaks something else is known by the first byte that does not fit, and not waited for.
        for (byte, fits) in rest.0.iter().zip([|b: u8| b == 22, |b: u8| b == 3, |b: u8| b <= 4]) {
            if !fits(*byte) {
                return Err(BadHello::NotTls);
            }
        }
        let Ok(record) = rest.take(3).and_then(|_| rest.number::<2>()) else { return Ok(None) };
        // RFC 8446 §5.1: no empty fragments of handshake messages, and none of more than 2^14 bytes.
        if record == 0 {
            return Err(BadHello::Malformed);
        }
        if record > HELLO_LEN_MAX {
            return Err(BadHello::TooLong);
        }
        let whole = rest.0.len() >= record;
        let fragment = &rest.0[..record.min(rest.0.len())];
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment)
        } else {
            joined.to_mut().extend_from_slice(fragment)
        }
        let mut head = Reader(&joined);
        if let Ok(kind) = head.number::<1>()
            && kind != 1
        {
            return Err(BadHello::NotTls);
        }
        if let Ok(len) = head.number::<3>() {
            if len + 4 > HELLO_LEN_MAX {
                return Err(BadHello::TooLong);
            }
            if head.0.len() >= len {
                return Ok(Some(match joined {
                    Cow::Borrowed(joined) => Cow::Borrowed(&joined[4..4 + len]),
                    Cow::Owned(joined) => Cow::Owned(joined[4..4 + len].to_vec()),
                }));
            }
        }
        if !whole {
            return Ok(None);
        }
        rest.take(record)?;
    }
    Err(BadHello::TooLong)
}

/// RFC 6066 §3: a list of names, of which the only kind there is (0) may stand once.
fn name(mut content: Reader<'_>) -> Result<String, BadHello> {
    let mut list = content.sized::<2>()?;
    let kind = list.number::<1>()?;
    let name = list.sized::<2>()?;
    if kind != 0 || !list.0.is_empty() || !content.0.is_empty() {
        return Err(BadHello::Malformed);
    }
    let is_host = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name = name.0.strip_suffix(b".").unwrap_or(name.0);
    if name.is_empty() || name.len() > 253 || !name.iter().all(is_host) {
        return Err(BadHello::Name);
    }
    String::from_utf8(name.to_ascii_lowercase()).map_err(|_| BadHello::Name)
}

/// Bytes yet to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of so many bytes, in network order.
    fn number<const LEN: usize>(&mut self) -> Result<usize, BadHello> {
        Ok(self.take(LEN)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows its own length, a number of so many bytes.
    fn sized<const LEN: usize>(&mut self) -> Result<Self, BadHello> {
        let len = self.number::<LEN>()?;
        Ok(Self(self.take(len)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sized(len_of_len: usize, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u32).to_be_bytes();
        [&len[4 - len_of_len..], content].concat()
    }

    /// A hello with these extensions, as one handshake message.
    fn hello(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(sized(1, &[9; 32]));
        body.extend(sized(2, &[0x13, 0x01]));
        body.extend(sized(1, &[0]));
        body.extend(extensions.map(|extensions| sized(2, extensions)).unwrap_or_default());
        [vec![1], sized(3, &body)].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), sized(2, content)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &sized(2, &[vec![0], sized(2, name)].concat()))
    }

    /// The message in records of at most so many bytes.
    fn records(message: &[u8], len: usize) -> Vec<u8> {
        message.chunks(len).flat_map(|part| [vec![22, 3, 1], sized(2, part)].concat()).collect()
    }

    fn named(name: &str) -> Result<Option<ClientHello>, BadHello> {
        Ok(Some(ClientHello { server_name: Some(name.into()) }))
    }

    #[test]
    fn the_name_is_read_however_the_hello_comes() {
        let message = hello(Some(&[extension(16, b"\0\x03\x02h2"), sni(b"Www.Example.org.")].concat()));
        for len in [1000, 100, 7] {
            let bytes = records(&message, len);
            assert_eq!(parse(&bytes), named("www.example.org"), "in records of {len}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{end} bytes, in records of {len}");
            }
            // What follows is the server's.
            assert_eq!(parse(&[&bytes[..], b"\x14\x03\x03\0\x01\x01"].concat()), named("www.example.org"));
        }
        assert_eq!(parse(&records(&hello(None), 1000)), Ok(Some(ClientHello { server_name: None })));
        assert_eq!(parse(&records(&hello(Some(b"")), 1000)), Ok(Some(ClientHello { server_name: None })));
    }

    #[test]
    fn what_is_no_hello_is_refused_at_once() {
        let twice = [sni(b"a.example"), sni(b"b.example")].concat();
        let two_names = extension(0, &sized(2, &[[0, 0, 1, b'a'], [0, 0, 1, b'b']].concat()));
        let cases: &[(&str, Vec<u8>, BadHello)] = &[
            ("http", b"GET / HTTP/1.1\r\n".to_vec(), BadHello::NotTls),
            ("one byte", b"S".to_vec(), BadHello::NotTls),
            ("an alert", vec![21, 3, 1, 0, 2, 2, 40], BadHello::NotTls),
            ("another version", vec![22, 9], BadHello::NotTls),
            ("a ServerHello", records(&[2, 0, 0, 1, 0], 100), BadHello::NotTls),
            ("an empty record", vec![22, 3, 1, 0, 0], BadHello::Malformed),
            ("a record too long", vec![22, 3, 1, 0x40, 1], BadHello::TooLong),
            ("a message too long", vec![22, 3, 1, 0, 4, 1, 0, 0x40, 0], BadHello::TooLong),
            ("too many records", records(&hello(Some(&sni(&[b'a'; 200]))), 1), BadHello::TooLong),
            ("no room for anything", records(&[1, 0, 0, 0], 100), BadHello::Malformed),
            ("the name twice", records(&hello(Some(&twice)), 1000), BadHello::Malformed),
            ("two names", records(&hello(Some(&two_names)), 1000), BadHello::Malformed),
            ("an empty name", records(&hello(Some(&sni(b""))), 1000), BadHello::Name),
            ("a name with a space", records(&hello(Some(&sni(b"a b"))), 1000), BadHello::Name),
            ("a name with a NUL", records(&hello(Some(&sni(b"a\0.example"))), 1000), BadHello::Name),
            ("a name too long", records(&hello(Some(&sni(&[b'a'; 254]))), 1000), BadHello::Name),
            ("an extension cut", records(&hello(Some(b"\0\x01\0\x05a")), 1000), BadHello::Malformed),
        ];
        for (what, bytes, bad) in cases {
            assert_eq!(parse(bytes), Err(*bad), "{what}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..200, byte: u8) {
            let _either_way = parse(&bytes);
            let mut hello = records(&hello(Some(&sni(b"www.example.org"))), 60);
            let index = at % hello.len();
            hello[index] = byte;
            let _either_way = parse(&hello);
        }

        #[test]
        fn more_bytes_never_unsay_a_name(cut in 1usize..80, more in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = records(&hello(Some(&sni(b"www.example.org"))), cut.max(4));
            prop_assert_eq!(parse(&[bytes, more].concat()), named("www.example.org"));
        }
    }
}
