//! Live connections over a thousand backends, a tenth of which is replaced in steps close together, while a balancer
//! restarts: the real snapshots, tables and phases, and the datapath reduced to "the owner, else the second hop".
//!
//! `WEIR_FLOWS=1000000 cargo test --release -p weir-core --test flows -- --nocapture` for more connections, and numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use proptest::prelude::*;
use weir_abi::{limits::TABLE_LEN, service::Slot};
use weir_core::{
    hash,
    health::HealthView,
    image::{FLIP_DRAIN, Image, Lowering, TableHistory, lower, memory},
};
use weir_model::{Name, Snapshot, SourceFile, status::Health};

const BACKENDS: usize = 1_000;
const BALANCERS: usize = 2;
/// As in the default of `flow_hold`.
const FLOW_HOLD: Duration = Duration::from_secs(3_600);
/// Balancers read a change so much later than the first.
const LAG: Duration = Duration::from_millis(20);

/// What the operator has written: the first backends are there from the beginning.
#[derive(Clone)]
struct Written {
    members: BTreeSet<usize>,
    drained: BTreeSet<usize>,
    /// Of those that do not have 100.
    weights: BTreeMap<usize, u32>,
}

impl Written {
    fn new(backends: usize) -> Self {
        Self { members: (0..backends).collect(), drained: BTreeSet::new(), weights: BTreeMap::new() }
    }

    fn snapshot(&self) -> Snapshot {
        let mut text = String::from("[zone.az1]\n");
        for node in &self.members {
            let admin = if self.drained.contains(node) { "drain" } else { "active" };
            let weight = self.weights.get(node).copied().unwrap_or(100);
            text += &format!(
                "[node.n{node}]\nzone = \"az1\"\naddress = \"10.9.{}.{}\"\nadmin = \"{admin}\"\nweight = {weight}\n",
                node / 200,
                node % 200 + 1
            );
        }
        let members: Vec<_> = self.members.iter().map(|node| format!("\"n{node}\"")).collect();
        text += &format!("[group.edge]\nnodes = [{}]\n", members.join(","));
        text += "[vip.web]\naddresses = [\"198.51.100.10\"]\ngroup = \"edge\"\nservices = [\"tcp/443\"]\n";
        Snapshot::read(&[SourceFile { path: "test.toml".into(), text }]).expect("valid")
    }
}

fn health(written: &Written) -> BTreeMap<Name, Health> {
    written.members.iter().map(|node| (name(*node), Health::Up)).collect()
}

fn name(node: usize) -> Name {
    format!("n{node}").parse().expect("name")
}

struct Balancer {
    node: Name,
    image: Image,
    history: BTreeMap<u32, TableHistory>,
    wake: Option<Duration>,
    /// Rows as (owner, second hop) by number of the node.
    rows: Vec<(usize, usize)>,
}

impl Balancer {
    fn look(&mut self, snapshot: &Snapshot, health: &BTreeMap<Name, Health>, now: Duration) {
        let (node, current, history) = (&self.node, &self.image, &self.history);
        let lingering = BTreeMap::new();
        let (lingering, servers) = (&lingering, &HealthView::default());
        let input = Lowering { snapshot, node, health, servers, current, history, now, lingering };
        let lowered = lower(input).expect("lowered");
        (self.image, self.history, self.wake) = (lowered.image, lowered.history, lowered.wake);
        let host = |slot: u16| match self.image.backends.get(&slot).map(|b| IpAddr::from(b.address)) {
            Some(IpAddr::V4(v4)) => usize::from(v4.octets()[2]) * 200 + usize::from(v4.octets()[3]) - 1,
            _ => usize::MAX,
        };
        let words = self.image.tables.values().next().expect("a table");
        let rows = words.iter().map(|word| Slot::unpack(*word));
        self.rows = rows.map(|row| (host(row.owner), host(row.previous))).collect();
    }
}

struct Flow {
    slot: usize,
    host: usize,
    /// How many changes had been made when it was opened.
    opened_in: usize,
}

#[derive(Default, Debug)]
struct Broken {
    /// Opened before the first change.
    old: usize,
    /// Opened between changes, in rows that changed more than once.
    young: usize,
    /// Opened between changes, in rows that changed once or never.
    once: usize,
}

struct World {
    balancers: Vec<Balancer>,
    flows: Vec<Flow>,
    opened: usize,
    broken: Broken,
    random: u64,
    now: Duration,
    changes: usize,
    /// Per row: how often its wished owner changed.
    changed: Vec<usize>,
    wished: Vec<usize>,
}

impl World {
    /// Balancers that have long been there, with as many flows.
    fn new(written: &Written, flows: usize) -> Self {
        let mut world = Self {
            balancers: Vec::new(),
            flows: Vec::new(),
            opened: 0,
            broken: Broken::default(),
            random: 1,
            now: Duration::ZERO,
            changes: 0,
            changed: vec![0; TABLE_LEN],
            wished: Vec::new(),
        };
        let (snapshot, health) = (written.snapshot(), health(written));
        for node in 0..BALANCERS {
            let (image, history) = (Image::default(), BTreeMap::new());
            let mut balancer = Balancer { node: name(node), image, history, wake: None, rows: Vec::new() };
            balancer.look(&snapshot, &health, Duration::ZERO);
            balancer.look(&snapshot, &health, Duration::from_secs(4_000));
            assert!(balancer.rows.iter().all(|(_, second)| *second == usize::MAX));
            world.balancers.push(balancer);
        }
        world.now = Duration::from_secs(5_000);
        world.wished = world.balancers[0].rows.iter().map(|(owner, _)| *owner).collect();
        world.open(flows);
        world.opened = 0;
        world
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(1);
        hash::mix(self.random) as usize % below
    }

    /// SYNs through all balancers.
    fn open(&mut self, count: usize) {
        for _ in 0..count {
            let (slot, balancer) = (self.draw(TABLE_LEN), self.draw(BALANCERS));
            let host = self.balancers[balancer].rows[slot].0;
            self.flows.push(Flow { slot, host, opened_in: self.changes });
        }
        self.opened += count;
    }

    /// A packet of every flow through every balancer.
    fn send(&mut self) {
        let (balancers, broken, changed) = (&self.balancers, &mut self.broken, &self.changed);
        self.flows.retain(|flow| {
            let arrives = balancers.iter().all(|balancer| {
                let (owner, second) = balancer.rows[flow.slot];
                owner == flow.host || second == flow.host
            });
            if !arrives {
                *match (flow.opened_in, changed[flow.slot]) {
                    (0, _) => &mut broken.old,
                    (_, 0 | 1) => &mut broken.once,
                    _ => &mut broken.young,
                } += 1;
            }
            arrives
        });
    }

    /// One change of the configuration, and the time until the next; flows are opened in every state.
    fn change(&mut self, written: &Written, until_next: Duration, restart: Option<usize>) -> Vec<usize> {
        let (snapshot, health) = (written.snapshot(), health(written));
        self.changes += 1;
        let until = self.now + until_next;
        let mut due: Vec<_> = (0..BALANCERS).map(|number| Some(self.now + LAG * number as u32)).collect();
        if let Some(number) = restart {
            // It comes back with another configuration than it died with.
            let balancer = &mut self.balancers[number];
            let bytes = memory::encode(&balancer.history, &balancer.image.tables);
            balancer.history = memory::decode(&bytes, &balancer.image.tables, self.now);
        }
        // What all will come to.
        let mut fresh = Balancer {
            node: name(0),
            image: Image::default(),
            history: BTreeMap::new(),
            wake: None,
            rows: Vec::new(),
        };
        fresh.look(&snapshot, &health, Duration::ZERO);
        let wished: Vec<_> = fresh.rows.iter().map(|(owner, _)| *owner).collect();
        for (row, changed) in self.changed.iter_mut().enumerate() {
            *changed += usize::from(wished[row] != self.wished[row]);
        }
        let before = std::mem::replace(&mut self.wished, wished);
        while let Some((at, number)) =
            due.iter().enumerate().filter_map(|(number, at)| Some(((*at)?, number))).min()
            && at < until
        {
            self.now = at;
            self.balancers[number].look(&snapshot, &health, at);
            due[number] = self.balancers[number].wake;
            self.open(500);
            self.send();
        }
        self.now = until;
        before
    }
}

fn flows() -> usize {
    std::env::var("WEIR_FLOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

#[test]
fn no_connection_breaks_while_a_tenth_of_a_thousand_backends_is_replaced_in_steps_and_a_balancer_restarts() {
    const STEPS: usize = 5;
    let mut written = Written::new(BACKENDS);
    let mut world = World::new(&written, flows());
    let (mut needed, mut moved) = (0, 0);
    for step in 0..STEPS {
        let each = BACKENDS / 10 / STEPS;
        let (out, come) = (100 + step * each, BACKENDS + step * each);
        written.drained.extend(out..out + each);
        written.members.extend(come..come + each);
        let restart = (step == 2).then_some(1);
        let before = world.change(&written, Duration::from_secs(10), restart);
        for (before, after) in before.iter().zip(&world.wished).filter(|(before, after)| before != after) {
            moved += 1;
            needed += usize::from((out..out + each).contains(before) || (come..come + each).contains(after));
        }
    }
    let twice = world.changed.iter().filter(|changed| **changed > 1).count();
    println!(
        "{} connections before, {} opened meanwhile: {:?}; rows moved {moved}, of these needed {needed}; {twice} rows \
         changed more than once",
        flows(),
        world.opened,
        world.broken
    );
    assert_eq!(world.broken.old, 0);
    assert_eq!(world.broken.once, 0);
    // What was opened between two changes of a row is at an owner the row has no room for.
    assert!(world.broken.young * 20 < world.opened, "{:?} of {}", world.broken, world.opened);
    // Both have come to the same owners, whichever of them restarted.
    let owners = |balancer: &Balancer| balancer.rows.iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(owners(&world.balancers[0]), owners(&world.balancers[1]));
    assert_eq!(owners(&world.balancers[0]), world.wished);
}

#[test]
fn one_change_at_a_time_breaks_nothing_at_all() {
    let mut written = Written::new(BACKENDS);
    let mut world = World::new(&written, flows() / 4);
    let changes: [fn(&mut Written); 3] = [
        |written| written.drained.extend(500..530),
        |written| written.members.extend(BACKENDS..BACKENDS + 30),
        |written| written.weights.extend((0..BACKENDS).step_by(10).map(|node| (node, 50))),
    ];
    for change in changes {
        change(&mut written);
        world.change(&written, FLIP_DRAIN * 100, None);
        assert_eq!((world.broken.old, world.broken.young, world.broken.once), (0, 0, 0));
        // Everybody hangs up before the next.
        world = World::new(&written, flows() / 4);
    }
}

/// What an operator may do to one of a few backends.
#[derive(Clone, Copy, Debug)]
enum Act {
    Drain(usize),
    Undrain(usize),
    Weight(usize, u32),
    Add(usize),
    Restart(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let node = 0usize..10;
    prop_oneof![
        3 => node.clone().prop_map(Act::Drain),
        3 => node.clone().prop_map(Act::Undrain),
        3 => (node.clone(), 1u32..=200).prop_map(|(node, weight)| Act::Weight(node, weight)),
        1 => node.prop_map(Act::Add),
        1 => (0..BALANCERS).prop_map(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn drains_weights_and_additions_in_any_order_break_no_flow_opened_before_them(
        acts in prop::collection::vec((act(), 50u64..3_000), 1..12),
    ) {
        let mut written = Written::new(7);
        let mut world = World::new(&written, 20_000);
        for (act, gap_ms) in acts {
            let mut restart = None;
            match act {
                Act::Drain(node) => _ = written.drained.insert(node),
                Act::Undrain(node) => _ = written.drained.remove(&node),
                Act::Weight(node, weight) => _ = written.weights.insert(node, weight),
                Act::Add(node) => _ = written.members.insert(node),
                Act::Restart(balancer) => restart = Some(balancer),
            }
            world.change(&written, Duration::from_millis(gap_ms), restart);
        }
        prop_assert_eq!((world.broken.old, world.broken.once), (0, 0), "{:?}", world.broken);
        // In the end there is one table, the same for all, without memories.
        world.change(&written, FLOW_HOLD * 2, None);
        for balancer in &world.balancers {
            let settled = |(row, wished): (&(usize, usize), &usize)| *row == (*wished, usize::MAX);
            prop_assert!(balancer.rows.iter().zip(&world.wished).all(settled));
            prop_assert_eq!(balancer.wake, None);
        }
    }
}
