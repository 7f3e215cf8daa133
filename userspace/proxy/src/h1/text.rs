//! Heads of HTTP/1.1: text in front of the body, and fields behind it where it goes in chunks.

use weir_core::h1::{self, Bad, FieldRoom, Framing, RequestHead, Version};

use crate::dialect::{Dialect, Said};

/// The dialect of HTTP/1.0 and 1.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text;

impl Dialect for Text {
    const VERSION: Version = Version::Http11;

    fn request<'h, 'b>(
        &'b self,
        came: &'b [u8],
        room: &'h mut FieldRoom<'b>,
    ) -> Result<Option<RequestHead<'h, 'b>>, Bad> {
        h1::parse_request(came, room)
    }

    fn respond<'f>(
        &mut self,
        out: &mut Vec<u8>,
        said: &Said<'_>,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> usize {
        let before = out.len();
        let framing = said.length.map_or(said.framing, Framing::Length);
        let connection: &[u8] = match (said.goes_on, said.client) {
            _ if said.status < 200 => b"",
            (true, Version::Http10) => b"connection: keep-alive\r\n",
            (true, _) => b"",
            (false, _) => b"connection: close\r\n",
        };
        let upgrade: [&[u8]; 3] = match said.protocol {
            Some(protocol) => [b"connection: upgrade\r\nupgrade: ", protocol.as_bytes(), b"\r\n"],
            None => [b""; 3],
        };
        let [begin, protocol, end] = upgrade;
        let more = [connection, begin, protocol, end];
        h1::write_response(out, (said.status, said.reason), fields, framing, &more);
        out.len() - before
    }

    fn trailers<'f>(&mut self, out: &mut Vec<u8>, fields: impl Iterator<Item = (&'f str, &'f [u8])>) {
        h1::write_last_chunk(out, fields);
    }
}
