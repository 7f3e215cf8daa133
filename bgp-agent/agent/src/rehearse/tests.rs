use super::*;
use crate::sessions::Sessions;
use weir_model::SourceFile;
use weir_model::status::{ConfigStatus, Health};
use weir_runtime::metrics::Registry;

const CONFIG: &str = r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
[group.g]
nodes = ["n1"]
[vip.web]
addresses = ["192.0.2.1"]
group = "g"
services = ["tcp/80"]
[peer.tor]
node = "n1"
address = "10.0.1.1"
asn = 65000
local_asn = 65001
"#;

fn snapshot(change: impl Fn(String) -> String) -> Arc<Snapshot> {
    let text = change(CONFIG.to_owned());
    Arc::new(
        Snapshot::read(&[SourceFile { path: "a.toml".into(), text }])
            .unwrap_or_else(|problems| panic!("{problems}")),
    )
}

fn l4(vips: &[(&str, &str)]) -> Arc<L4Status> {
    let vips = vips.iter().map(|(name, address)| {
        let addresses = vec![address.parse().unwrap()];
        (name.parse().unwrap(), L4VipStatus { healthy_proxies: 1, addresses, ..L4VipStatus::default() })
    });
    Arc::new(L4Status {
        config: ConfigStatus {
            applied_at: Some(Timestamp(SystemTime::UNIX_EPOCH)),
            ..ConfigStatus::default()
        },
        vips: vips.collect(),
        proxies: [("n1".parse().unwrap(), Health::Up)].into(),
        ..L4Status::default()
    })
}

/// A stage with what runs now; its announcer has had its time.
fn stage(now: &Snapshot, l4: Option<Arc<L4Status>>, candidate: &Arc<Snapshot>) -> Stage {
    let node: Name = "n1".parse().unwrap();
    let mut announcer = Announcer::default();
    let begin = Instant::now();
    let later = begin + Duration::from_secs(60);
    for at in [begin, later] {
        announcer.handle(View { snapshot: now, node: &node, l4: l4.as_deref(), proxy: None }, at);
    }
    Stage {
        node,
        in_force: Some(now.generation),
        refused: None,
        candidate: Arc::clone(candidate),
        announcer,
        l4,
        proxy: None,
        actors: Vec::new(),
        settled: true,
        now: later,
    }
}

/// The actors of a configuration that has no session yet, as [`Sessions::actors`] has them.
fn with_actors(mut stage: Stage) -> Stage {
    let (door, _) = mpsc::channel(1);
    let refused = Registry::default().counter("refused", "", &[]);
    stage.actors =
        Sessions::new(stage.node.clone(), Arc::default(), None, door, refused).actors(&stage.candidate);
    stage
}

fn says(rehearsal: &Rehearsal) -> Vec<(u64, SaidKind, Vec<String>)> {
    let says = &rehearsal.peers.values().next().unwrap().says;
    let line = |said: &SaidMessage| {
        let announced = said.announced.iter().map(|route| route.prefix.clone());
        (said.after.as_millis() as u64, said.kind, announced.chain(said.withdrawn.iter().cloned()).collect())
    };
    says.iter().map(line).collect()
}

#[tokio::test]
async fn a_vip_whose_address_changes_is_withdrawn_at_once_and_announced_when_it_is_confirmed() {
    let now = snapshot(|text| text);
    let next = snapshot(|text| text.replace("192.0.2.1", "192.0.2.9"));
    let stage = stage(&now, Some(l4(&[("web", "192.0.2.1")])), &next);
    // A session that is up and has told the route.
    let node = &stage.node;
    let peer = now.peers.values().next().unwrap();
    let addresses: Vec<_> = stage.announcer.addresses(&now).collect();
    assert_eq!(addresses.len(), 1);
    let (told, _) = routes(&now, node, peer, None, addresses.into_iter());
    let config = Config::new(65001, "10.0.1.2".parse().unwrap(), 65000);
    let mut session = Session::as_if_up(config, None).unwrap();
    session.set_routes(told);
    session.drain();
    let mut stage = with_actors(stage);
    for actor in &mut stage.actors {
        let (copy, receiver) = tokio::sync::oneshot::channel();
        copy.send(session.clone()).unwrap();
        actor.now = Some(receiver);
        if let Cast::Plays { stays, .. } = &mut actor.cast {
            *stays = true;
        }
    }
    let rehearsal = stage.play().await;
    assert_eq!(
        says(&rehearsal),
        [
            (0, SaidKind::Withdraw, vec!["192.0.2.1/32".to_owned()]),
            (0, SaidKind::Announce, vec!["192.0.2.9/32".to_owned()])
        ],
        "{rehearsal:#?}"
    );
    assert!(!rehearsal.is_silent());
}

#[tokio::test]
async fn a_new_vip_is_announced_when_it_was_good_for_as_long_as_rise() {
    let now = snapshot(|text| text);
    let next = snapshot(|text| {
        text + "[vip.new]\naddresses = [\"192.0.2.2\"]\ngroup = \"g\"\nservices = [\"tcp/80\"]\nannounce = { rise = \"700ms\" }\n"
    });
    let rehearsal = with_actors(stage(&now, Some(l4(&[("web", "192.0.2.1")])), &next)).play().await;
    let vips: Vec<_> = rehearsal
        .vips
        .iter()
        .map(|change| (change.vip.as_str(), change.after.as_millis(), change.announced))
        .collect();
    assert_eq!(vips, [("new", 700, true)]);
    let expected = [
        (0, SaidKind::Announce, vec!["192.0.2.1/32".to_owned()]),
        (0, SaidKind::EndOfRib, vec![]),
        (0, SaidKind::EndOfRib, vec![]),
        (700, SaidKind::Announce, vec!["192.0.2.2/32".to_owned()]),
    ];
    assert_eq!(says(&rehearsal), expected, "the session begins");
    // Nobody to confirm it: nothing is promised.
    let rehearsal = with_actors(stage(&now, None, &next)).play().await;
    assert_eq!(rehearsal.vips, []);
    assert!(rehearsal.assumed[0].contains("cannot be heard"), "{:?}", rehearsal.assumed);
}

#[tokio::test]
async fn a_drain_goes_through_graceful_shutdown_and_a_session_that_is_away_says_nothing() {
    let graceful =
        |text: String| text.replace("[vip.web]", "[vip.web]\nannounce = { graceful_shutdown = \"3s\" }");
    let now = snapshot(graceful);
    let next = snapshot(|text| graceful(text).replace("[node.n1]", "[node.n1]\nadmin = \"drain\""));
    let rehearsal = with_actors(stage(&now, Some(l4(&[("web", "192.0.2.1")])), &next)).play().await;
    let vips: Vec<_> =
        rehearsal.vips.iter().map(|change| (change.after.as_secs(), change.announced, change.tier)).collect();
    assert_eq!(vips, [(0, true, Tier::GracefulShutdown), (3, false, Tier::Normal)]);
    let says = &rehearsal.peers.values().next().unwrap().says;
    assert_eq!(says[0].announced[0].communities, ["graceful-shutdown"]);
    assert_eq!((says[3].kind, says[3].after.as_secs()), (SaidKind::Withdraw, 3));
    // A session without a copy in time is said to be one.
    let mut late = with_actors(stage(&now, None, &next));
    for actor in &mut late.actors {
        let (_never, receiver) = tokio::sync::oneshot::channel();
        actor.now = Some(receiver);
    }
    let rehearsal = late.play().await;
    let peer = rehearsal.peers.values().next().unwrap();
    assert!(peer.session.contains("did not answer") && peer.says.is_empty(), "{peer:?}");
}
