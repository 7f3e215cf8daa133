//! VLAN tags (802.1Q, and two of them: 802.1ad): taken off at the door and put back on whatever leaves.
//!
//! So nothing else knows of them, and a tunnel leaves in the VLAN its packet came from. More than two are not looked
//! behind. A card that takes tags off itself leaves nothing to do here, but then hides them from XDP: turn that off
//! (`ethtool -K … rxvlan off`) where packets shall leave tagged.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use weir_abi::{counters::Reason, headers::Eth};

use crate::{Verdict, packet, work::Work};

/// 802.1Q.
const CUSTOMER: [u8; 2] = [0x81, 0x00];
/// 802.1ad.
const SERVICE: [u8; 2] = [0x88, 0xa8];
/// EtherType of the tag and its content.
const TAG_LEN: usize = 4;

/// Tags of a frame, the outermost first.
pub(crate) struct Tags {
    /// How many there are.
    pub(crate) count: u32,
    tags: [[u16; 2]; 2],
}

/// Whether an EtherType announces a tag.
#[inline(always)]
pub(crate) fn is_tag(ethertype: [u8; 2]) -> bool {
    ethertype == CUSTOMER || ethertype == SERVICE
}

/// Takes the tags off a frame that begins with one.
#[inline(never)]
pub(crate) fn take_off(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = take(ctx, &mut work.tags);
    work.settle(verdict)
}

#[inline(always)]
fn take(ctx: &XdpContext, tags: &mut Tags) -> Verdict<()> {
    let mut eth: Eth = packet::read(ctx, 0)?;
    // Behind each EtherType: what the tag says, then the next EtherType.
    let [content, next]: [u16; 2] = packet::read(ctx, size_of::<Eth>())?;
    tags.tags[0] = [u16::from_ne_bytes(eth.ethertype), content];
    eth.ethertype = next.to_ne_bytes();
    let mut count = 1;
    if is_tag(eth.ethertype) {
        let [content, next]: [u16; 2] = packet::read(ctx, size_of::<Eth>() + TAG_LEN)?;
        tags.tags[1] = [u16::from_ne_bytes(eth.ethertype), content];
        eth.ethertype = next.to_ne_bytes();
        count = 2;
    }
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, (count * TAG_LEN) as i32) } != 0 {
        return Err(Reason::DropMalformed);
    }
    tags.count = count as u32;
    packet::write(ctx, 0, eth)
}

/// Puts the tags that were taken off in front of whatever the frame has become.
#[inline(never)]
pub(crate) fn put_back(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = put(ctx, &work.tags);
    work.settle(verdict)
}

#[inline(always)]
fn put(ctx: &XdpContext, tags: &Tags) -> Verdict<()> {
    let eth: Eth = packet::read(ctx, 0)?;
    let len = if tags.count == 2 { 2 * TAG_LEN } else { TAG_LEN };
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(len as i32)) } != 0 {
        return Err(Reason::DropHeadroom);
    }
    let ethertype_at = size_of::<Eth>() - 2;
    packet::write(ctx, 0, eth)?;
    packet::write(ctx, ethertype_at, tags.tags[0])?;
    if tags.count == 2 {
        packet::write(ctx, ethertype_at + TAG_LEN, tags.tags[1])?;
        packet::write(ctx, ethertype_at + 2 * TAG_LEN, eth.ethertype)
    } else {
        packet::write(ctx, ethertype_at + TAG_LEN, eth.ethertype)
    }
}
