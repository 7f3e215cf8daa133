//! A regular expression for the body of a response, compiled where it is read: inside, nobody meets one that is none.

use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Bytes a compiled expression may take. Matching takes time linear in the body, whatever the expression.
const COMPILED_LEN_MAX: usize = 1 << 20;

/// A regular expression over bytes; `\w` and the like mean ASCII.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BodyPattern(Regex);

impl BodyPattern {
    /// Whether it matches somewhere.
    pub fn is_match(&self, body: &[u8]) -> bool {
        self.0.is_match(body)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for BodyPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for BodyPattern {}

impl Hash for BodyPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl TryFrom<String> for BodyPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let built = RegexBuilder::new(&text).unicode(false).size_limit(COMPILED_LEN_MAX).build();
        built.map(Self).map_err(|error| {
            // The last line says what; those before draw an arrow under it.
            let error = error.to_string();
            let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("{text:?} is not a regular expression: {what}")
        })
    }
}

impl From<BodyPattern> for String {
    fn from(pattern: BodyPattern) -> Self {
        pattern.as_str().to_owned()
    }
}
