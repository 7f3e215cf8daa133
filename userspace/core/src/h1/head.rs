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

/// Versions of HTTP a head can come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Without Host, chunks, and connections that stay by themselves.
    Http10,
    /// RFC 9112.
    Http11,
    /// RFC 9113; read by [`crate::h2`].
    Http2,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'h, 'b> {
    /// Bytes it takes, from the first line to the empty one; of HTTP/2, whose heads are packed otherwise, none.
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
    /// Whether that wish came as an extended CONNECT, whose method is written as GET here. RFC 8441 §4.
    pub is_extended_connect: bool,
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
    let gathered = gather(fields, version)?;
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
        is_extended_connect: false,
        // RFC 9110 §10.1.1: not of a client that says it is 1.0.
        expects_continue: gathered.expects_continue && version == Version::Http11,
        options,
    }))
}

/// What HTTP/2 says of a request in pseudo-header fields. RFC 9113 §8.3.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control<'b> {
    pub(crate) method: &'b str,
    pub(crate) scheme: &'b str,
    pub(crate) path: Option<&'b str>,
    pub(crate) authority: Option<&'b str>,
    /// RFC 8441 §4.
    pub(crate) protocol: Option<&'b str>,
    /// Whether no body follows.
    pub(crate) ends: bool,
}

/// The head of a request of HTTP/2, by the rules of this one.
pub(crate) fn request_of_http_2<'h, 'b>(
    control: Control<'b>,
    fields: &'h [Field<'b>],
) -> Result<RequestHead<'h, 'b>, Bad> {
    let version = Version::Http2;
    let is_extended_connect = control.method == "CONNECT" && control.protocol.is_some();
    // RFC 8441 §4: there is nothing else the protocol could belong to.
    if control.protocol.is_some() && !is_extended_connect {
        return Err(Bad::Syntax);
    }
    // RFC 8441 §5.1: in HTTP/1.1 such a wish is a GET.
    let method = if is_extended_connect { "GET" } else { control.method };
    if method == "CONNECT" {
        return Err(Bad::Connect);
    }
    let gathered = gather(fields, version)?;
    let target = control.path.ok_or(Bad::Target)?;
    let is_ours = ["http", "https"].iter().any(|scheme| control.scheme.eq_ignore_ascii_case(scheme));
    if !is_ours || !matches!(split_target(method, target)?, (None, _)) {
        return Err(Bad::Target);
    }
    // RFC 9113 §8.3.1: the field may stand beside :authority if it says the same, and neither is empty.
    let host = match (control.authority, gathered.host, gathered.hosts) {
        (Some(authority), None, _) => authority,
        (Some(authority), Some(host), 1) if authority.as_bytes().eq_ignore_ascii_case(host) => authority,
        (None, Some(host), 1) => std::str::from_utf8(host).map_err(|_| Bad::Host)?,
        _ => return Err(Bad::Host),
    };
    if host.is_empty() || !is_host(host) {
        return Err(Bad::Host);
    }
    let length = gathered.lengths.content_length();
    let framing = match (is_extended_connect, control.ends, length) {
        (true, _, Some(_)) | (false, true, Some(1..)) => return Err(Bad::ContentLength),
        (true, _, None) | (false, true, _) => Framing::None,
        (false, false, None) => Framing::Chunked,
        (false, false, Some(_)) => gathered.lengths.of_request(version)?,
    };
    Ok(RequestHead {
        len: 0,
        method,
        target,
        version,
        host,
        fields,
        framing,
        is_persistent: true,
        upgrade: control.protocol,
        is_extended_connect,
        expects_continue: gathered.expects_continue,
        options: gathered.options,
    })
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
    let gathered = gather(fields, version)?;
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

fn gather<'b>(fields: &[Field<'b>], version: Version) -> Result<Gathered<'b>, Bad> {
    let mut gathered = Gathered::default();
    for field in fields {
        let which = known(field.name);
        gathered.options.saw(which);
        if version == Version::Http2 && is_of_connections(which, field) {
            return Err(Bad::Connection);
        }
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

/// What HTTP/2 says by other means. RFC 9113 §8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing
/// connection-specific header fields", but for a TE of `trailers`.
pub(crate) fn is_of_connections(which: Known, field: &Field<'_>) -> bool {
    match which {
        Known::Connection | Known::TransferEncoding | Known::Upgrade => true,
        Known::Hop => match field.name.len() {
            2 => !field.value.eq_ignore_ascii_case(b"trailers"),
            _ => ["keep-alive", "proxy-connection"].iter().any(|name| field.name.eq_ignore_ascii_case(name)),
        },
        _ => false,
    }
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
    // No URI has these (RFC 3986 §2), and servers differ in what they make of them. httparse has refused the first of them before.
    let is_strange = |byte: u8| {
        !byte.is_ascii() || matches!(byte, 0..=b' ' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | 0x7f)
    };
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
