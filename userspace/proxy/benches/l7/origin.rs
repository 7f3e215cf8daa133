//! The server behind the proxies: three answers, made beforehand.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bytes of an ordinary answer.
pub(crate) const BODY_LEN: usize = 512;
/// Bytes of the answer to [`BULK`].
pub(crate) const BULK_LEN: usize = 64 << 20;
/// Asks for the ordinary answer.
pub(crate) const ORDINARY: &str = "/";
/// Asks for it, and for the end of the connection.
pub(crate) const CLOSING: &str = "/closing";
/// Asks for much.
pub(crate) const BULK: &str = "/bulk";

/// The longest head of a request that is read; a longer one ends the connection.
const HEAD_LEN_MAX: usize = 8 << 10;
const CHUNK_LEN: usize = 256 << 10;

/// Serves on the runtime of the caller until that ends.
pub(crate) async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen as the origin")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        // A failed accept fails the request that waits for it, and with it the benchmark.
        while let Ok((stream, _)) = listener.accept().await {
            // A proxy may end a connection at any moment.
            tokio::spawn(async move { drop(serve(stream).await) });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let ordinary = answer(BODY_LEN, &vec![b'o'; BODY_LEN]);
    let mut head = vec![0; HEAD_LEN_MAX];
    let mut filled = 0;
    loop {
        let len = stream.read(&mut head[filled..]).await?;
        if len == 0 {
            return Ok(());
        }
        filled += len;
        // A GET has no body, and a proxy waits for the answer before it asks again.
        if !head[..filled].ends_with(b"\r\n\r\n") {
            continue;
        }
        let target = head[..filled].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if target == ORDINARY.as_bytes() {
            stream.write_all(&ordinary).await?;
        } else if target == CLOSING.as_bytes() {
            stream.write_all(&ordinary).await?;
            return Ok(());
        } else if target == BULK.as_bytes() {
            bulk(&mut stream).await?;
        } else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
        }
        filled = 0;
    }
}

fn answer(len: usize, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: {len}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn bulk(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&answer(BULK_LEN, &[])).await?;
    let chunk = vec![b'b'; CHUNK_LEN];
    for _ in 0..BULK_LEN / CHUNK_LEN {
        stream.write_all(&chunk).await?;
    }
    Ok(())
}
