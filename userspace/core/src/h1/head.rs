//! Reading heads. RFC 9112 §2 to §5.

use std::mem::MaybeUninit;

use super::{
    Bad, FIELDS_MAX, Framing, HEAD_LEN_MAX, TARGET_LEN_MAX,
    fields::{Field, Known, Options, is_host, known},
    framing::Lengths,
};

/// Room for the fields of a head, on the stack of whoever reads one.
pub type FieldRoom<'b> = [MaybeUninit<Field<'b>>; FIELDS_MAX];

/// Empty [`FieldRoom`].
pub const fn field_room<'b>() -> FieldRoom<'b> {
    [MaybeUninit::uninit(); FIELDS_MAX]
}

/// Versions of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Without Host, chunks, and connections that stay by themselves.
    Http10,
    /// RFC 9112.
    Http11,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'h, 'b> {
    /// Bytes it takes, from the first line to the empty one.
    pub len: usize,
    /// The method, a token.
    pub method: &'b str,
    /// Path and query, from the slash on; `*` for OPTIONS of the server as a whole.
    pub target: &'b str,
    /// The version.
    pub version: Version,
    /// Whom it is for, as sent; empty where HTTP/1.0 does not say.
    pub host: &'b str,
    /// All field lines.
    pub fields: &'h [Field<'b>],
    /// Where it ends.
    pub framing: Framing,
    /// Whether the client goes on with the connection afterwards.
    pub is_persistent: bool,
    /// The protocol it would rather speak on this connection. RFC 9110 §7.8.
    pub upgrade: Option<&'b str>,
    /// Whether the client waits for a word before it sends the body. RFC 9110 §10.1.1.
    pub expects_continue: bool,
    pub(super) options: Options,
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'h, 'b> {
    /// Bytes it takes.
    pub len: usize,
    /// The version.
    pub version: Version,
    /// Three digits.
    pub status: u16,
    /// Words beside them.
    pub reason: &'b str,
    /// All field lines.
    pub fields: &'h [Field<'b>],
    /// Where it ends.
    pub framing: Framing,
    /// What Content-Length says, also where there is no body.
    pub content_length: Option<u64>,
    /// Whether the server goes on with the connection afterwards.
    pub is_persistent: bool,
    /// The protocol it switches to.
    pub upgrade: Option<&'b str>,
    pub(super) options: Options,
}

/// What was gathered from all field lines.
#[derive(Default)]
struct Gathered<'b> {
    lengths: Lengths,
    options: Options,
    upgrade: Option<&'b str>,
    host: Option<&'b [u8]>,
    hosts: u32,
    expects_continue: bool,
}

/// Reads the head of a request; `None` while it is not whole. Empty lines before it are not part of it, see
/// [`RequestHead::len`]: they are counted in.
pub fn parse_request<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut FieldRoom<'b>,
) -> Result<Option<RequestHead<'h, 'b>>, Bad> {
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, room);
    let Some(len) = complete(parsed, bytes)? else { return Ok(None) };
    let version = version(request.version);
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let fields: &'h [Field<'b>] = request.headers;
    let gathered = gather(fields)?;
    let (authority, target) = split_target(method, target)?;
    let host = match (gathered.host, gathered.hosts) {
        (Some(host), 1) => std::str::from_utf8(host).map_err(|_| Bad::Host)?,
        (None, _) if version == Version::Http10 => "",
        _ => return Err(Bad::Host),
    };
    // RFC 9112 §3.2.2: the authority of the absolute-form goes before the field.
    let host = authority.unwrap_or(host);
    if !is_host(host) {
        return Err(Bad::Host);
    }
    let options = gathered.options;
    let wishes_upgrade = options.upgrade && version == Version::Http11;
    Ok(Some(RequestHead {
        len,
        method,
        target,
        version,
        host,
        fields,
        framing: gathered.lengths.of_request(version)?,
        is_persistent: is_persistent(version, &options),
        // Whoever wants HTTP/2 begins with it: RFC 9113 §3.1.
        upgrade: gathered.upgrade.filter(|to| wishes_upgrade && !to.eq_ignore_ascii_case("h2c")),
        // RFC 9110 §10.1.1: not of a client that says it is 1.0.
        expects_continue: gathered.expects_continue && version == Version::Http11,
        options,
    }))
}

/// Reads the head of a response to a request, which was one for the head alone or not; `None` while it is not whole.
pub fn parse_response<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut FieldRoom<'b>,
    to_head: bool,
) -> Result<Option<ResponseHead<'h, 'b>>, Bad> {
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room);
    let Some(len) = complete(parsed, bytes)? else { return Ok(None) };
    let version = version(response.version);
    let status = response.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(Bad::Syntax);
    }
    let fields: &'h [Field<'b>] = response.headers;
    let gathered = gather(fields)?;
    let framing = gathered.lengths.of_response(version, status, to_head)?;
    Ok(Some(ResponseHead {
        len,
        version,
        status,
        reason: response.reason.unwrap_or_default(),
        fields,
        framing,
        content_length: gathered.lengths.content_length(),
        is_persistent: is_persistent(version, &gathered.options) && framing != Framing::UntilClose,
        upgrade: gathered.upgrade.filter(|_| gathered.options.upgrade),
        options: gathered.options,
    }))
}

fn complete(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, Bad> {
    match parsed {
        Ok(httparse::Status::Complete(len)) if len > HEAD_LEN_MAX => Err(Bad::HeadLen),
        Ok(httparse::Status::Complete(len)) => {
            let is_bare = |at: usize| at == 0 || bytes[at - 1] != b'\r';
            let mut ends = memchr::memchr_iter(b'\n', &bytes[..len]);
            if ends.any(is_bare) { Err(Bad::BareLineFeed) } else { Ok(Some(len)) }
        }
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_LEN_MAX => Err(Bad::HeadLen),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Bad::HeadLen),
        Err(httparse::Error::Version) => Err(Bad::Version),
        Err(httparse::Error::HeaderName) if is_folded(bytes) => Err(Bad::Folded),
        Err(_) => Err(Bad::Syntax),
    }
}

/// Whether some line begins with white space, for the sake of a better word.
fn is_folded(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair[0] == b'\n' && matches!(pair[1], b' ' | b'\t'))
}

/// httparse knows these two only.
fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

fn gather<'b>(fields: &[Field<'b>]) -> Result<Gathered<'b>, Bad> {
    let mut gathered = Gathered::default();
    for field in fields {
        let which = known(field.name);
        gathered.options.saw(which);
        match which {
            Known::ContentLength => gathered.lengths.add_content_length(field.value)?,
            Known::TransferEncoding => gathered.lengths.add_transfer_encoding(field.value)?,
            Known::Connection => gathered.options.add(field.value)?,
            Known::Host => {
                gathered.host = Some(field.value);
                gathered.hosts += 1;
            }
            Known::Upgrade => {
                // Several could mean different things to different readers: none is heard.
                let value = std::str::from_utf8(field.value).ok().filter(|_| gathered.upgrade.is_none());
                gathered.upgrade = Some(value.ok_or(Bad::Connection)?);
            }
            Known::Expect => gathered.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }
    Ok(gathered)
}

/// RFC 9112 §9.3.
fn is_persistent(version: Version, options: &Options) -> bool {
    !options.close && (version == Version::Http11 || options.keep_alive)
}

/// The authority, where the target has one, and the target for the server. RFC 9112 §3.2.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(Option<&'b str>, &'b str), Bad> {
    if target.len() > TARGET_LEN_MAX {
        return Err(Bad::TargetLen);
    }
    if method == "CONNECT" {
        return Err(Bad::Connect);
    }
    // httparse has refused white space and controls. No URI has these (RFC 3986 §2), and servers differ in what they make of them.
    let is_strange =
        |byte: u8| !byte.is_ascii() || matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | 0x7f);
    if target.bytes().any(is_strange) {
        return Err(Bad::Target);
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok((None, target)) } else { Err(Bad::Target) };
    }
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let rest = rest.ok_or(Bad::Target)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || path.starts_with('?') {
        // The path of "http://host?query" is a slash nobody wrote; no client sends this.
        return Err(Bad::Target);
    }
    Ok((Some(authority), if path.is_empty() { "/" } else { path }))
}
