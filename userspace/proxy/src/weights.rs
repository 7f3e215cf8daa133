//! What share of its weight each server gets just now: what its agent asks for, and less while it has only just come up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use weir_core::{balance::slow_start, health::HealthView};
use weir_model::{Admin, Name, Snapshot, status::Health};

/// Pool and server.
type Key = (Name, Name);

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// What agents ask for, in hundredths, where that is not all.
    agents: BTreeMap<Key, u32>,
    /// When servers came up that have not got all of their weight yet.
    since: BTreeMap<Key, Instant>,
    /// Servers that joined a running proxy and were not seen up yet.
    joined: BTreeSet<Key>,
}

impl Weights {
    /// Follows a change of the configuration; `before` is what was in force until then, nothing when the proxy starts.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, before: &Snapshot, now: Instant) {
        let is_start = before.servers.is_empty();
        let is_checked = |pool: &Name| snapshot.pools.get(pool).is_some_and(|pool| pool.check.is_some());
        let mut members = BTreeSet::new();
        for (name, server) in &snapshot.servers {
            for pool in &server.pools {
                let key = (pool.clone(), name.clone());
                let old = before.servers.get(name).filter(|old| old.pools.contains(pool));
                let is_new = old.is_none_or(|old| old.address != server.address);
                let is_back =
                    old.is_some_and(|old| old.admin != Admin::Active && server.admin == Admin::Active);
                if !is_start && is_new && is_checked(pool) {
                    self.joined.insert(key.clone());
                } else if !is_start && (is_new || is_back) {
                    self.since.insert(key.clone(), now);
                }
                members.insert(key);
            }
        }
        self.joined.retain(|key| members.contains(key) && is_checked(&key.0));
        self.since.retain(|key, _| members.contains(key));
        self.agents.retain(|key, _| members.contains(key) && is_checked(&key.0));
    }

    /// Notes what a check has found.
    pub(crate) fn note(&mut self, key: Key, from: Health, to: Health, agent_percent: u32, now: Instant) {
        match (from, to) {
            (Health::Up, Health::Up) => {}
            (Health::Unknown, Health::Up) if !self.joined.remove(&key) => {}
            (_, Health::Up) => {
                self.since.insert(key.clone(), now);
            }
            (_, Health::Down | Health::Draining | Health::Unknown) => {
                self.since.remove(&key);
            }
        }
        if agent_percent == 100 {
            self.agents.remove(&key);
        } else {
            self.agents.insert(key, agent_percent);
        }
    }

    /// Tells `health` what each server gets now.
    pub(crate) fn tell(&mut self, health: &mut HealthView, snapshot: &Snapshot, now: Instant) {
        health.reset_weights();
        for ((pool, server), agent) in &self.agents {
            health.set_weight(pool, server, (*agent).max(1));
        }
        self.since.retain(|(pool, server), since| {
            let slow_start = snapshot.pools.get(pool).and_then(|pool| pool.slow_start);
            let share = slow_start.map_or(100, |slow| slow_start::share_percent(now - *since, slow));
            if share < 100 {
                health.set_weight(pool, server, (health.weight(pool, server) * share / 100).max(1));
            }
            share < 100
        });
    }

    /// When some share next changes.
    pub(crate) fn next_step(&self, snapshot: &Snapshot, now: Instant) -> Option<Instant> {
        let next = |(key, since): (&Key, &Instant)| {
            let slow = snapshot.pools.get(&key.0)?.slow_start?;
            slow_start::next_step(now - *since, slow).map(|next| *since + next)
        };
        self.since.iter().filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn snapshot(servers: &[&str]) -> Snapshot {
        let mut text =
            "[zone.z]\n[pool.p]\nslow_start = \"10s\"\ncheck = { kind = \"tcp\" }\n[pool.q]\nslow_start = \"10s\"\n"
                .to_owned();
        for (n, server) in servers.iter().enumerate() {
            text += &format!(
                "[server.{server}]\npools = [\"p\", \"q\"]\naddress = \"10.0.0.{}:80\"\nzone = \"z\"\n",
                n + 1
            );
        }
        Snapshot::read(&[weir_model::SourceFile { path: "t.toml".into(), text }]).unwrap()
    }

    #[test]
    fn who_comes_up_or_joins_begins_slowly_and_who_was_there_at_the_start_does_not() {
        let (mut weights, mut view) = (Weights::default(), HealthView::default());
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let key = |pool: &str, server: &str| (pool.parse::<Name>().unwrap(), server.parse::<Name>().unwrap());
        let one = snapshot(&["s1"]);
        weights.follow(&one, &Snapshot::default(), start);
        weights.note(key("p", "s1"), Health::Unknown, Health::Up, 100, start);
        weights.tell(&mut view, &one, start);
        let get = |view: &HealthView, pool, server| {
            let (pool, server) = key(pool, server);
            view.weight(&pool, &server)
        };
        assert_eq!((get(&view, "p", "s1"), get(&view, "q", "s1")), (100, 100));
        assert_eq!(weights.next_step(&one, start), None);

        // One joins: at once where nothing is checked, once it is up where it is.
        let two = snapshot(&["s1", "s2"]);
        weights.follow(&two, &one, at(10));
        weights.tell(&mut view, &two, at(12));
        assert_eq!((get(&view, "p", "s2"), get(&view, "q", "s2"), get(&view, "q", "s1")), (100, 20, 100));
        weights.note(key("p", "s2"), Health::Unknown, Health::Up, 50, at(12));
        weights.tell(&mut view, &two, at(17));
        assert_eq!((get(&view, "p", "s2"), get(&view, "q", "s2")), (25, 70), "the agent wants one half");
        assert_eq!(weights.next_step(&two, at(17)), Some(at(17) + Duration::from_millis(200)));
        // One dies and returns.
        weights.note(key("p", "s1"), Health::Up, Health::Down, 100, at(20));
        weights.note(key("p", "s1"), Health::Down, Health::Up, 100, at(21));
        weights.tell(&mut view, &two, at(21));
        assert_eq!((get(&view, "p", "s1"), get(&view, "p", "s2")), (10, 45));
        weights.tell(&mut view, &two, at(40));
        assert_eq!((get(&view, "p", "s1"), get(&view, "p", "s2")), (100, 50));
        assert_eq!(weights.next_step(&two, at(40)), None);
        // And one that an operator had taken out.
        let mut drained = two.clone();
        drained.servers.get_mut("s1").unwrap().admin = Admin::Drain;
        weights.follow(&drained, &two, at(50));
        weights.follow(&two, &drained, at(60));
        weights.tell(&mut view, &two, at(62));
        assert_eq!((get(&view, "p", "s1"), get(&view, "q", "s1")), (20, 20));
    }
}
