//! Protection of VIPs → the entries of [`Image`](super::Image) that hold it: access lists, rates, cookies.
//!
//! Entries of the moment are in no file: they are kept from what is in the kernel until they end, and survive a restart so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use weir_abi::{
    Address,
    guard::{
        ACCESS_ALLOW, ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, GUARDED_RATES, Guard, LIST_FIRST,
        LIST_MOMENT, SOURCE_SCOPE_BITS, Source, SourcePrefix,
    },
    limits::{ACCESS_LISTS_MAX, ACCESS_MAX},
    service::{PROTO_TCP, SERVICE_ACCESS, SERVICE_SOURCE_LIMIT, SERVICE_SYN_COOKIES, SERVICE_SYN_RATE},
};
use weir_model::{AccessAction, Name, Rate, Vip};

use super::{
    Image,
    lower::{LowerError, Lowered, Lowering, bound, lowest_free},
    mss,
};

/// Entries of the moment at once.
pub const MOMENT_MAX: usize = 16_384;
/// Entries in files, once for each VIP they are for: half of the room the others leave, so that lists can be exchanged for
/// others while the old ones are still there.
pub const LISTED_MAX: u32 = (ACCESS_MAX - MOMENT_MAX as u32) / 2;
/// The end of an entry is kept when the clocks say it differs by no more than this: they are two, and never quite agree.
const END_TOLERANCE_S: u32 = 2;

/// Adds protection to what was lowered: flags of services, guards, access entries. `wall` is the time that `input.now`, the time
/// since the boot, stands for.
pub fn guards(input: &Lowering<'_>, wall: SystemTime, lowered: &mut Lowered) -> Result<(), LowerError> {
    let vips = vips(input, &lowered.image);
    let lists = numbers(input, &vips)?;
    let mut entries = Entries { input, wall, access: BTreeMap::new(), wake: None };
    let mut closed = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for (number, name) in &lists {
        let list = &input.snapshot.access[*name];
        for vip in &list.vips {
            // Others are not here.
            let Some(found) = vips.get(vip) else { continue };
            if list.default == AccessAction::Block {
                closed.insert(vip);
            }
            listed.insert(vip);
            entries.list(*number, list, found.scope);
        }
        if list.vips.is_empty() {
            entries.list(*number, list, 0);
        }
    }
    bound("entries of access lists", entries.access.len(), LISTED_MAX)?;
    entries.keep_moment();
    let image = &mut lowered.image;
    for (name, found) in &vips {
        protect(found, listed.contains(name), closed.contains(name), image);
    }
    let flags = image.services.values().fold(0, |flags, service| flags | service.flags);
    if !entries.access.is_empty() || !closed.is_empty() {
        image.config.guarded |= GUARDED_ACCESS;
    }
    if flags & (SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE) != 0 {
        image.config.guarded |= GUARDED_RATES;
    }
    lowered.wake = [lowered.wake, entries.wake].into_iter().flatten().min();
    lowered.image.access = entries.access;
    lowered.lists = lists.into_iter().map(|(number, name)| (number, name.clone())).collect();
    Ok(())
}

/// A VIP of this node in the image.
struct Found<'a> {
    vip: &'a Vip,
    /// Its services, and whether they are TCP.
    services: BTreeMap<u32, bool>,
    /// Its number: one more than that of its first service, so nobody else's.
    scope: u32,
}

fn vips<'a>(input: &Lowering<'a>, image: &Image) -> BTreeMap<&'a Name, Found<'a>> {
    let mut owners: BTreeMap<Address, (&Name, &Vip)> = BTreeMap::new();
    // Lingering ones first: an address that went over to another VIP is that one's.
    for (name, vip) in input.lingering.iter().chain(input.snapshot.vips_served_by(input.node)) {
        owners.extend(vip.addresses.iter().map(|address| (Address::from(*address), (name, vip))));
    }
    let mut found: BTreeMap<&Name, Found<'_>> = BTreeMap::new();
    let mut note = |address: &Address, protocol: u8, service: u32| {
        let Some((name, vip)) = owners.get(address) else { return };
        let entry = found.entry(name);
        let entry = entry.or_insert_with(|| Found { vip, services: BTreeMap::new(), scope: u32::MAX });
        entry.services.insert(service, protocol == PROTO_TCP);
        entry.scope = entry.scope.min(service + 1);
    };
    for (key, service) in &image.vips {
        note(&key.address, key.protocol, *service);
    }
    for (key, ranges) in &image.ranges {
        for range in ranges.ranges.iter().take(ranges.count as usize) {
            note(&key.address, key.protocol, range.service);
        }
    }
    found
}

fn protect(found: &Found<'_>, is_listed: bool, is_closed: bool, image: &mut Image) {
    let vip = found.vip;
    let mut guard = Guard { scope: found.scope, only_allowed: is_closed.into(), ..Guard::default() };
    let mut tcp = 0;
    if let Some(limit) = &vip.new_connections_per_source {
        tcp |= SERVICE_SOURCE_LIMIT;
        guard.source_interval_ns = Rate::per_second(limit.rate).interval_ns();
        guard.source_burst = limit.burst;
    }
    if vip.syn_protection.cookies {
        tcp |= SERVICE_SYN_COOKIES;
        guard.cookie_interval_ns = vip.syn_protection.cookies_above.interval_ns();
        (guard.mss4, guard.mss6) = mss::of_cookies(image, vip);
    }
    if let Some(max) = vip.syn_protection.max {
        tcp |= SERVICE_SYN_RATE;
        guard.syn_interval_ns = max.interval_ns();
    }
    let all = if is_listed { SERVICE_ACCESS } else { 0 };
    for (service, is_tcp) in &found.services {
        let flags = all | if *is_tcp { tcp } else { 0 };
        if flags != 0
            && let Some(service) = image.services.get_mut(service)
        {
            service.flags |= flags;
        }
        if flags != 0 {
            image.guards.insert(*service, guard);
        }
    }
}

/// The lists that matter here, each with the number its entries have in the kernel, or the lowest free.
fn numbers<'a>(
    input: &Lowering<'a>,
    vips: &BTreeMap<&Name, Found<'_>>,
) -> Result<BTreeMap<u16, &'a Name>, LowerError> {
    let current = &input.current.access;
    let mut numbers: BTreeMap<u16, &Name> = BTreeMap::new();
    let mut fresh = Vec::new();
    for (name, list) in &input.snapshot.access {
        let scopes = list.vips.iter().filter_map(|vip| vips.get(vip)).map(|found| found.scope);
        let scopes: Vec<u32> = if list.vips.is_empty() { vec![0] } else { scopes.collect() };
        if scopes.is_empty() {
            continue;
        }
        let there =
            list.entries.iter().flat_map(|entry| scopes.iter().map(|scope| prefix(*scope, entry.prefix)));
        let there = there.filter_map(|prefix| current.get(&prefix)).map(|rule| rule.list);
        match there.filter(|list| *list >= LIST_FIRST).find(|list| !numbers.contains_key(list)) {
            Some(number) => _ = numbers.insert(number, name),
            None => fresh.push(name),
        }
    }
    let used: BTreeSet<u16> = current.values().map(|rule| rule.list).collect();
    for name in fresh {
        let is_used = |number| {
            u16::try_from(number).is_ok_and(|number| used.contains(&number) || numbers.contains_key(&number))
        };
        let number = lowest_free("access lists", LIST_FIRST.into(), ACCESS_LISTS_MAX, is_used)?;
        numbers.insert(number as u16, name);
    }
    Ok(numbers)
}

/// The key of a prefix.
pub(super) fn prefix(scope: u32, net: IpNet) -> SourcePrefix {
    let net = net.trunc();
    let source = Source::new(scope, Address::from(net.addr()));
    SourcePrefix { len_bits: SOURCE_SCOPE_BITS + u32::from(address_bits(net)), source }
}

/// How many bits of an [`Address`] count.
fn address_bits(net: IpNet) -> u8 {
    match net {
        IpNet::V4(net) => net.prefix_len() + 96,
        IpNet::V6(net) => net.prefix_len(),
    }
}

struct Entries<'a> {
    input: &'a Lowering<'a>,
    wall: SystemTime,
    access: BTreeMap<SourcePrefix, AccessRule>,
    wake: Option<Duration>,
}

impl Entries<'_> {
    fn list(&mut self, number: u16, list: &weir_model::AccessList, scope: u32) {
        let action = match list.action {
            AccessAction::Block => ACCESS_BLOCK,
            AccessAction::Allow => ACCESS_ALLOW,
        };
        let wall = self.wall;
        for entry in list.entries.iter().filter(|entry| entry.is_active(wall)) {
            let key = prefix(scope, entry.prefix);
            let left = entry.until.and_then(|until| until.0.duration_since(self.wall).ok());
            let until_s = left.map_or(0, |left| {
                let until_s = end(self.input.now, left);
                let there = self.input.current.access.get(&key).map(|rule| rule.until_s);
                there.filter(|there| there.abs_diff(until_s) <= END_TOLERANCE_S).unwrap_or(until_s)
            });
            self.insert(
                key,
                AccessRule { until_s, list: number, action, len_bits: address_bits(entry.prefix) },
            );
        }
    }

    /// What is in no file and has not ended.
    fn keep_moment(&mut self) {
        for (key, rule) in moment(self.input.current) {
            if rule.holds(seconds(self.input.now)) && !self.access.contains_key(key) {
                self.insert(*key, *rule);
            }
        }
    }

    fn insert(&mut self, key: SourcePrefix, rule: AccessRule) {
        if rule.until_s != 0 {
            let ends = Duration::from_secs(rule.until_s.into());
            self.wake = [self.wake, Some(ends)].into_iter().flatten().min();
        }
        self.access.insert(key, rule);
    }
}

fn seconds(since_boot: Duration) -> u32 {
    u32::try_from(since_boot.as_secs()).unwrap_or(u32::MAX)
}

/// The second in which `left` from now is over, and not before.
fn end(now: Duration, left: Duration) -> u32 {
    let end = now.saturating_add(left);
    seconds(end).saturating_add(u32::from(end.subsec_nanos() != 0)).max(1)
}

/// Entries of the moment.
pub fn moment(image: &Image) -> impl Iterator<Item = (&SourcePrefix, &AccessRule)> {
    image.access.iter().filter(|(_, rule)| rule.list == LIST_MOMENT)
}

/// Why an entry of the moment is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    /// A file says otherwise.
    #[error("{0} is in an access list of the configuration")]
    Listed(IpNet),
    /// There are too many.
    #[error("there are {MOMENT_MAX} entries of the moment already")]
    Full,
    /// There is none to remove.
    #[error("{0} is blocked by no entry of the moment")]
    Absent(IpNet),
}

/// The entry that blocks `net` at all VIPs for `left` from now.
pub fn block(
    current: &Image,
    now: Duration,
    net: IpNet,
    left: Duration,
) -> Result<(SourcePrefix, AccessRule), AccessRefusal> {
    let key = prefix(0, net);
    match current.access.get(&key) {
        Some(rule) if rule.list != LIST_MOMENT => return Err(AccessRefusal::Listed(net)),
        None if moment(current).count() >= MOMENT_MAX => return Err(AccessRefusal::Full),
        _ => {}
    }
    let len_bits = address_bits(net);
    Ok((key, AccessRule { until_s: end(now, left), list: LIST_MOMENT, action: ACCESS_BLOCK, len_bits }))
}

/// The entry of the moment for `net`, to be removed.
pub fn unblock(current: &Image, net: IpNet) -> Result<SourcePrefix, AccessRefusal> {
    let key = prefix(0, net);
    match current.access.get(&key) {
        Some(rule) if rule.list == LIST_MOMENT => Ok(key),
        _ => Err(AccessRefusal::Absent(net)),
    }
}

/// The prefix of a key, as people write it.
pub fn net(key: &SourcePrefix) -> Option<IpNet> {
    let address = IpAddr::from(key.source.address);
    let beyond = SOURCE_SCOPE_BITS + if address.is_ipv4() { 96 } else { 0 };
    IpNet::new(address, u8::try_from(key.len_bits.checked_sub(beyond)?).ok()?).ok()
}

#[cfg(test)]
mod tests;
