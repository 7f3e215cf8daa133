//! One health probe: a TCP connection or an HTTP/1.1 GET, within a timeout. Rise and fall are `weir-core`'s.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weir_core::health::Outcome;
use weir_model::{Check, CheckKind, Name};

/// Bytes read of an answer; the status line and, of a 503, the beginning of the body lie within.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeTarget {
    /// Where.
    pub address: SocketAddr,
    /// What is tried.
    pub kind: ProbeKind,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP/1.1 GET.
    Http {
        /// Request target.
        path: String,
        /// Host field.
        host: String,
        /// Status codes that count as up, first and last.
        expect: (u16, u16),
    },
}

impl ProbeTarget {
    /// What the check of a pool tries at a server.
    pub fn check(check: &Check, server: SocketAddr) -> Self {
        let mut address = server;
        if let Some(port) = check.port {
            address.set_port(port);
        }
        let kind = match check.kind {
            CheckKind::Tcp => ProbeKind::Tcp,
            CheckKind::Http => ProbeKind::Http {
                path: check.path.clone(),
                host: check.host.clone().unwrap_or_else(|| address.to_string()),
                expect: check.expect,
            },
        };
        Self { address, kind }
    }

    /// The `/healthz` of a proxy: does it serve every VIP of these groups?
    pub fn readiness(address: SocketAddr, groups: &[&Name]) -> Self {
        let query: Vec<String> = groups.iter().map(|group| format!("group={group}")).collect();
        let path = format!("/healthz?{}", query.join("&"));
        Self { address, kind: ProbeKind::Http { path, host: address.to_string(), expect: (200, 299) } }
    }
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It answered as expected.
    Up,
    /// It answered 503 and that it is draining.
    Draining,
    /// It did not, and why.
    Down(String),
}

impl From<ProbeResult> for Outcome {
    fn from(result: ProbeResult) -> Self {
        match result {
            ProbeResult::Up => Self::Pass,
            ProbeResult::Draining => Self::Drain,
            ProbeResult::Down(reason) => Self::Fail(reason),
        }
    }
}

/// Probes once; takes at most `limit`.
pub async fn run(target: &ProbeTarget, limit: Duration) -> ProbeResult {
    match timeout(limit, attempt(target)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => ProbeResult::Down(error.to_string()),
        Err(_) => ProbeResult::Down(format!("no answer within {limit:?}")),
    }
}

async fn attempt(target: &ProbeTarget) -> std::io::Result<ProbeResult> {
    let stream = TcpStream::connect(target.address).await?;
    match &target.kind {
        ProbeKind::Tcp => Ok(ProbeResult::Up),
        ProbeKind::Http { path, host, expect } => ask(stream, &format!("GET {path}"), host, *expect).await,
    }
}

/// Sends one HTTP/1.1 request, a method and a target, and reads as much of the answer as says what it is. Takes as long as the other
/// side does.
///
/// # Errors
///
/// When the connection breaks.
pub async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    host: &str,
    expect: (u16, u16),
) -> std::io::Result<ProbeResult> {
    let head = format!(
        "{request} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weir-probe\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(1024);
    let mut limited = stream.take(ANSWER_LEN_MAX as u64);
    loop {
        let read = limited.read_buf(&mut answer).await?;
        let status = status_code(&answer);
        match status {
            Some(Ok(503)) if is_draining(&answer) => return Ok(ProbeResult::Draining),
            // The body may still say that it is draining.
            Some(Ok(503)) if read > 0 && !(expect.0..=expect.1).contains(&503) => {}
            Some(Ok(code)) if (expect.0..=expect.1).contains(&code) => return Ok(ProbeResult::Up),
            Some(Ok(code)) => return Ok(ProbeResult::Down(format!("status {code}"))),
            Some(Err(what)) => return Ok(ProbeResult::Down(what)),
            None if read == 0 => {
                return Ok(ProbeResult::Down("connection closed before a status line".into()));
            }
            None => {}
        }
    }
}

/// The code of the status line; `None` until the line is complete.
fn status_code(answer: &[u8]) -> Option<Result<u16, String>> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    if end.is_none() && answer.len() < 64 {
        return None;
    }
    let line = String::from_utf8_lossy(&answer[..end.unwrap_or(64)]);
    let code =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    Some(code.ok_or_else(|| format!("not an HTTP/1 answer: {:?}", line.trim_end())))
}

/// Whether the body, as far as it has come, begins with `draining`.
fn is_draining(answer: &[u8]) -> bool {
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| &answer[at + 4..]);
    body.is_some_and(|body| body.starts_with(b"draining"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn answered(answer: &'static [u8]) -> ProbeResult {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let result = run(&ProbeTarget::readiness(address, &[]), LIMIT).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn an_answer_is_up_draining_or_down() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await, ProbeResult::Up);
        assert_eq!(
            answered(b"HTTP/1.1 503 x\r\ncontent-length: 8\r\n\r\ndraining").await,
            ProbeResult::Draining
        );
        assert_eq!(answered(b"HTTP/1.1 503 x\r\n\r\nbroken").await, ProbeResult::Down("status 503".into()));
        assert_eq!(answered(b"HTTP/1.0 404\r\n\r\n").await, ProbeResult::Down("status 404".into()));
        assert!(matches!(answered(b"SSH-2.0\r\n").await, ProbeResult::Down(_)));
        assert!(matches!(answered(b"").await, ProbeResult::Down(_)));
    }

    #[tokio::test]
    async fn nobody_listening_is_down_and_silence_ends_by_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = ProbeTarget { address, kind: ProbeKind::Tcp };
        assert_eq!(run(&tcp, LIMIT).await, ProbeResult::Up);
        let silent = run(&ProbeTarget::readiness(address, &[]), Duration::from_millis(20)).await;
        assert_eq!(silent, ProbeResult::Down("no answer within 20ms".into()));
        drop(listener);
        assert!(matches!(run(&tcp, LIMIT).await, ProbeResult::Down(_)));
    }
}
