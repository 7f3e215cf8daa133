//! How a client speaks of heads: as text in the same stream as the bodies, or apart from them. Bodies are bytes in any case.

use weir_core::h1::{Bad, FieldRoom, Framing, RequestHead, Version};

/// What the head of a response says beside its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    /// How the client shall know where the body ends.
    pub(crate) framing: Framing,
    /// The length it is told of; also that of a body that is not sent.
    pub(crate) length: Option<u64>,
    /// To which of them it is said.
    pub(crate) client: Version,
    /// Whether the client can go on with the connection.
    pub(crate) goes_on: bool,
    /// The protocol that is switched to.
    pub(crate) protocol: Option<&'a str>,
}

/// The heads of one client.
pub(crate) trait Dialect {
    /// What it is a dialect of, where no request has said more exactly.
    const VERSION: Version;

    /// The request whose head is in `came`, or came apart; `None` while it is not whole.
    fn request<'h, 'b>(
        &'b self,
        came: &'b [u8],
        room: &'h mut FieldRoom<'b>,
    ) -> Result<Option<RequestHead<'h, 'b>>, Bad>;

    /// Says the head of a response, in `out` where it goes the same way as the body: the bytes it takes.
    fn respond<'f>(
        &mut self,
        out: &mut Vec<u8>,
        said: &Said<'_>,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> usize;

    /// The same of the fields behind a body, which is then complete.
    fn trailers<'f>(&mut self, out: &mut Vec<u8>, fields: impl Iterator<Item = (&'f str, &'f [u8])>);
}
