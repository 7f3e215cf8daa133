//! The header of the PROXY protocol in front of a client's connection: read to its last byte and not a byte further.

use std::io;

use tokio::net::TcpStream;
use weir_core::proxy_protocol::{BadHeader, HEADER_LEN_MAX, Header, parse};

/// How a connection does not begin with a header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHeader {
    /// With something else.
    #[error("{0}")]
    Bad(#[from] BadHeader),
    /// It ended before.
    #[error("the connection ended within its PROXY protocol header: {0}")]
    Ended(#[from] io::Error),
    /// It ended without a byte, as whoever asks whether the port is open does.
    #[error("the connection ended before its PROXY protocol header")]
    Silent,
}

/// Reads it. As long as it is not whole, all that has come is of it: that much is taken, so that what is waited for is something
/// new; only the last piece is looked at before it is taken.
pub(crate) async fn read(stream: &TcpStream) -> Result<Header, NoHeader> {
    let mut came = Vec::new();
    let mut room = [0; 256];
    loop {
        let peeked = stream.peek(&mut room).await?;
        if peeked == 0 {
            let silent = came.is_empty();
            return Err(if silent {
                NoHeader::Silent
            } else {
                io::Error::from(io::ErrorKind::UnexpectedEof).into()
            });
        }
        let taken = came.len();
        came.extend_from_slice(&room[..peeked]);
        let header = parse(&came)?;
        let end = header.as_ref().map_or(came.len(), |header| header.len);
        take(stream, &mut room[..end - taken])?;
        match header {
            Some(header) => return Ok(header),
            // The parser has refused longer ones; this is so that it need not be trusted.
            None if came.len() > HEADER_LEN_MAX => return Err(BadHeader::TooLong.into()),
            None => {}
        }
    }
}

/// Takes bytes that were seen.
fn take(stream: &TcpStream, mut room: &mut [u8]) -> io::Result<()> {
    while !room.is_empty() {
        match stream.try_read(room)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => room = &mut room[len..],
        }
    }
    Ok(())
}
