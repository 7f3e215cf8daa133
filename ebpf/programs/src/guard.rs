//! Who may come: access lists and the rates of new connections, looked at once per packet, where it comes from the wire and
//! before it is given to anybody. What comes by tunnel was looked at where it came in.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_ns},
    programs::XdpContext,
};
use weir_abi::{
    counters::Reason,
    guard::{
        ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, Guard, LIST_DEFAULT, SOURCE_BITS, SOURCE_SCOPE_BITS,
        Source, SourcePrefix,
    },
    limits::{ACCESS_ENDED_MAX, SYN_BURST_NS},
    rate,
    service::{SERVICE_ACCESS, SERVICE_SOURCE_LIMIT, SERVICE_SYN_RATE},
};

use crate::{
    Verdict, maps,
    work::{Kind, Work},
};

/// Lets the packet in or says why not. Costs one look at the configuration where nothing is guarded.
#[inline(always)]
pub(crate) fn admit(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    match maps::config() {
        Some(config) if config.guarded != 0 => look(ctx, work, config.guarded),
        _ => Ok(()),
    }
}

/// A program of its own, with a stack of its own.
#[inline(never)]
fn look(_: &XdpContext, work: &mut Work, guarded: u32) -> Verdict<()> {
    let verdict = judge(work, guarded);
    work.settle(verdict)
}

#[inline(always)]
fn judge(work: &mut Work, guarded: u32) -> Verdict<()> {
    // A ping is for the address, for none of its services.
    let service = if work.parsed.kind == Kind::Echo { None } else { Some(work.parsed.service) };
    let flags = service.map_or(0, maps::service_flags);
    let guard = match service {
        Some(service) if flags & (SERVICE_ACCESS | SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE) != 0 => {
            Some(maps::guard(service)?)
        }
        _ => None,
    };
    if guarded & GUARDED_ACCESS != 0 {
        access(work, guard.filter(|_| flags & SERVICE_ACCESS != 0))?;
    }
    if let (Some(guard), Kind::Syn) = (guard, work.parsed.kind) {
        // SAFETY: a plain helper call.
        let now = unsafe { bpf_ktime_get_ns() };
        if flags & SERVICE_SOURCE_LIMIT != 0 && !within_source_rate(work, guard, now) {
            return Err(Reason::DropSourceLimit);
        }
        if flags & SERVICE_SYN_RATE != 0 {
            let [_, due] = maps::syn_rates(work.parsed.service)?;
            if !rate::admits(due, now, u64::from(guard.syn_interval_ns), SYN_BURST_NS) {
                return Err(Reason::DropSynRate);
            }
        }
    }
    Ok(())
}

/// The longest prefix that holds the source decides, be it of the VIP's lists or of those of all VIPs; of equals, the VIP's.
#[inline(always)]
fn access(work: &mut Work, guard: Option<&Guard>) -> Verdict<()> {
    find(work, 0);
    let mut only_allowed = false;
    if let Some(guard) = guard {
        only_allowed = guard.only_allowed != 0;
        let all = work.rule;
        find(work, guard.scope);
        if work.rule.action == 0 || (all.action != 0 && work.rule.len_bits < all.len_bits) {
            work.rule = all;
        }
    }
    let list = match work.rule.action {
        ACCESS_BLOCK => work.rule.list,
        0 if only_allowed => LIST_DEFAULT,
        _ => return Ok(()),
    };
    maps::count_access_hit(list);
    Err(Reason::DropBlocked)
}

/// Writes down what the longest prefix in `scope` says that holds the source and has not ended.
#[inline(never)]
fn find(work: &mut Work, scope: u32) {
    work.rule = AccessRule::default();
    work.prefix = SourcePrefix { len_bits: SOURCE_BITS, source: Source::new(scope, work.parsed.flow.source) };
    for _ in 0..ACCESS_ENDED_MAX {
        let Some(rule) = maps::access(&work.prefix) else { return };
        if rule.holds(boot_s()) {
            work.rule = *rule;
            return;
        }
        // It hides what shorter prefixes say. (Of no bits at all, it asks for less than a scope, which nothing is.)
        work.prefix.len_bits = SOURCE_SCOPE_BITS + u32::from(rule.len_bits) - 1;
    }
}

#[inline(always)]
fn boot_s() -> u32 {
    // SAFETY: a plain helper call.
    (unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32
}

/// Whether the source may open one more connection to the VIP: an IPv4 address, or an IPv6 network of 64 bits.
#[inline(always)]
fn within_source_rate(work: &mut Work, guard: &Guard, now: u64) -> bool {
    let interval = u64::from(guard.source_interval_ns);
    let burst = rate::burst_ns(guard.source_interval_ns, guard.source_burst);
    work.prefix.source = Source::new(guard.scope, work.parsed.flow.source);
    if !work.parsed.is_v4 {
        (work.prefix.source.address.0[2], work.prefix.source.address.0[3]) = (0, 0);
    }
    if let Some(due) = maps::source_rate(&work.prefix.source) {
        // Two CPUs may admit one each where one was left: the limit is not that exact.
        return rate::admits(due, now, interval, burst);
    }
    maps::new_source(&work.prefix.source, now + interval);
    true
}
