//! Who may come: access lists and the rates of new connections, looked at once per packet, where it comes from the wire.

use weir_abi::{
    counters::Reason,
    guard::{ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, Guard, LIST_DEFAULT, Source},
    limits::{ACCESS_ENDED_MAX, SYN_BURST_NS},
    rate,
    service::{SERVICE_ACCESS, SERVICE_SOURCE_LIMIT, SERVICE_SYN_RATE},
};

use super::{
    Kind, Packet, Verdict,
    trace::{Stage, called},
};

impl Packet<'_> {
    /// Lets the packet in or says why not.
    pub(super) fn admit(&mut self) -> Verdict<()> {
        let guarded = self.image.config.guarded;
        if guarded == 0 {
            return Ok(());
        }
        // A ping is for the address, for none of its services.
        let flags = if self.parsed.kind == Kind::Echo { 0 } else { self.flags() };
        if guarded & GUARDED_ACCESS != 0 {
            let own = (flags & SERVICE_ACCESS != 0).then(|| self.guard());
            self.look_up_access(own)?;
        }
        if self.parsed.kind != Kind::Syn {
            return Ok(());
        }
        let guard = self.guard();
        if flags & SERVICE_SOURCE_LIMIT != 0 {
            let is_within = self.is_within_source_rate(&guard);
            self.tell_rate(is_within, "the source", guard.source_interval_ns, Some(guard.source_burst));
            if !is_within {
                return Err(Reason::DropSourceLimit);
            }
        }
        if flags & SERVICE_SYN_RATE != 0 {
            let now = self.host.now_ns;
            let [_, due] = self.host.rates.syns(self.parsed.service);
            let is_within = rate::admits(due, now, guard.syn_interval_ns.into(), SYN_BURST_NS);
            self.tell_rate(is_within, "the service, on this CPU", guard.syn_interval_ns, None);
            if !is_within {
                return Err(Reason::DropSynRate);
            }
        }
        Ok(())
    }

    /// How the packet's service is protected.
    pub(super) fn guard(&self) -> Guard {
        self.image.guards.get(&self.parsed.service).copied().unwrap_or_default()
    }

    /// The longest prefix that holds the source decides, be it of the VIP's lists or of those of all VIPs; of equals, the
    /// VIP's.
    fn look_up_access(&mut self, own: Option<Guard>) -> Verdict<()> {
        let all = self.rule_of(0);
        let of_vip = own.and_then(|guard| self.rule_of(guard.scope));
        let rule = match (all, of_vip) {
            (Some(all), Some(of_vip)) if of_vip.len_bits < all.len_bits => Some(all),
            (all, of_vip) => of_vip.or(all),
        };
        let is_closed = own.is_some_and(|guard| guard.only_allowed != 0);
        let list = match rule {
            Some(rule) if rule.action == ACCESS_BLOCK => Some(rule.list),
            None if is_closed => Some(LIST_DEFAULT),
            _ => None,
        };
        let source = self.parsed.flow.source;
        self.trace.step(Stage::Access, |names| {
            let why = match rule {
                Some(rule) => {
                    let len = i16::from(rule.len_bits) - if source.is_v4() { 96 } else { 0 };
                    format!("access list {} says so of its /{len}", rule.list)
                }
                None if is_closed => "only sources of a list may come".into(),
                None => "no access list names it".into(),
            };
            let decision = if list.is_some() { "blocked" } else { "may come" };
            (format!("{} {decision}", called(names, &source)), why)
        });
        self.blocked_by = list;
        list.map_or(Ok(()), |_| Err(Reason::DropBlocked))
    }

    /// What the longest prefix of `scope` says that holds the source and has not ended, looking behind few that have.
    fn rule_of(&self, scope: u32) -> Option<AccessRule> {
        let source = Source::new(scope, self.parsed.flow.source);
        let access = &self.image.access;
        let mut holding: Vec<_> = access.iter().filter(|(prefix, _)| prefix.holds(&source)).collect();
        holding.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len_bits));
        let looked_at = holding.into_iter().take(ACCESS_ENDED_MAX as usize);
        looked_at.map(|(_, rule)| *rule).find(|rule| rule.holds(self.host.boot_s))
    }

    /// Whether the source may open one more connection to the VIP: an IPv4 address, or an IPv6 network of 64 bits.
    fn is_within_source_rate(&mut self, guard: &Guard) -> bool {
        let mut source = Source::new(guard.scope, self.parsed.flow.source);
        if !self.parsed.is_v4 {
            (source.address.0[2], source.address.0[3]) = (0, 0);
        }
        let (now, interval) = (self.host.now_ns, u64::from(guard.source_interval_ns));
        let burst = rate::burst_ns(guard.source_interval_ns, guard.source_burst);
        rate::admits(self.host.rates.source(source), now, interval, burst)
    }

    fn tell_rate(&mut self, is_within: bool, whose: &str, interval_ns: u32, burst: Option<u32>) {
        self.trace.step(Stage::Rate, |_| {
            let decision = if is_within { "may open a connection" } else { "opens too many connections" };
            let per_second = 1e9 / f64::from(interval_ns.max(1));
            let burst = burst.map(|burst| format!(", {burst} at once")).unwrap_or_default();
            (decision.into(), format!("{whose} may open {per_second:.1} a second{burst}"))
        });
    }
}
