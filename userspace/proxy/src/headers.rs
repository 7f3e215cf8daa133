//! What changes in the header fields on the way through: RFC 9110 §7.6, RFC 7239, and the X-Forwarded habit.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{self, Entry},
    request::Parts,
    uri::PathAndQuery,
};

use crate::errors::Refusal;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Makes a client's request one of ours: origin-form, HTTP/1.1, no hop-by-hop fields, who asked and how.
pub(crate) fn to_server(parts: &mut Parts, host: &str, client: SocketAddr, tls: bool) -> Result<(), Refusal> {
    let via = via(parts.version);
    remove_hop_by_hop(&mut parts.headers);
    join_cookies(&mut parts.headers);
    // hyper has answered "100 Continue" itself, or will when the body is read.
    parts.headers.remove(header::EXPECT);
    parts.version = Version::HTTP_11;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    parts.uri =
        Uri::try_from(if target.is_empty() { "/" } else { target }).map_err(|_| Refusal::BAD_TARGET)?;

    let headers = &mut parts.headers;
    let host_value = HeaderValue::from_str(host).map_err(|_| Refusal::BAD_HOST)?;
    let client = client.ip().to_canonical();
    let proto = if tls { "https" } else { "http" };
    append_listed(headers, X_FORWARDED_FOR, &client.to_string());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(X_FORWARDED_HOST, host_value.clone());
    append_listed(headers, FORWARDED, &forwarded(client, host, proto));
    append_listed(headers, header::VIA, via);
    headers.insert(header::HOST, host_value);
    Ok(())
}

/// Whether a client takes trailer fields. RFC 9110 §10.1.4.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Makes such a request one of HTTP/2: RFC 9113 §8.3.1 has the host in the target, and §8.2.2 lets trailers be asked for.
pub(crate) fn as_http2(
    parts: &mut Parts,
    host: &str,
    tls: bool,
    takes_trailers: bool,
) -> Result<(), Refusal> {
    let target = std::mem::take(&mut parts.uri).into_parts().path_and_query;
    let uri = Uri::builder().scheme(if tls { "https" } else { "http" }).authority(host);
    let uri = uri.path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.uri = uri.build().map_err(|_| Refusal::BAD_HOST)?;
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::HOST);
    if takes_trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Puts these in place of the client's fields of their names; an empty value is no field, an empty name nothing.
pub(crate) fn instead(headers: &mut HeaderMap, fields: [(&'static str, &[u8]); 3]) {
    for (name, value) in fields.into_iter().filter(|(name, _)| !name.is_empty()) {
        let name = HeaderName::from_static(name);
        headers.remove(&name);
        if let Some(value) = HeaderValue::from_bytes(value).ok().filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
}

/// Makes a server's response one of ours.
pub(crate) fn to_client(headers: &mut HeaderMap, version: Version) {
    remove_hop_by_hop(headers);
    append_listed(headers, header::VIA, via(version));
}

/// RFC 9110 §7.6.1: "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for
/// each connection-option in this field, remove any header or trailer field(s) from the message with the same name".
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| option.trim().parse().ok())
        // A sender has no right to remove what the message cannot do without.
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Leaves what may stand behind a body. RFC 9110 §6.5.1: nothing that frames the message or says whom it is for.
pub(crate) fn only_trailers(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [
        header::CONTENT_LENGTH,
        header::HOST,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
    ] {
        headers.remove(name);
    }
}

/// RFC 9113 §8.2.3: "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a
/// single octet string using the two-octet delimiter of 0x3b, 0x20 (the ASCII string "; ") before being passed into a
/// non-HTTP/2 context".
fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    if let (Some(first), Some(second)) = (fields.next(), fields.next()) {
        let joined = [first, second].into_iter().chain(fields).collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0 weir",
        Version::HTTP_10 => "1.0 weir",
        _ => "1.1 weir",
    }
}

/// RFC 7239 §4, §6: an IPv6 address stands in brackets and quotes, a host with a colon in quotes.
fn forwarded(client: IpAddr, host: &str, proto: &str) -> String {
    let by_whom = match client {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    match host {
        "" => format!("for={by_whom};proto={proto}"),
        _ => format!("for={by_whom};host=\"{}\";proto={proto}", host.replace(['"', '\\'], "")),
    }
}

/// Adds an element to a list field, keeping it one field: some servers read only the first.
fn append_listed(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list = String::new();
    if let Entry::Occupied(entry) = headers.entry(name.clone()) {
        for value in entry.iter().filter_map(|value| value.to_str().ok()) {
            list.push_str(value);
            list.push_str(", ");
        }
    }
    list.push_str(element);
    if let Ok(value) = HeaderValue::from_str(&list) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
        build(Request::builder()).body(()).unwrap().into_parts().0
    }

    #[test]
    fn hop_by_hop_fields_and_those_nominated_are_removed() {
        let mut parts = parts(|request| {
            request
                .uri("http://a.example/x?y")
                .header("connection", "close, X-Secret, host")
                .header("x-secret", "1")
                .header("te", "trailers")
                .header("upgrade", "h2c")
                .header("x-forwarded-for", "198.51.100.1")
                .header("x-forwarded-for", "198.51.100.2")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("accept", "*/*")
        });
        to_server(&mut parts, "a.example", "[2001:db8::1]:5".parse().unwrap(), true).unwrap();
        let get = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(parts.uri, "/x?y");
        for gone in ["connection", "x-secret", "te", "upgrade"] {
            assert_eq!(get(gone), None, "{gone}");
        }
        assert_eq!(get("host"), Some("a.example"));
        assert_eq!(get("x-forwarded-for"), Some("198.51.100.1, 198.51.100.2, 2001:db8::1"));
        assert_eq!(get("forwarded"), Some("for=\"[2001:db8::1]\";host=\"a.example\";proto=https"));
        assert_eq!(get("via"), Some("1.1 weir"));
        assert_eq!(get("accept"), Some("*/*"));
        assert_eq!(get("cookie"), Some("a=1; b=2"));
        assert_eq!(parts.headers.get_all("cookie").iter().count(), 1);
    }
}
