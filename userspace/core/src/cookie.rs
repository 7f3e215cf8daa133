//! Cookies in the Cookie fields of a request. RFC 6265 §4.2.

/// Cookie fields looked at; more are passed on unread.
pub const COOKIE_FIELDS_MAX: usize = 16;

/// The values of a cookie, in the order sent.
pub fn values<'a>(fields: impl Iterator<Item = &'a [u8]>, name: &str) -> impl Iterator<Item = &'a str> {
    let fields = fields.take(COOKIE_FIELDS_MAX).filter_map(|field| std::str::from_utf8(field).ok());
    let pairs = fields.flat_map(|field| field.split(';'));
    pairs.filter_map(move |pair| pair.trim_start().strip_prefix(name)?.strip_prefix('=').map(str::trim_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let fields: [&[u8]; 2] = [b"a=1; zone=x:1;zone2=no", b"zone=y"];
        assert_eq!(values(fields.into_iter(), "zone").collect::<Vec<_>>(), ["x:1", "y"]);
    }
}
