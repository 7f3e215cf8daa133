//! The fields everybody knows. RFC 7541 Appendix A.

/// Names and values; the first has index 1.
pub(super) static FIXED: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A place for each name, so that one comparison tells whether it is known.
static PLACES: [u8; 256] = places();

/// Length, first and last letter tell the names apart.
const fn place(name: &[u8]) -> usize {
    let [first, .., last] = name else { return 0 };
    // Small letters all, whatever came.
    let (first, last) = (*first as usize | 0x20, *last as usize | 0x20);
    (name.len() * FACTORS.0 + first * FACTORS.1 + last * FACTORS.2) & 255
}

/// With these no two names meet; found by trying.
const FACTORS: (usize, usize, usize) = (1, 10, 4);

const fn places() -> [u8; 256] {
    let mut places = [0; 256];
    let mut index = 0;
    while index < FIXED.len() {
        let name = FIXED[index].0.as_bytes();
        let is_pseudo = name[0] == b':';
        let at = place(name);
        if !is_pseudo {
            assert!(places[at] == 0, "two names in one place");
            places[at] = index as u8 + 1;
        }
        index += 1;
    }
    places
}

/// The index of a name in letters of any size; none for pseudo-header fields.
pub(super) fn index_of(name: &str) -> Option<usize> {
    let index = usize::from(PLACES[place(name.as_bytes())]);
    let known = FIXED.get(index.checked_sub(1)?)?.0;
    known.eq_ignore_ascii_case(name).then_some(index)
}
