//! The client's side of HTTP/1.1: one connection, one request at a time, bodies counted and thrown away.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::tls::HOST;

/// Holds an ordinary answer whole.
pub(crate) const BUFFER_LEN: usize = 2 << 10;
/// Fields of an answer; more are an error.
const FIELDS_MAX: usize = 32;

/// A GET as a small client sends it.
pub(crate) fn get_of(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").into_bytes()
}

pub(crate) struct Connection<S> {
    stream: S,
    buffer: Box<[u8]>,
}

impl Connection<TcpStream> {
    pub(crate) async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream, BUFFER_LEN))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn over(stream: S, buffer_len: usize) -> Self {
        Self { stream, buffer: vec![0; buffer_len].into() }
    }

    /// Asks, and reads an answer that must be a 200 with a body of this length.
    pub(crate) async fn ask(&mut self, request: &[u8], body_len: usize) -> Result<()> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let mut left = loop {
            let len = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(
                len > 0,
                "the connection ended, or the head is too long, after {filled} bytes of an answer"
            );
            filled += len;
            if let Some(head_len) = check_head(&self.buffer[..filled], body_len)? {
                let body = filled - head_len;
                break body_len.checked_sub(body).with_context(|| format!("{body} bytes of {body_len}"))?;
            }
        };
        while left > 0 {
            let len = self.stream.read(&mut self.buffer).await?;
            ensure!(len > 0, "the connection ended {left} bytes before the answer");
            left = left.checked_sub(len).context("more bytes than were promised")?;
        }
        Ok(())
    }

    /// Waits for the end of the connection.
    pub(crate) async fn until_ended(&mut self) -> Result<()> {
        let len = self.stream.read(&mut self.buffer).await?;
        ensure!(len == 0, "{len} bytes after the answer");
        Ok(())
    }

    /// Says that nothing more will come.
    pub(crate) async fn close(mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }
}

/// The length of a head, once it is complete.
fn check_head(bytes: &[u8], body_len: usize) -> Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_len) = response.parse(bytes)? else { return Ok(None) };
    if response.code != Some(200) {
        bail!("{}", String::from_utf8_lossy(bytes));
    }
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    ensure!(length == Some(body_len), "a body of {length:?} bytes, not {body_len}");
    Ok(Some(head_len))
}
