//! The key a request is hashed by.

use weir_model::HashOn;

use crate::{cookie, hash::ClientKey};

/// Reads it from the request target and the fields; `None` where the request has it not, or it is the client's address.
pub fn of<'a>(
    on: &HashOn,
    target: &str,
    mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Option<ClientKey> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = match on {
        HashOn::Source => return None,
        HashOn::Path => path.as_bytes(),
        HashOn::Uri => target.as_bytes(),
        HashOn::Header(name) => fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?.1,
        HashOn::Cookie(name) => {
            let fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case("cookie"));
            cookie::values(fields.map(|(_, value)| value), name).next()?.as_bytes()
        }
        HashOn::Query(name) => {
            query.split('&').find_map(|pair| pair.strip_prefix(name.as_str())?.strip_prefix('='))?.as_bytes()
        }
    };
    Some(ClientKey::of_session(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_hashed_by_what_the_pool_names() {
        let fields: [(&str, &[u8]); 4] =
            [("x-user", b"ann"), ("Cookie", b"a=1; sid=7"), ("X-USER", b"bob"), ("cookie", b"sid=8")];
        let key = |on: &str, target| of(&on.parse().unwrap(), target, fields.into_iter());
        let text = |text: &str| Some(ClientKey::of_session(text.as_bytes()));
        for (on, target, expected) in [
            ("path", "/a/b?id=1", text("/a/b")),
            ("uri", "/a/b?id=1", text("/a/b?id=1")),
            ("source", "/", None),
            ("header:X-User", "/", text("ann")),
            ("header:x-group", "/", None),
            ("cookie:sid", "/", text("7")),
            ("cookie:si", "/", None),
            ("query:id", "/?xid=2&id=1&id=3", text("1")),
            ("query:id", "/?idx=1", None),
            ("query:id", "/id=1", None),
        ] {
            assert_eq!(key(on, target), expected, "{on} of {target}");
        }
    }
}
