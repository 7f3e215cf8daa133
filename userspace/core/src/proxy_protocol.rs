//! The PROXY protocol, versions 1 and 2: who a connection comes from, said by the one in front before its first byte.
//!
//! ```text
//!  1:  "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"          (at most 107 bytes), or "PROXY UNKNOWN …\r\n"
//!  2:  signature (12)  version|command  family|transport  length (2)  addresses  TLVs
//! ```
//!
//! "The PROXY protocol", versions 1 & 2, of HAProxy (`doc/proxy-protocol.txt`). Pure. Strict in what is read: a header is either
//! right or the connection ends, since whoever errs here errs in who the client is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_model::SendProxy;

/// How every header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LINE_LEN_MAX: usize = 107;
/// The longest header that is read: addresses, and TLVs as large as a certificate chain's worth of names.
pub const HEADER_LEN_MAX: usize = 4096;

/// Which version is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text, TCP only.
    V1,
    /// Binary, with room for more.
    V2,
}

impl From<SendProxy> for Version {
    fn from(version: SendProxy) -> Self {
        match version {
            SendProxy::V1 => Self::V1,
            SendProxy::V2 => Self::V2,
        }
    }
}

/// Where a connection comes from and where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of it.
    pub len: usize,
    /// Absent where the one in front speaks for itself (LOCAL, as in its checks) or does not know (UNKNOWN, UNSPEC): then the
    /// connection's own addresses count.
    pub addresses: Option<Addresses>,
    /// What more version 2 said of the connection, as far as it is used.
    pub tlvs: Tlvs,
}

/// Type-length-values of version 2 (section 2.2): those that are passed on or used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// PP2_TYPE_ALPN: what was negotiated with the client.
    pub alpn: Option<Vec<u8>>,
    /// PP2_TYPE_AUTHORITY: the server name the client asked for.
    pub authority: Option<String>,
    /// PP2_TYPE_UNIQUE_ID: at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// PP2_TYPE_SSL: whether the client came by TLS.
    pub is_tls: bool,
}

/// Why a connection does not begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// It begins with something else.
    #[error("no PROXY protocol header")]
    Absent,
    /// It is not what the specification allows.
    #[error("a malformed PROXY protocol header")]
    Malformed,
    /// Longer than anybody needs.
    #[error("a PROXY protocol header too long")]
    TooLong,
    /// Its checksum is another one.
    #[error("a PROXY protocol header with another checksum")]
    Checksum,
}

/// Reads what has come of a connection: `None` while the header is not whole.
pub fn parse(came: &[u8]) -> Result<Option<Header>, BadHeader> {
    let begins = |with: &[u8]| {
        let len = came.len().min(with.len());
        came[..len] == with[..len]
    };
    if begins(SIGNATURE) {
        return parse_v2(came);
    }
    if begins(b"PROXY ") {
        return parse_v1(came);
    }
    Err(BadHeader::Absent)
}

fn parse_v1(came: &[u8]) -> Result<Option<Header>, BadHeader> {
    let line = &came[..came.len().min(LINE_LEN_MAX)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return if came.len() < LINE_LEN_MAX { Ok(None) } else { Err(BadHeader::TooLong) };
    };
    let text = std::str::from_utf8(&line[..end]).map_err(|_| BadHeader::Malformed)?;
    let mut words = text.split(' ').skip(1);
    let mut word = || words.next().ok_or(BadHeader::Malformed);
    let is_v4 = match word()? {
        // Whatever follows is to be ignored.
        "UNKNOWN" => return Ok(Some(Header { len: end + 2, addresses: None, tlvs: Tlvs::default() })),
        "TCP4" => true,
        "TCP6" => false,
        _ => return Err(BadHeader::Malformed),
    };
    let address = |text: &str| -> Result<IpAddr, BadHeader> {
        let address = if is_v4 {
            text.parse::<Ipv4Addr>().map(IpAddr::V4)
        } else {
            text.parse::<Ipv6Addr>().map(IpAddr::V6)
        };
        address.map_err(|_| BadHeader::Malformed)
    };
    let port = |text: &str| -> Result<u16, BadHeader> {
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        if is_plain { text.parse().map_err(|_| BadHeader::Malformed) } else { Err(BadHeader::Malformed) }
    };
    let (source, destination) = (address(word()?)?, address(word()?)?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(BadHeader::Malformed);
    }
    let addresses =
        Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) };
    Ok(Some(Header { len: end + 2, addresses: Some(addresses), tlvs: Tlvs::default() }))
}

fn parse_v2(came: &[u8]) -> Result<Option<Header>, BadHeader> {
    // What is wrong is said as soon as it is seen.
    let command = came.get(12).copied();
    if command.is_some_and(|byte| byte != 0x20 && byte != 0x21) {
        return Err(BadHeader::Malformed);
    }
    let Some(&[family, len_high, len_low]) = came.get(13..16) else { return Ok(None) };
    let len = 16 + usize::from(u16::from_be_bytes([len_high, len_low]));
    if len > HEADER_LEN_MAX {
        return Err(BadHeader::TooLong);
    }
    let Some(header) = came.get(..len) else { return Ok(None) };
    let rest = &header[16..];
    let (addresses, rest) = match family {
        0x00 => (None, rest),
        // TCP, and UDP, which nobody speaks over a connection but the addresses of which are the same.
        0x11 | 0x12 => ipv4(rest)?,
        0x21 | 0x22 => ipv6(rest)?,
        // Unix sockets: 108 bytes each.
        0x31 | 0x32 => (None, rest.get(216..).ok_or(BadHeader::Malformed)?),
        _ => return Err(BadHeader::Malformed),
    };
    let tlvs = tlvs(header, len - rest.len())?;
    let is_local = command == Some(0x20);
    Ok(Some(Header { len, addresses: addresses.filter(|_| !is_local), tlvs }))
}

fn ipv4(rest: &[u8]) -> Result<(Option<Addresses>, &[u8]), BadHeader> {
    let (bytes, rest) = rest.split_first_chunk::<12>().ok_or(BadHeader::Malformed)?;
    let [a, b, c, d, e, f, g, h, ports @ ..] = *bytes;
    let ports = [u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])];
    let source = SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), ports[0]);
    let destination = SocketAddr::new(Ipv4Addr::new(e, f, g, h).into(), ports[1]);
    Ok((Some(Addresses { source, destination }), rest))
}

fn ipv6(rest: &[u8]) -> Result<(Option<Addresses>, &[u8]), BadHeader> {
    let (source, rest) = rest.split_first_chunk::<16>().ok_or(BadHeader::Malformed)?;
    let (destination, rest) = rest.split_first_chunk::<16>().ok_or(BadHeader::Malformed)?;
    let (ports, rest) = rest.split_first_chunk::<4>().ok_or(BadHeader::Malformed)?;
    let source = SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([ports[0], ports[1]]));
    let destination =
        SocketAddr::new(Ipv6Addr::from(*destination).into(), u16::from_be_bytes([ports[2], ports[3]]));
    Ok((Some(Addresses { source, destination }), rest))
}

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;

/// The TLVs of a header, which begin at `at`. Those of unknown types are passed over.
fn tlvs(header: &[u8], mut at: usize) -> Result<Tlvs, BadHeader> {
    let mut tlvs = Tlvs::default();
    while at < header.len() {
        let (kind, len) = match header.get(at..at + 3) {
            Some(&[kind, high, low]) => (kind, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Err(BadHeader::Malformed),
        };
        let value = header.get(at + 3..at + 3 + len).ok_or(BadHeader::Malformed)?;
        match kind {
            ALPN => tlvs.alpn = Some(value.to_vec()),
            AUTHORITY => {
                tlvs.authority = Some(String::from_utf8(value.to_vec()).map_err(|_| BadHeader::Malformed)?);
            }
            CRC32C => {
                let said: [u8; 4] = value.try_into().map_err(|_| BadHeader::Malformed)?;
                // Section 2.2.3: over the whole header, with the checksum's own bytes as zero.
                let parts = [&header[..at + 3], &[0; 4], &header[at + 7..]];
                if crc32c(parts.into_iter().flatten()) != u32::from_be_bytes(said) {
                    return Err(BadHeader::Checksum);
                }
            }
            UNIQUE_ID if len > 128 => return Err(BadHeader::Malformed),
            UNIQUE_ID => tlvs.unique_id = Some(value.to_vec()),
            // The first bit of the first byte: PP2_CLIENT_SSL.
            SSL => tlvs.is_tls = value.first().ok_or(BadHeader::Malformed)? & 1 != 0,
            _ => {}
        }
        at += 3 + len;
    }
    Ok(tlvs)
}

/// Castagnoli's polynomial, reflected (RFC 3720 §12.1); a bit at a time, since a header is short and comes once.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// Appends a header. Without addresses it says LOCAL: this connection is the proxy's own. `tlvs` are said by version 2 only.
pub fn write(out: &mut Vec<u8>, version: Version, addresses: Option<Addresses>, tlvs: &Tlvs) {
    match version {
        Version::V1 => write_v1(out, addresses),
        Version::V2 => write_v2(out, addresses, tlvs),
    }
}

fn write_v1(out: &mut Vec<u8>, addresses: Option<Addresses>) {
    use std::io::Write;
    // Writing to memory does not fail.
    let _infallible = match addresses.map(same_family) {
        None => write!(out, "PROXY UNKNOWN\r\n"),
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            write!(out, "PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip())
        }
    };
}

fn write_v2(out: &mut Vec<u8>, addresses: Option<Addresses>, tlvs: &Tlvs) {
    let begin = out.len();
    out.extend_from_slice(SIGNATURE);
    match addresses.map(same_family) {
        None => out.extend_from_slice(&[0x20, 0x00, 0, 0]),
        Some((source, destination)) => {
            out.extend_from_slice(&[0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
            for address in [source.ip(), destination.ip()] {
                match address {
                    IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
                }
            }
            for port in [source.port(), destination.port()] {
                out.extend_from_slice(&port.to_be_bytes());
            }
        }
    }
    let mut tlv = |kind: u8, value: &[u8]| {
        // Longer than this nothing of ours is; what is, is left out rather than cut.
        if let Ok(len) = u16::try_from(value.len())
            && value.len() <= HEADER_LEN_MAX / 4
        {
            out.push(kind);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(value);
        }
    };
    if let Some(alpn) = &tlvs.alpn {
        tlv(ALPN, alpn);
    }
    if let Some(authority) = &tlvs.authority {
        tlv(AUTHORITY, authority.as_bytes());
    }
    if let Some(unique_id) = tlvs.unique_id.as_ref().filter(|id| id.len() <= 128) {
        tlv(UNIQUE_ID, unique_id);
    }
    if tlvs.is_tls {
        // By TLS, without a word about certificates, which were not verified as far as the reader should care.
        tlv(SSL, &[1, 0, 0, 0, 1]);
    }
    // The checksum last: it is over all of it.
    out.extend_from_slice(&[CRC32C, 0, 4, 0, 0, 0, 0]);
    let len = (out.len() - begin - 16) as u16;
    out[begin + 14..begin + 16].copy_from_slice(&len.to_be_bytes());
    let crc = crc32c(out[begin..].iter());
    let end = out.len();
    out[end - 4..].copy_from_slice(&crc.to_be_bytes());
}

/// A header has one family: beside an IPv6 address an IPv4 one stands mapped.
fn same_family(Addresses { source, destination }: Addresses) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}

#[cfg(test)]
mod tests;
