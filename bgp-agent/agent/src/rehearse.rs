//! What would be said if another configuration were taken, before it is said.
//!
//! Verdicts, sessions and messages come from the code that the running agent uses: from copies of its announcer and its sessions,
//! on a clock that runs ahead. Nothing is sent. What health will do meanwhile nobody knows, so it stays as it is; that `weir-l4`
//! takes the candidate too, and confirms what is in it, is taken for granted.

use crate::announce::{Announcer, Verdict, View};
use crate::peer::{Farewell, not_carried};
use crate::report;
use crate::routes::routes;
use crate::sessions::{Actor, Cast, orders};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weir_bgp::{
    Config, HEADER_LEN, MessageType, Notification, ReceiveContext, Route, Session, StateName, decode_update,
};
use weir_model::rehearsal::{Candidate, PeerRehearsal, Rehearsal, SaidKind, SaidMessage, VipChange};
use weir_model::status::{L4Status, L4VipStatus, ProxyStatus, Tier};
use weir_model::{AnnounceMode, Generation, Name, Peer, Problem, Snapshot, Timestamp};
use weir_runtime::status::Question;

/// Bytes of a candidate, as JSON: ten times the largest platform there is room for in the datapath.
pub(crate) const CANDIDATE_LEN_MAX_BYTES: usize = 32 << 20;

/// How far the clock runs ahead. What would happen later is not shown.
const HORIZON: Duration = Duration::from_secs(600);

/// Moments looked at; more than any number of `rise`, `fall` and `graceful_shutdown` an operator can tell apart.
const MOMENTS_MAX: usize = 256;

/// How long all sessions together may take to give copies of themselves.
const COPIES_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads candidates, away from the thread that serves the routers.
pub(crate) async fn read_candidates(
    mut questions: mpsc::Receiver<Question>,
    read: mpsc::Sender<(Snapshot, Question)>,
) {
    while let Some(question) = questions.recv().await {
        let body = question.body.clone();
        let parse = move || {
            let candidate: Candidate =
                serde_json::from_slice(&body).map_err(|error| format!("not a candidate: {error}"))?;
            Snapshot::read(&candidate.files).map_err(|problems| format!("would be refused:\n{problems}"))
        };
        match tokio::task::spawn_blocking(parse).await {
            Ok(Ok(snapshot)) => {
                if read.send((snapshot, question)).await.is_err() {
                    return;
                }
            }
            Ok(Err(why)) => question.answer(Err::<String, _>(why)),
            Err(error) => question.answer(Err::<String, _>(format!("reading was interrupted: {error}"))),
        }
    }
}

/// Everything a rehearsal needs.
pub(crate) struct Stage {
    pub(crate) node: Name,
    /// What is in force; `None` where nothing runs.
    pub(crate) in_force: Option<Generation>,
    pub(crate) refused: Option<Problem>,
    pub(crate) candidate: Arc<Snapshot>,
    pub(crate) announcer: Announcer,
    pub(crate) l4: Option<Arc<L4Status>>,
    pub(crate) proxy: Option<Arc<ProxyStatus>>,
    pub(crate) actors: Vec<Actor>,
    /// The agent knows its routes.
    pub(crate) settled: bool,
    pub(crate) now: Instant,
}

/// A session, in the part it plays.
struct Player {
    name: Name,
    /// What it is told from; `None` where it only leaves.
    told: Option<Told>,
    /// The copy; `None` where there is no session to tell.
    session: Option<Session>,
    view: PeerRehearsal,
}

struct Told {
    object: Box<Peer>,
    own: Option<Ipv6Addr>,
    config: Config,
}

impl Stage {
    /// Waits for the copies, and rehearses.
    pub(crate) async fn play(mut self) -> Rehearsal {
        let deadline = tokio::time::Instant::now() + COPIES_TIMEOUT;
        let mut players = Vec::new();
        for mut actor in std::mem::take(&mut self.actors) {
            let now = match actor.now.take() {
                None => None,
                Some(copy) => {
                    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                    match timeout(left, copy).await {
                        Ok(Ok(session)) => Some(session),
                        _ => {
                            actor.cast = Cast::Idle("did not answer in time: ask again".to_owned());
                            None
                        }
                    }
                }
            };
            players.push(Player::new(actor, now, self.now));
        }
        self.rehearse(players)
    }

    fn rehearse(mut self, mut players: Vec<Player>) -> Rehearsal {
        let mut vips = Vec::new();
        let l4 = self.l4.clone();
        // At once; then with what weir-l4 says when it has the candidate too.
        self.moment(self.now, l4.as_deref(), &mut players, &mut vips);
        let confirmed = self.confirmed();
        let mut at = self.now;
        for _ in 0..MOMENTS_MAX {
            let next = self.moment(at, confirmed.as_ref(), &mut players, &mut vips);
            match next.filter(|next| *next > at && *next <= self.now + HORIZON) {
                Some(next) => at = next,
                None => break,
            }
        }
        Rehearsal {
            node: self.node.to_string(),
            in_force: self.in_force,
            candidate: self.candidate.generation,
            assumed: self.assumed(),
            refused: self.refused,
            vips,
            peers: players.into_iter().map(|player| (player.name, player.view)).collect(),
        }
    }

    /// What happens at one moment; returns the next one.
    fn moment(
        &mut self,
        at: Instant,
        l4: Option<&L4Status>,
        players: &mut [Player],
        vips: &mut Vec<VipChange>,
    ) -> Option<Instant> {
        let before = self.announcer.verdicts().clone();
        let view = View { snapshot: &self.candidate, node: &self.node, l4, proxy: self.proxy.as_deref() };
        let next = self.announcer.rehearse(view, at);
        let after = at - self.now;
        vips.extend(changes(&before, self.announcer.verdicts(), after));
        let addresses: Vec<_> = self.announcer.addresses(&self.candidate).collect();
        for player in players {
            player.play(&self.candidate, &self.node, &addresses, self.settled, after);
        }
        next
    }

    /// What `weir-l4` will say of the candidate: all of it in the datapath, and as healthy as now. Without a word of it nobody
    /// knows; without a `weir-bgp` either, all is taken to be well.
    fn confirmed(&self) -> Option<L4Status> {
        let mut l4 = match (&self.l4, self.in_force) {
            (Some(l4), _) => L4Status::clone(l4),
            (None, Some(_)) => return None,
            (None, None) => L4Status::default(),
        };
        l4.config.applied_at = l4.config.applied_at.or(Some(Timestamp(SystemTime::UNIX_EPOCH)));
        let vips = self.candidate.vips_of(&self.node).map(|(name, vip)| {
            let known = l4.vips.get(name).cloned();
            let known = known.unwrap_or_else(|| L4VipStatus { healthy_proxies: 1, ..L4VipStatus::default() });
            let generation = self.candidate.generation;
            (name.clone(), L4VipStatus { generation, addresses: vip.addresses.clone(), ..known })
        });
        l4.vips = vips.collect();
        Some(l4)
    }

    fn assumed(&self) -> Vec<String> {
        let mut assumed = Vec::new();
        if self.in_force.is_none() {
            assumed.push("weir-bgp does not run: as if it started now, with nothing announced".to_owned());
            assumed.push("every router takes all that is offered to it".to_owned());
        }
        let is_gated = |(_, vip): (&Name, &weir_model::Vip)| vip.announce.mode == AnnounceMode::Gated;
        if self.candidate.vips_of(&self.node).any(is_gated) {
            assumed.push(
                match (&self.l4, self.in_force) {
                    (Some(_), _) => "weir-l4 takes it too, and health stays as it is; times count from then",
                    (None, Some(_)) => {
                        "weir-l4 cannot be heard: what it would have to confirm stays as it is"
                    }
                    (None, None) => "weir-l4 cannot be heard: every VIP is taken to be deliverable",
                }
                .to_owned(),
            );
        }
        assumed
    }
}

impl Player {
    fn new(actor: Actor, now: Option<Session>, at: Instant) -> Self {
        let Actor { name, address, cast, .. } = actor;
        let mut player = Self {
            name,
            told: None,
            session: None,
            view: PeerRehearsal { address, ..PeerRehearsal::default() },
        };
        // What is on its way anyhow is none of the candidate's doing.
        let now = now.map(|mut session| {
            session.drain();
            session
        });
        match cast {
            Cast::Idle(why) => player.view.session = format!("none: {why}"),
            Cast::Leaves => {
                player.view.session = "ends".to_owned();
                player.leave(now, &Farewell::deconfigured(), at);
            }
            Cast::Plays { object, own, plan, stays } => {
                let is_up = now.as_ref().is_some_and(|session| session.state() == StateName::Established);
                let (word, session) = match (now, stays) {
                    (Some(now), true) if is_up => ("stays", Ok(now)),
                    (Some(_), true) => {
                        ("is down; when it comes up", Session::as_if_up(plan.config.clone(), None))
                    }
                    (Some(now), false) => {
                        let next = Session::as_if_up(plan.config.clone(), Some(&now));
                        let keeps = now.negotiated().is_some_and(|agreed| agreed.graceful_restart);
                        player.leave(Some(now), &Farewell::reconfigured(), at);
                        (if keeps { "begins anew; the router keeps the routes" } else { "begins anew" }, next)
                    }
                    (None, _) => ("begins", Session::as_if_up(plan.config.clone(), None)),
                };
                match session {
                    Ok(session) => {
                        player.view.session = word.to_owned();
                        player.session = Some(session);
                        player.told = Some(Told { object, own, config: plan.config });
                    }
                    Err(notification) => {
                        player.view.session = format!("{word}, and would be ended: {notification}");
                    }
                }
            }
        }
        player
    }

    fn leave(&mut self, session: Option<Session>, farewell: &Farewell, at: Instant) {
        let Some(mut session) = session.filter(|session| session.state() == StateName::Established) else {
            return;
        };
        let context = receive_context(&session);
        session.handle_input(farewell.input(), at);
        for message in session.drain() {
            self.view.says.push(said(&message, context, &session, Duration::ZERO));
        }
    }

    fn play(
        &mut self,
        candidate: &Snapshot,
        node: &Name,
        addresses: &[(&Name, IpAddr, Tier)],
        settled: bool,
        after: Duration,
    ) {
        let (Some(told), Some(session)) = (&self.told, &mut self.session) else { return };
        let (set, without) = routes(candidate, node, &told.object, told.own, addresses.iter().copied());
        let mut refused = orders(&told.object, &told.config, set, settled).give_to(session);
        let context = receive_context(session);
        for message in session.drain() {
            self.view.says.push(said(&message, context, session, after));
        }
        refused.extend(not_carried(session));
        let without = without.into_iter().map(|address| {
            (IpNet::from(address), "the node has no address of this family to name as next hop")
        });
        refused.extend(without);
        self.view.refused =
            refused.into_iter().map(|(prefix, why)| (prefix.to_string(), why.to_owned())).collect();
    }
}

/// What became of VIPs at one moment.
fn changes(
    before: &BTreeMap<Name, Verdict>,
    after: &BTreeMap<Name, Verdict>,
    at: Duration,
) -> Vec<VipChange> {
    let unknown = Verdict::default();
    let word = |verdict: &Verdict| (verdict.announced, verdict.announced.then_some(verdict.tier));
    let changed =
        after.iter().filter(|(name, verdict)| word(before.get(*name).unwrap_or(&unknown)) != word(verdict));
    let mut changes: Vec<VipChange> = changed
        .map(|(name, verdict)| VipChange {
            vip: name.clone(),
            after: at,
            announced: verdict.announced,
            tier: verdict.tier,
            reason: verdict.reason.clone(),
        })
        .collect();
    let gone = before.iter().filter(|(name, verdict)| verdict.announced && !after.contains_key(*name));
    changes.extend(gone.map(|(name, _)| VipChange {
        vip: name.clone(),
        after: at,
        announced: false,
        tier: Tier::Normal,
        reason: "no longer a vip of this node".to_owned(),
    }));
    changes
}

/// How the router reads what we say.
fn receive_context(session: &Session) -> ReceiveContext {
    let agreed = session.negotiated();
    ReceiveContext {
        ibgp: session.config().local_asn == session.config().remote_asn,
        four_octet_as: agreed.is_none_or(|agreed| agreed.update_context.four_octet_as),
        ..ReceiveContext::default()
    }
}

/// A message in words. Of the attributes, what the session has noted that it told.
fn said(message: &bytes::Bytes, context: ReceiveContext, session: &Session, after: Duration) -> SaidMessage {
    let body = message.slice(HEADER_LEN..);
    let mut bytes = String::new();
    for byte in message {
        // Writing to a string cannot fail.
        let _infallible = write!(bytes, "{byte:02x}");
    }
    let mut said = SaidMessage {
        after,
        kind: SaidKind::Refresh,
        announced: Vec::new(),
        withdrawn: Vec::new(),
        note: String::new(),
        bytes,
    };
    let kind = message[HEADER_LEN - 1];
    if kind == MessageType::Notification as u8 {
        (said.kind, said.note) = (SaidKind::Notification, Notification::decode(&body).to_string());
        return said;
    }
    if kind != MessageType::Update as u8 {
        return said;
    }
    let config = session.config();
    let ibgp = config.local_asn == config.remote_asn;
    let told = |prefix: &IpNet| -> Option<&Route> { session.rib().advertised().get(prefix) };
    let report = decode_update(&body, context, |prefix, announced| {
        if !announced {
            said.withdrawn.push(prefix.to_string());
        } else if let Some(route) = told(&prefix) {
            said.announced.push(report::route(prefix.to_string(), route, config.local_asn, ibgp));
        }
    });
    let end_of_rib = report.ok().and_then(|report| report.end_of_rib);
    said.kind = match end_of_rib {
        Some(_) => SaidKind::EndOfRib,
        None if said.announced.is_empty() => SaidKind::Withdraw,
        None => SaidKind::Announce,
    };
    said.note = end_of_rib.map_or(String::new(), |family| format!("{family:?}").to_lowercase());
    said
}

#[cfg(test)]
mod tests;
