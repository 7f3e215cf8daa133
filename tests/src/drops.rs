//! Where the kernel drops packets without anybody of ours deciding it: full rings of interfaces, full buffers of sockets, full
//! backlogs of CPUs. What was lost and is in none of these counters is ours.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use weir_lab::netns::NetNs;

/// Counters by the name of their place and what they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<String, u64>);

impl Drops {
    /// Reads those of some namespaces, and of the CPUs of this machine.
    pub fn read<'a>(namespaces: impl Iterator<Item = &'a NetNs>) -> Result<Self> {
        let mut drops = BTreeMap::new();
        for netns in namespaces {
            let read = |file: &str| {
                // The thread's own entry: /proc/net is the main thread's.
                fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                    .with_context(|| format!("read {file}"))
            };
            let (dev, snmp, snmp6) = netns.run(|| Ok((read("dev")?, read("snmp")?, read("snmp6")?)))?;
            let place = netns.name().rsplit('-').next().unwrap_or_default();
            for (interface, [received, sent]) in of_interfaces(&dev) {
                drops.insert(format!("{place} {interface} receive"), received);
                drops.insert(format!("{place} {interface} send"), sent);
            }
            for (socket, count) in [("udp4", of_sockets4(&snmp)), ("udp6", of_sockets6(&snmp6))] {
                drops.insert(format!("{place} {socket} buffer"), count.context("no counter of UDP sockets")?);
            }
        }
        let softnet = fs::read_to_string("/proc/net/softnet_stat").context("read softnet_stat")?;
        let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
        drops.insert("backlog of the CPUs".into(), softnet.lines().filter_map(dropped).sum());
        Ok(Self(drops))
    }

    /// What was dropped since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let more = |(name, count): (&String, &u64)| {
            let more = count - before.0.get(name).copied().unwrap_or(0).min(*count);
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …`
fn of_interfaces(dev: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    dev.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        Some((name.trim(), [*counters.get(3)?, *counters.get(11)?]))
    })
}

/// A line of names, then a line of numbers.
fn of_sockets4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Udp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "RcvbufErrors")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

/// A name and a number in each line.
fn of_sockets6(snmp6: &str) -> Option<u64> {
    let line = snmp6.lines().find(|line| line.starts_with("Udp6RcvbufErrors"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
