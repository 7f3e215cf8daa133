//! Entries of the moment in the access lists: what programs on this host ask for, and who asked why.

use std::{collections::BTreeMap, time::Duration};

use weir_abi::{
    guard::{AccessRule, SourcePrefix},
    rate,
};
use weir_core::{
    image::{self, Image},
    plan::Op,
};
use weir_model::status::BlockedStatus;
use weir_runtime::access::Request;

/// Requests a second; each costs a few system calls.
const INTERVAL_NS: u32 = 1_000_000;
/// After so many at once.
const BURST: u32 = 1_000;
/// Entries shown in the status; the others are in force as well.
const SHOWN_MAX: usize = 100;

/// Who asked for what is in the kernel, and how fast they ask.
#[derive(Default)]
pub(crate) struct Moment {
    /// Reason and asker; unknown of those of an earlier process.
    known: BTreeMap<SourcePrefix, (String, String)>,
    due_ns: u64,
}

impl Moment {
    /// The operation that fulfils a request, or why there is none.
    pub(crate) fn op(&mut self, request: &Request, current: &Image, now: Duration) -> Result<Op, String> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let burst_ns = rate::burst_ns(INTERVAL_NS, BURST);
        if !rate::admits(&mut self.due_ns, now_ns, INTERVAL_NS.into(), burst_ns) {
            return Err("too many requests a second".into());
        }
        match request {
            Request::Block { prefix, ttl, reason, from } => {
                let (key, rule) =
                    image::block(current, now, *prefix, *ttl).map_err(|refusal| refusal.to_string())?;
                self.known.retain(|key, _| current.access.contains_key(key));
                self.known.insert(key, (reason.clone(), from.clone()));
                Ok(Op::PutAccess(key, rule))
            }
            Request::Unblock { prefix } => {
                image::unblock(current, *prefix).map(Op::DeleteAccess).map_err(|refusal| refusal.to_string())
            }
        }
    }

    /// What is blocked for the moment, the first of them, and how many there are.
    pub(crate) fn shown(&self, current: &Image, now: Duration) -> (Vec<BlockedStatus>, u64) {
        let show = |(key, rule): (&SourcePrefix, &AccessRule)| {
            let (reason, from) = self.known.get(key).cloned().unwrap_or_default();
            let left = u64::from(rule.until_s).saturating_sub(now.as_secs());
            Some(BlockedStatus { prefix: image::net(key)?, seconds_left: left, reason, from })
        };
        let shown = image::moment(current).filter_map(show).take(SHOWN_MAX).collect();
        (shown, image::moment(current).count() as u64)
    }
}
