//! An UPDATE of the peer, judged: RFC 4271 §6.3 as revised by RFC 7606; RFC 4760 §7; RFC 8950.
//!
//! Nothing of it is kept here. The caller is shown the prefixes one by one, and told what was wrong. Attributes are judged by
//! the table in [`super::attribute`], prefixes and lengths here.

use super::announce::{code, flag};
use super::attribute::{self, Action, Finding};
use super::{Families, Family, Notification};
use bytes::Bytes;
use ipnet::IpNet;
use std::net::IpAddr;

/// What the judgement depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveContext {
    /// The peer is in our AS.
    pub ibgp: bool,
    /// AS numbers of four octets were agreed.
    pub four_octet_as: bool,
    /// The families agreed; what comes of others is ignored.
    pub families: Families,
    /// IPv4 may have an IPv6 next hop.
    pub extended_next_hop: bool,
}

impl Default for ReceiveContext {
    /// An external peer with everything agreed.
    fn default() -> Self {
        Self { ibgp: false, four_octet_as: true, families: Families::BOTH, extended_next_hop: true }
    }
}

/// What an UPDATE held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdateReport {
    /// Prefixes announced, of the families agreed.
    pub announced: usize,
    /// Prefixes withdrawn, and prefixes announced in a message that RFC 7606 treats as a withdrawal.
    pub withdrawn: usize,
    /// The gravest error that did not cost the session.
    pub finding: Option<Finding>,
    /// A family that cannot be understood any more; its prefixes are not listed.
    pub disable: Option<Family>,
    /// The End-of-RIB marker of a family.
    pub end_of_rib: Option<Family>,
}

/// What is in the body, before anything is decided about it.
#[derive(Default)]
struct Parts<'a> {
    seen: Vec<u8>,
    reach: Option<&'a [u8]>,
    unreach: Option<&'a [u8]>,
    finding: Option<Finding>,
    disable: Option<Family>,
}

impl Parts<'_> {
    fn find(&mut self, finding: Finding) {
        if self.finding.is_none_or(|before| before.action < finding.action) {
            self.finding = Some(finding);
        }
    }

    fn disable(&mut self, family: Family, attribute: u8, what: &'static str) {
        self.find(Finding { attribute, what, action: Action::DisableFamily });
        self.disable = Some(family);
    }
}

/// Judge the body of an UPDATE. `each` sees every prefix of an agreed family, with `true` when it is announced and stays so.
///
/// An error ends the session: what RFC 7606 leaves of that, and nothing else.
pub fn decode_update(
    body: &Bytes,
    context: ReceiveContext,
    mut each: impl FnMut(IpNet, bool),
) -> Result<UpdateReport, Notification> {
    let (withdrawn, attributes, nlri) = fields(body).ok_or_else(Notification::malformed_attribute_list)?;
    // Both before anything is shown to the caller.
    let check =
        |field: &[u8]| walk(Family::Ipv4, field, |_| ()).ok_or_else(Notification::invalid_network_field);
    // RFC 7606 §3 (j): NLRI that cannot be parsed ends the session. RFC 4271 §6.3: Invalid Network Field.
    check(withdrawn)?;
    check(nlri)?;
    let mut parts = read_attributes(context, attributes)?;
    let reach = parts.reach.take();
    let reach = multiprotocol(context, &mut parts, code::MP_REACH_NLRI, reach)?;
    let unreach = parts.unreach.take();
    let unreach_given = unreach.is_some();
    let unreach = multiprotocol(context, &mut parts, code::MP_UNREACH_NLRI, unreach)?;
    missing(&mut parts, !nlri.is_empty(), reach.is_some_and(|(_, nlri)| !nlri.is_empty()));

    let stays = parts.finding.is_none_or(|finding| finding.action < Action::TreatAsWithdraw);
    let mut report =
        UpdateReport { finding: parts.finding, disable: parts.disable, ..UpdateReport::default() };
    let classic = |field| context.families.ipv4.then_some((Family::Ipv4, field));
    let listed = [(classic(withdrawn), false), (unreach, false), (classic(nlri), true), (reach, true)];
    for (field, announced) in listed {
        let Some((family, field)) = field.filter(|(family, _)| Some(*family) != report.disable) else {
            continue;
        };
        let announced = announced && stays;
        let count = if announced { &mut report.announced } else { &mut report.withdrawn };
        // All of them were walked before.
        let _whole = walk(family, field, |prefix| {
            *count += 1;
            each(prefix, announced);
        });
    }
    report.end_of_rib = match unreach {
        _ if report.finding.is_some() => None,
        None if body.len() == 4 && !unreach_given => Some(Family::Ipv4),
        // RFC 4724 §2: "an UPDATE message with only the MP_UNREACH_NLRI attribute … with no withdrawn routes".
        Some((family, [])) if parts.seen == [code::MP_UNREACH_NLRI] && nlri.is_empty() => Some(family),
        _ => None,
    };
    Ok(report)
}

/// Withdrawn routes, path attributes, NLRI; `None` when the two length fields do not add up.
fn fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // RFC 4271 §6.3: "If the Withdrawn Routes Length or Total Attribute Length is too large (i.e., if Withdrawn Routes
    // Length + Total Attribute Length + 23 exceeds the message Length), then the Error Subcode MUST be set to Malformed
    // Attribute List." RFC 7606 §3 (b) keeps it.
    let (len, rest) = body.split_first_chunk::<2>()?;
    let (withdrawn, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (attributes, nlri) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((withdrawn, attributes, nlri))
}

fn read_attributes(context: ReceiveContext, mut rest: &[u8]) -> Result<Parts<'_>, Notification> {
    let mut parts = Parts::default();
    while !rest.is_empty() {
        let Some((flags, code, value, after)) = split_attribute(rest) else {
            // RFC 7606 §4: an attribute that overruns the rest is treat-as-withdraw, "and the Total Attribute Length MUST be
            // relied upon".
            parts.find(Finding { attribute: 0, what: "attribute overrun", action: Action::TreatAsWithdraw });
            break;
        };
        let whole = &rest[..rest.len() - after.len()];
        rest = after;
        let multiprotocol = matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
        if parts.seen.contains(&code) {
            // RFC 7606 §3 (g): the multiprotocol ones twice end the session; of any other "all the occurrences of the attribute
            // other than the first one SHALL be discarded".
            if multiprotocol {
                return Err(Notification::malformed_attribute_list());
            }
            parts.find(Finding { attribute: code, what: "twice", action: Action::AttributeDiscard });
            continue;
        }
        parts.seen.push(code);
        if let Some(finding) = attribute::judge(context, flags, code, value, whole)? {
            parts.find(finding);
        }
        match code {
            code::MP_REACH_NLRI => parts.reach = Some(value),
            code::MP_UNREACH_NLRI => parts.unreach = Some(value),
            _ => {}
        }
    }
    Ok(parts)
}

/// Flags, type code, value, and what comes after.
fn split_attribute(bytes: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    let (&[flags, code], rest) = bytes.split_first_chunk()?;
    let (len, rest) = if flags & flag::EXTENDED != 0 {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*len)), rest)
    } else {
        let (len, rest) = rest.split_first()?;
        (usize::from(*len), rest)
    };
    let (value, after) = rest.split_at_checked(len)?;
    Some((flags, code, value, after))
}

/// The family and prefixes of MP_REACH_NLRI or MP_UNREACH_NLRI; nothing for a family that was not agreed.
fn multiprotocol<'a>(
    context: ReceiveContext,
    parts: &mut Parts<'_>,
    code: u8,
    value: Option<&'a [u8]>,
) -> Result<Option<(Family, &'a [u8])>, Notification> {
    let Some(value) = value else {
        return Ok(None);
    };
    // RFC 7606 §5.3: too short to say which family it is about, so that none can be disabled.
    let Some((&[afi_high, afi_low, safi], rest)) = value.split_first_chunk() else {
        return Err(Notification::optional_attribute_error(value));
    };
    let family = Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi);
    let Some(family) = family.filter(|family| context.families.has(*family)) else {
        return Ok(None);
    };
    let nlri = if code == code::MP_REACH_NLRI {
        // RFC 7606 §7.11: with a next hop of a wrong length "it will not be possible to reliably locate the NLRI; thus, the
        // 'session reset' or 'AFI/SAFI disable' approach MUST be used".
        let valid = |len: usize| match family {
            Family::Ipv4 => len == 4 || (context.extended_next_hop && matches!(len, 16 | 32)),
            Family::Ipv6 => matches!(len, 16 | 32),
        };
        let next_hop = rest.split_first().map(|(len, rest)| (usize::from(*len), rest));
        // One reserved octet behind the next hop. RFC 4760 §3.
        match next_hop.filter(|(len, _)| valid(*len)).and_then(|(len, rest)| rest.get(len + 1..)) {
            Some(nlri) => nlri,
            None => {
                parts.disable(family, code, "next hop length");
                return Ok(None);
            }
        }
    } else {
        rest
    };
    if walk(family, nlri, |_| ()).is_none() {
        parts.disable(family, code, "prefixes");
        return Ok(None);
    }
    Ok(Some((family, nlri)))
}

/// RFC 7606 §3 (d): "If any of the well-known mandatory attributes are not present in an UPDATE message, then
/// 'treat-as-withdraw' MUST be used." An UPDATE without announcements needs none (RFC 4271 §5).
fn missing(parts: &mut Parts<'_>, classic: bool, reach: bool) {
    let needed = [
        (code::ORIGIN, "missing ORIGIN", classic || reach),
        (code::AS_PATH, "missing AS_PATH", classic || reach),
        (code::NEXT_HOP, "missing NEXT_HOP", classic),
    ];
    for (code, what, needed) in needed {
        if needed && !parts.seen.contains(&code) {
            parts.find(Finding { attribute: code, what, action: Action::TreatAsWithdraw });
        }
    }
}

/// Each prefix of an NLRI field; `None` when one is longer than an address or than the field. RFC 7606 §5.3.
fn walk(family: Family, mut field: &[u8], mut each: impl FnMut(IpNet)) -> Option<()> {
    while let Some((len, rest)) = field.split_first() {
        let (bytes, rest) = rest.split_at_checked(usize::from(*len).div_ceil(8))?;
        let address = match family {
            Family::Ipv4 => IpAddr::from(padded::<4>(bytes)?),
            Family::Ipv6 => IpAddr::from(padded::<16>(bytes)?),
        };
        // Bits beyond the length have no meaning: RFC 4271 §4.3.
        each(IpNet::new(address, *len).ok()?.trunc());
        field = rest;
    }
    Some(())
}

fn padded<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut octets = [0; N];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(octets)
}

#[cfg(test)]
mod tests;
