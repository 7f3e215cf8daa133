//! What a follower gets once both sides have left HTTP: each status as a line of JSON, and an empty line when there was nothing
//! to say for a while.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

/// What it is called in `Upgrade`.
pub(super) const PROTOCOL: &str = "weir-status";
/// After so much silence an empty line: also how long a daemon that hangs stays unnoticed.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// Bytes of a line.
pub(super) const LEN_MAX: usize = 64 << 20;
/// How long a follower may take to read a line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read at once, at least.
const CHUNK_LEN: usize = 8 << 10;

/// Writes what is published, the newest each time, until the follower or the publisher is gone.
pub(super) async fn write<S>(mut stream: S, mut published: watch::Receiver<Bytes>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    published.mark_changed();
    loop {
        // A follower has nothing to say: whatever it does is that it goes.
        let line = tokio::select! {
            biased;
            news = timeout(BEAT, published.changed()) => match news {
                Ok(Ok(())) => published.borrow_and_update().clone(),
                Ok(Err(_)) => return Ok(()),
                Err(_) => Bytes::from_static(b"\n"),
            },
            _ = stream.read_u8() => return Ok(()),
        };
        timeout(WRITE_TIMEOUT, stream.write_all(&line)).await??;
    }
}

/// Lines as they come.
pub(super) struct Lines<S> {
    stream: S,
    came: BytesMut,
}

impl<S: AsyncRead + Unpin> Lines<S> {
    /// Lines of which `came` was read already.
    pub(super) fn new(stream: S, came: Bytes) -> Self {
        Self { stream, came: came.into() }
    }

    /// The newest status that has come, once one has; or empty, when only empty lines have. Those before it are old news. Cancel
    /// safe.
    pub(super) async fn newest(&mut self) -> io::Result<Bytes> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.came[seen..].iter().rposition(|byte| *byte == b'\n') {
                let lines = self.came.split_to(seen + end + 1).freeze();
                let newest = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
                return Ok(newest.map_or_else(Bytes::new, |line| lines.slice_ref(line)));
            }
            seen = self.came.len();
            if seen > LEN_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
            }
            self.came.reserve(CHUNK_LEN.max(seen));
            if self.stream.read_buf(&mut self.came).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_line_counts_however_the_bytes_come() {
        let (mut here, there) = tokio::io::duplex(64);
        let mut lines = Lines::new(there, Bytes::from_static(b"1\n2"));
        assert_eq!(lines.newest().await.unwrap(), "1");
        here.write_all(b"3\n").await.unwrap();
        assert_eq!(lines.newest().await.unwrap(), "23");
        here.write_all(b"4\n5\n\n6").await.unwrap();
        assert_eq!(lines.newest().await.unwrap(), "5");
        here.write_all(b"\n").await.unwrap();
        assert_eq!(lines.newest().await.unwrap(), "6");
        here.write_all(b"\n").await.unwrap();
        assert_eq!(lines.newest().await.unwrap(), "");
        let long = format!("{}\n", "x".repeat(3 * CHUNK_LEN));
        let (line, written) = tokio::join!(lines.newest(), here.write_all(long.as_bytes()));
        written.unwrap();
        assert_eq!(line.unwrap().len(), long.len() - 1);
        drop(here);
        assert!(lines.newest().await.is_err(), "an end without a line");
    }
}
