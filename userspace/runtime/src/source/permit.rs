//! An operator's word that what is held back is meant, as it comes through the status socket.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use weir_model::Generation;

use crate::status::{Question, Site};

/// The page of a daemon's status socket that takes a [`Permit`].
pub const PERMIT_PAGE: &str = "/accept";
/// Bytes of a permit.
const PERMIT_LEN_MAX_BYTES: usize = 1_024;

/// An operator's word that a configuration that is held back is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// Which: whatever else has come meanwhile is not let through.
    pub generation: Generation,
    /// Who says so, for the log.
    pub by: String,
}

/// Where permits are given.
#[derive(Clone)]
pub struct Permits(pub(super) mpsc::Sender<Question>);

impl Permits {
    /// Takes them on this site.
    pub fn take_on(&self, site: &mut Site) {
        site.ask_at(PERMIT_PAGE, PERMIT_LEN_MAX_BYTES, self.0.clone());
    }
}
