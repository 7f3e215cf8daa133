//! What is wrong with a path attribute of the peer, and what follows from it: the table of RFC 7606 §7 and of the RFCs that
//! brought attributes after it.
//!
//! Nothing is imported here, so treat-as-withdraw only counts prefixes otherwise. The table matters for what it does *not*
//! do: end a session, and with it our announcements, over a route we would not take anyway.

use super::Notification;
use super::announce::{code, flag};
use super::update::ReceiveContext;
use std::fmt;

/// What is done about a malformed attribute, ascending by how much it costs. RFC 7606 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The attribute is left out, the rest of the message counts.
    AttributeDiscard,
    /// The prefixes of the message are taken for withdrawn.
    TreatAsWithdraw,
    /// The family is not listened to any more, until the session ends.
    DisableFamily,
    /// NOTIFICATION, and the session ends.
    SessionReset,
}

/// An error in an UPDATE that did not cost the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// The type code of the attribute; 0 when it is about all of them.
    pub attribute: u8,
    /// In words.
    pub what: &'static str,
    /// What was done about it.
    pub action: Action,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = TABLE.iter().find(|row| row.code == self.attribute);
        let done = match self.action {
            Action::AttributeDiscard => "attribute discarded",
            Action::TreatAsWithdraw => "treated as withdraw",
            Action::DisableFamily => "family disabled",
            Action::SessionReset => "session reset",
        };
        write!(f, "{}: {} ({done})", row.map_or("attributes", |row| row.name), self.what)
    }
}

/// One row: an attribute, the flags it must have, and what its value must be.
pub(super) struct Row {
    pub(super) code: u8,
    pub(super) name: &'static str,
    /// Optional and Transitive as the attribute's RFC has them.
    flags: u8,
    /// What happens when the value is not as `valid` wants it.
    action: Action,
    valid: fn(ReceiveContext, &[u8]) -> bool,
    /// Not taken from an external peer: RFC 7606 §7.5, §7.9, §7.10.
    internal_only: bool,
}

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const NON_TRANSITIVE: u8 = flag::OPTIONAL;
const TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

use Action::{AttributeDiscard, TreatAsWithdraw};

const fn row(
    code: u8,
    name: &'static str,
    flags: u8,
    action: Action,
    valid: fn(ReceiveContext, &[u8]) -> bool,
) -> Row {
    Row { code, name, flags, action, valid, internal_only: false }
}

/// MP_REACH_NLRI and MP_UNREACH_NLRI are judged with their prefixes, in [`super::update`]; here only their flags.
pub(super) static TABLE: [Row; 19] = [
    row(code::ORIGIN, "ORIGIN", WELL_KNOWN, TreatAsWithdraw, |_, value| matches!(value, [0..=2])),
    row(code::AS_PATH, "AS_PATH", WELL_KNOWN, TreatAsWithdraw, |context, value| {
        is_as_path(value, if context.four_octet_as { 4 } else { 2 })
    }),
    row(code::NEXT_HOP, "NEXT_HOP", WELL_KNOWN, TreatAsWithdraw, |_, value| value.len() == 4),
    row(code::MULTI_EXIT_DISC, "MULTI_EXIT_DISC", NON_TRANSITIVE, TreatAsWithdraw, |_, value| {
        value.len() == 4
    }),
    Row {
        internal_only: true,
        ..row(code::LOCAL_PREF, "LOCAL_PREF", WELL_KNOWN, TreatAsWithdraw, |_, value| value.len() == 4)
    },
    row(code::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WELL_KNOWN, AttributeDiscard, |_, value| {
        value.is_empty()
    }),
    row(code::AGGREGATOR, "AGGREGATOR", TRANSITIVE, AttributeDiscard, |context, value| {
        value.len() == if context.four_octet_as { 8 } else { 6 }
    }),
    row(code::COMMUNITIES, "COMMUNITIES", TRANSITIVE, TreatAsWithdraw, |_, value| is_list_of(value, 4)),
    Row {
        internal_only: true,
        ..row(code::ORIGINATOR_ID, "ORIGINATOR_ID", NON_TRANSITIVE, TreatAsWithdraw, |_, value| {
            value.len() == 4
        })
    },
    Row {
        internal_only: true,
        ..row(code::CLUSTER_LIST, "CLUSTER_LIST", NON_TRANSITIVE, TreatAsWithdraw, |_, value| {
            is_list_of(value, 4)
        })
    },
    row(code::MP_REACH_NLRI, "MP_REACH_NLRI", NON_TRANSITIVE, TreatAsWithdraw, |_, _| true),
    row(code::MP_UNREACH_NLRI, "MP_UNREACH_NLRI", NON_TRANSITIVE, TreatAsWithdraw, |_, _| true),
    row(code::EXTENDED_COMMUNITIES, "EXTENDED COMMUNITIES", TRANSITIVE, TreatAsWithdraw, |_, value| {
        is_list_of(value, 8)
    }),
    // RFC 6793 §6: "the attribute SHALL be discarded" when malformed, both of them.
    row(code::AS4_PATH, "AS4_PATH", TRANSITIVE, AttributeDiscard, |_, value| is_as_path(value, 4)),
    row(code::AS4_AGGREGATOR, "AS4_AGGREGATOR", TRANSITIVE, AttributeDiscard, |_, value| value.len() == 8),
    row(
        code::IPV6_EXTENDED_COMMUNITIES,
        "IPv6 EXTENDED COMMUNITIES",
        TRANSITIVE,
        TreatAsWithdraw,
        |_, value| is_list_of(value, 20),
    ),
    // RFC 7311 §3.2: "attribute discard".
    row(code::AIGP, "AIGP", NON_TRANSITIVE, AttributeDiscard, |_, value| is_aigp(value)),
    // RFC 8092 §5.
    row(code::LARGE_COMMUNITY, "LARGE_COMMUNITY", TRANSITIVE, TreatAsWithdraw, |_, value| {
        is_list_of(value, 12)
    }),
    // RFC 9234 §5.
    row(code::OTC, "OTC", TRANSITIVE, TreatAsWithdraw, |_, value| value.len() == 4),
];

/// Judge one attribute whose length is within the message; `whole` is it from its flags on. `Err` ends the session.
pub(super) fn judge(
    context: ReceiveContext,
    flags: u8,
    code: u8,
    value: &[u8],
    whole: &[u8],
) -> Result<Option<Finding>, Notification> {
    let Some(row) = TABLE.iter().find(|row| row.code == code) else {
        // RFC 4271 §6.3: "If any of the well-known mandatory attributes are not recognized, then the Error Subcode MUST
        // be set to Unrecognized Well-known Attribute." RFC 7606 leaves that as it was.
        return if flags & flag::OPTIONAL == 0 {
            Err(Notification::unrecognized_well_known_attribute(whole))
        } else {
            Ok(None)
        };
    };
    let found = |what, action| Ok(Some(Finding { attribute: code, what, action }));
    if row.internal_only && !context.ibgp {
        return found("from an external peer", AttributeDiscard);
    }
    // RFC 7606 §3 (c): "If the value of either the Optional or Transitive bits in the Attribute Flags is in conflict with their
    // specified values, then the attribute MUST be treated as malformed and the 'treat-as-withdraw' approach used, unless the
    // specification for the attribute mandates different handling".
    if flags & (flag::OPTIONAL | flag::TRANSITIVE) != row.flags {
        return found("flags", row.action);
    }
    if !(row.valid)(context, value) {
        return found("value", row.action);
    }
    Ok(None)
}

/// RFC 7606 §7.8: "its length is not a nonzero multiple of".
fn is_list_of(value: &[u8], len: usize) -> bool {
    !value.is_empty() && value.len().is_multiple_of(len)
}

/// Segments of AS_SET, AS_SEQUENCE or the confederation kinds, none empty, that fill the attribute. RFC 7606 §7.2.
fn is_as_path(mut value: &[u8], asn_len: usize) -> bool {
    while let Some((&[kind, count], rest)) = value.split_first_chunk() {
        let len = usize::from(count) * asn_len;
        match rest.split_at_checked(len) {
            Some((_, rest)) if (1..=4).contains(&kind) && count > 0 => value = rest,
            _ => return false,
        }
    }
    value.is_empty()
}

/// TLVs with lengths that add up; the first of type 1 has 11 octets. RFC 7311 §3.
fn is_aigp(mut value: &[u8]) -> bool {
    let mut known = false;
    while let Some((&[kind, high, low], _)) = value.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len < 3 || len > value.len() || (kind == 1 && !known && len != 11) {
            return false;
        }
        known |= kind == 1;
        value = &value[len..];
    }
    value.is_empty()
}
