//! One HTTP/1 request and as much of the answer as says whether it is a good one. What is read is bounded in bytes, by whoever
//! probes in time.

use std::collections::BTreeMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use weir_core::h1::{self, Chunked, Framing, Progress};
use weir_model::{BodyPattern, Check, CheckVersion, StatusRanges};

use super::ProbeResult;

/// Bytes read of a head; a status line, and of a 503 the beginning of the body, lie within.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Bytes of a body that are looked at.
const BODY_LEN_MAX: usize = 64 << 10;
/// Bytes read in all: the framing of a body in small chunks is longer than the body.
const ANSWER_LEN_MAX: usize = HEAD_LEN_MAX + 4 * BODY_LEN_MAX;

/// A request, and what its answer must be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    method: String,
    target: String,
    host: String,
    version: CheckVersion,
    fields: BTreeMap<String, String>,
    expect: StatusRanges,
    contains: Option<String>,
    matches: Option<BodyPattern>,
}

impl HttpProbe {
    /// A request of HTTP/1.1 and the status codes, first and last, of a good answer.
    pub fn new(method: &str, target: &str, host: String, expect: (u16, u16)) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            host,
            version: CheckVersion::Http11,
            fields: BTreeMap::new(),
            expect: StatusRanges(vec![expect]),
            contains: None,
            matches: None,
        }
    }

    /// As a check says; `host` where it names none.
    pub(super) fn of(check: &Check, host: String) -> Self {
        Self {
            method: check.method.clone(),
            target: check.path.clone(),
            host: check.host.clone().unwrap_or(host),
            version: check.version,
            fields: check.headers.clone(),
            expect: check.expect.clone(),
            contains: check.body_contains.clone(),
            matches: check.body_matches.clone(),
        }
    }

    /// The name in the host field, without a port.
    pub(super) fn host_name(&self) -> &str {
        self.host.rsplit_once(':').map_or(&*self.host, |(name, _)| name)
    }

    fn head(&self) -> String {
        let version = match self.version {
            CheckVersion::Http10 => "1.0",
            CheckVersion::Http11 => "1.1",
        };
        let mut head = format!("{} {} HTTP/{version}\r\nhost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has = |name: &str| self.fields.keys().any(|field| field.eq_ignore_ascii_case(name));
        for (name, value) in [("user-agent", "weir-probe"), ("accept", "*/*")] {
            if !has(name) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("connection: close\r\n\r\n");
        head
    }

    /// Sends the request, and reads as much of the answer as says what it is. Takes as long as the other side does.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<ProbeResult> {
        stream.write_all(self.head().as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::with_capacity(1024);
        let mut limited = stream.take(ANSWER_LEN_MAX as u64);
        loop {
            let read = match limited.read_buf(&mut answer).await {
                // A server that closes without a close_notify has said what it had to say.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            let is_end = read == 0;
            match status_code(&answer) {
                Some(Ok(503)) if is_draining(&answer) => return Ok(ProbeResult::Draining),
                // The body may still say that it is draining.
                Some(Ok(503)) if !is_end && !self.expect.contains(503) => {}
                Some(Ok(code)) if !self.expect.contains(code) => {
                    return Ok(ProbeResult::Down(format!("status {code}")));
                }
                Some(Ok(_)) => {
                    if let Some(result) = self.judge_body(&answer, is_end) {
                        return Ok(result);
                    }
                }
                Some(Err(what)) => return Ok(ProbeResult::Down(what)),
                None if is_end => {
                    return Ok(ProbeResult::Down("connection closed before a status line".into()));
                }
                None => {}
            }
        }
    }

    /// What the body says, with a status that is right; `None` while more of it could say something else.
    fn judge_body(&self, answer: &[u8], is_end: bool) -> Option<ProbeResult> {
        if self.contains.is_none() && self.matches.is_none() {
            return Some(ProbeResult::Up);
        }
        let body = match body(answer, self.method == "HEAD") {
            Err(what) => return Some(ProbeResult::Down(what)),
            Ok(None) if answer.len() > HEAD_LEN_MAX => {
                return Some(ProbeResult::Down(format!("a head of more than {HEAD_LEN_MAX} bytes")));
            }
            Ok(None) => Body::default(),
            Ok(Some(body)) => body,
        };
        let contains =
            |text: &str| body.data.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        let lacks_text = self.contains.as_deref().filter(|text| !text.is_empty() && !contains(text));
        let lacks_match = self.matches.as_ref().filter(|pattern| !pattern.is_match(&body.data));
        let is_whole = body.is_whole || is_end || body.data.len() >= BODY_LEN_MAX;
        // More of a body never takes away a text, but an expression may want its end.
        match (lacks_text, lacks_match) {
            (None, None) if is_whole || self.matches.is_none() => Some(ProbeResult::Up),
            _ if !is_whole => None,
            (Some(text), _) => Some(ProbeResult::Down(format!("the body does not contain {text:?}"))),
            (None, Some(pattern)) => {
                Some(ProbeResult::Down(format!("the body does not match {:?}", pattern.as_str())))
            }
            (None, None) => Some(ProbeResult::Up),
        }
    }
}

/// As much of a body as has come.
#[derive(Default)]
struct Body {
    data: Vec<u8>,
    is_whole: bool,
}

/// Takes the framing away; `None` while the head is not whole.
fn body(answer: &[u8], to_head: bool) -> Result<Option<Body>, String> {
    let mut room = h1::field_room();
    let head = h1::parse_response(answer, &mut room, to_head).map_err(|bad| bad.to_string())?;
    let Some(head) = head else { return Ok(None) };
    let mut rest = &answer[head.len..];
    let mut body = Body::default();
    match head.framing {
        Framing::None => body.is_whole = true,
        Framing::UntilClose => body.data.extend_from_slice(rest),
        Framing::Length(len) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            body.is_whole = rest.len() >= len;
            body.data.extend_from_slice(&rest[..rest.len().min(len)]);
        }
        Framing::Chunked => {
            let mut chunked = Chunked::default();
            loop {
                let (framing, progress) = chunked.advance(rest).map_err(|bad| bad.to_string())?;
                rest = &rest[framing..];
                match progress {
                    Progress::More => break,
                    Progress::Data(len) => {
                        body.data.extend_from_slice(&rest[..len]);
                        rest = &rest[len..];
                    }
                    Progress::End => {
                        body.is_whole = true;
                        break;
                    }
                }
            }
        }
    }
    body.data.truncate(BODY_LEN_MAX);
    Ok(Some(body))
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
