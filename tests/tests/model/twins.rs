//! The loaded program and the model, side by side.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use weir_abi::counters::{REASONS, Reason};
use weir_core::{
    datapath::{self, Action, Host, Names},
    image::Image,
};
use weir_tests::prog_run::Balancer;

use crate::world::{Kernel, Node};

/// Clients told that a packet is too big before the program's bucket is filled again: less than it holds.
const TOLD_MAX: u64 = 50;
/// First fragments before all are forgotten: far less than the program remembers.
const FRAGMENTS_MAX: usize = 2_000;
/// The same of UDP flows.
const UDP_FLOWS_MAX: usize = 2_000;
/// The model's clock stands still: the rates of nodes are so slow that none lets another connection in within this time, and
/// both forget what they counted before. Of UDP flows, none ends.
const CLOCK_STANDS: Duration = Duration::from_secs(1);
/// Packets refused for a rate before the same: others shall come too.
const REFUSED_MAX: u32 = 32;

/// A node, twice.
pub(crate) struct Twins {
    node: &'static str,
    balancer: Balancer,
    image: Image,
    pub(crate) host: Host,
    ingress: u32,
    out: Vec<u8>,
    /// Packets by reason, as the model says: the program's counters must agree after each.
    reasons: Vec<u64>,
    traffic: BTreeMap<(u32, u16), u64>,
    /// Packets blocked by access list.
    blocked: BTreeMap<u16, u64>,
    refused: u32,
    rated_since: Instant,
    told: u64,
    packets: u64,
}

impl Twins {
    pub(crate) fn new(node: &Node, kernel: &Kernel) -> Self {
        let image = node.image();
        let mut balancer = Balancer::load(image.config).expect("load");
        balancer.put(&image).expect("maps");
        balancer.refill().expect("bucket");
        Self {
            node: node.name,
            balancer,
            image,
            host: kernel.host.clone(),
            ingress: kernel.ingress,
            out: Vec::new(),
            reasons: vec![0; REASONS.len()],
            traffic: BTreeMap::new(),
            blocked: BTreeMap::new(),
            refused: 0,
            rated_since: Instant::now(),
            told: 0,
            packets: 0,
        }
    }

    /// Sends a frame through both; panics with all there is to know when they differ. Returns what it was counted under.
    pub(crate) fn agree(&mut self, frame: &[u8], origin: &dyn std::fmt::Display) -> Reason {
        if self.refused >= REFUSED_MAX || self.rated_since.elapsed() > CLOCK_STANDS {
            self.forget_rates();
        }
        let action = self.balancer.run_on(self.ingress, frame, &mut self.out).expect("run");
        let fragments_before = self.host.fragments.len();
        // Only the kernel knows its secret; whether there is a cookie at all, the model must know.
        self.host.cookie = Some(datapath::sequence(&self.out));
        let model = datapath::run(&self.image, &mut self.host, frame);
        self.packets += 1;
        self.reasons[model.reason as usize] += 1;
        let counted = self.balancer.counted(model.reason).expect("counter");
        let same = counted == self.reasons[model.reason as usize]
            && action == number(model.action)
            // What a dropped frame has become is nobody's business.
            && (model.action == Action::Drop || self.out == model.frame);
        if !same {
            self.differ(frame, origin, action, &model);
        }
        if let Some(key) = model.counted {
            *self.traffic.entry(key).or_default() += 1;
        }
        if let Some(list) = model.blocked_by {
            *self.blocked.entry(list).or_default() += 1;
        }
        self.refused += u32::from(matches!(model.reason, Reason::DropSourceLimit | Reason::DropSynRate));
        let told = [Reason::IcmpTooBig, Reason::IcmpTunnelTooBig].contains(&model.reason);
        self.told += u64::from(told || !self.host.paths.is_empty());
        if !self.host.paths.is_empty() {
            // Not left to the program, which asks for paths only now and then.
            assert_eq!(
                self.balancer.take_paths().expect("paths"),
                self.host.paths,
                "{origin}: {}",
                hex(frame)
            );
            self.host.paths.clear();
        }
        if self.told >= TOLD_MAX {
            self.told = 0;
            self.balancer.refill().expect("bucket");
        }
        if self.host.fragments.len() > fragments_before.max(FRAGMENTS_MAX) {
            self.host.fragments.clear();
            self.balancer.forget_fragments().expect("fragments");
        }
        if self.host.udp_flows.len() > UDP_FLOWS_MAX {
            self.forget_udp_flows();
        }
        model.reason
    }

    /// Compares what both remember of UDP flows, and forgets it.
    fn forget_udp_flows(&mut self) {
        let mut seen = self.balancer.take_udp_flows().expect("flows");
        let mut said: Vec<_> = self.host.udp_flows.drain().collect();
        seen.sort_unstable();
        said.sort_unstable();
        assert_eq!(seen, said, "UDP flows of node {:?}", self.node);
    }

    /// The same of sources; of services, only forgets it.
    fn forget_rates(&mut self) {
        let mut seen = self.balancer.take_sources().expect("sources");
        let mut said: Vec<_> = self.host.rates.sources.drain().map(|(source, _)| source).collect();
        seen.sort_unstable();
        said.sort_unstable();
        assert_eq!(seen, said, "sources of node {:?}", self.node);
        for (service, _) in self.host.rates.services.drain() {
            self.balancer.forget_syns(service).expect("rates");
        }
        (self.refused, self.rated_since) = (0, Instant::now());
    }

    fn differ(
        &self,
        frame: &[u8],
        origin: &dyn std::fmt::Display,
        action: u32,
        model: &datapath::Outcome,
    ) -> ! {
        let mut said = self.reasons.clone();
        said[model.reason as usize] -= 1;
        let seen = self.balancer.reasons().expect("counters");
        let reasons: Vec<_> = REASONS
            .iter()
            .zip(seen.iter().zip(&said))
            .filter(|(_, (seen, said))| seen != said)
            .map(|((_, name), (seen, said))| format!("{name} × {}", seen - said))
            .collect();
        let explained = datapath::explain(&self.image, &mut self.host.clone(), frame, &Names::new());
        let steps: Vec<_> = explained
            .steps
            .iter()
            .map(|step| format!("  {:?}: {} ({})", step.stage, step.decision, step.reason))
            .collect();
        panic!(
            "program and model differ on node {:?}, packet {} ({origin})\n  in      {}\nprogram: action {action}, {}\n  \
             out     {}\nmodel: {:?}, {}\n  out     {}\n{}\n",
            self.node,
            self.packets,
            hex(frame),
            reasons.join(", "),
            hex(&self.out),
            model.action,
            REASONS[model.reason as usize].1,
            hex(&model.frame),
            steps.join("\n"),
        );
    }

    /// Compares every counter; each packet must have been counted once, and for whom the model says.
    pub(crate) fn audit(&mut self) {
        self.forget_udp_flows();
        self.forget_rates();
        assert_eq!(
            self.balancer.reasons().expect("counters"),
            self.reasons,
            "reasons of node {:?}",
            self.node
        );
        for (list, hits) in &self.blocked {
            assert_eq!(self.balancer.access_hits(*list).expect("hits"), *hits, "access list {list}");
        }
        let (mut services, mut backends) = (BTreeMap::<u32, u64>::new(), BTreeMap::<u16, u64>::new());
        for ((service, backend), packets) in &self.traffic {
            *services.entry(*service).or_default() += packets;
            *backends.entry(*backend).or_default() += packets;
        }
        for (service, backend) in self.traffic.keys() {
            let seen = self.balancer.traffic(*service, *backend).expect("counters");
            assert_eq!(seen, (services[service], backends[backend]), "service {service}, backend {backend}");
        }
    }
}

/// The XDP action as the kernel numbers it.
fn number(action: Action) -> u32 {
    match action {
        Action::Drop => 1,
        Action::Pass => 2,
        Action::Transmit => 3,
        Action::Redirect(_) => 4,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
