//! What a request is hashed by: `path`, `uri`, `source`, `header:x-user`, `cookie:session`, `query:id`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a request is hashed by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HashOn {
    /// The path, without the query.
    Path,
    /// Path and query.
    Uri,
    /// The address of the client.
    Source,
    /// The first value of a header field.
    Header(String),
    /// The first value of a cookie.
    Cookie(String),
    /// The first value of a parameter of the query, as it stands there.
    Query(String),
}

impl FromStr for HashOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |what: &str, name: &str| {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            // A parameter may be called anything that needs no escape; RFC 3986 §3.4.
            let fits = |b: u8| token(b) || (what == "query" && b"/?:@(),;".contains(&b));
            if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
                return Err(format!("{name:?} is not the name of a {what}"));
            }
            Ok(name.to_owned())
        };
        match text.split_once(':') {
            None if text == "path" => Ok(Self::Path),
            None if text == "uri" => Ok(Self::Uri),
            None if text == "source" => Ok(Self::Source),
            Some(("header", name)) => Ok(Self::Header(named("header", name)?)),
            Some(("cookie", name)) => Ok(Self::Cookie(named("cookie", name)?)),
            Some(("query", name)) => Ok(Self::Query(named("query", name)?)),
            _ => Err(format!(
                "{text:?} is nothing to hash by: write path, uri, source, header:NAME, cookie:NAME or query:NAME"
            )),
        }
    }
}

impl TryFrom<String> for HashOn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<HashOn> for String {
    fn from(on: HashOn) -> Self {
        on.to_string()
    }
}

impl fmt::Display for HashOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Uri => f.write_str("uri"),
            Self::Source => f.write_str("source"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
        }
    }
}
