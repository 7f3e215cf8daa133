//! What becomes of a VIP whose services answer, or do not, on the same virtual clock.

use super::*;
use weir_model::status::{ServiceStatus, service_name};

/// Services by port, as a daemon found them: `+` up, `-` down, `?` not known.
pub(super) fn services(found: &str) -> BTreeMap<String, ServiceStatus> {
    let service = |(index, sign): (usize, char)| {
        let (health, reason) = match sign {
            '+' => (Health::Up, "check passed"),
            '-' => (Health::Down, "no answer within 1s"),
            '?' => (Health::Unknown, "not asked yet"),
            _ => return None,
        };
        let at = format!("192.0.2.1:{}", 80 + index).parse().unwrap();
        Some((service_name(at), ServiceStatus { health, reason: reason.into() }))
    };
    found.chars().enumerate().filter_map(service).collect()
}

fn l4_with(found: &str) -> L4Status {
    let mut l4 = l4(1);
    l4.vips.get_mut("web").unwrap().services = services(found);
    l4
}

fn proxy_with(found: &str) -> ProxyStatus {
    let mut proxy = proxy(true);
    proxy.vips.get_mut("web").unwrap().services = services(found);
    proxy
}

fn bench(announce: &str) -> Bench {
    Bench::with(snapshot(|text| text.replace("rise =", &format!("{announce}, rise ="))))
}

/// Announced, by services that all answer, at 200 ms.
fn announced(announce: &str) -> Bench {
    let mut bench = bench(announce);
    bench.look(0, Some(&l4_with("++")), Some(&proxy_with("++")));
    assert!(bench.look(200, Some(&l4_with("++")), Some(&proxy_with("++"))));
    bench
}

#[test]
fn all_or_any_of_the_services_must_answer_to_both_who_ask() {
    // What each found; whether it is then announced by `all` and `any`: `=` for as before.
    for (l4, proxy, by_all, by_any) in [
        ("++", "++", '+', '+'),
        ("++", "+-", '-', '+'),
        ("+-", "++", '-', '+'),
        ("-+", "+-", '-', '-'),
        ("--", "++", '-', '-'),
        ("++", "--", '-', '-'),
        // One who has asked suffices, and one who finds nothing there is believed.
        ("??", "++", '+', '+'),
        ("++", "??", '+', '+'),
        ("??", "+?", '=', '+'),
        ("??", "??", '=', '='),
        ("??", "-?", '-', '='),
        ("??", "--", '-', '-'),
        // Nothing is asked for, or only by one of them.
        ("", "", '+', '+'),
        ("+-", "", '-', '+'),
        ("", "+-", '-', '+'),
        ("", "--", '-', '-'),
    ] {
        for (policy, expected) in [("all", by_all), ("any", by_any)] {
            let policy = format!("services = \"{policy}\"");
            let (l4, proxy) = (l4_with(l4), proxy_with(proxy));
            for before in [false, true] {
                let mut bench = if before { announced(&policy) } else { bench(&policy) };
                bench.look(1_000, Some(&l4), Some(&proxy));
                let after = bench.look(2_000, Some(&l4), Some(&proxy));
                let wanted = if expected == '=' { before } else { expected == '+' };
                let case = format!("{policy}, was {before}: {}", bench.reason());
                assert_eq!(after, wanted, "{case}");
            }
        }
    }
}

#[test]
fn the_reason_names_the_service_and_what_is_wrong_with_it() {
    let mut bench = announced("services = \"all\"");
    bench.look(1_000, Some(&l4_with("+--")), Some(&proxy_with("+++")));
    let what = "tcp 192.0.2.1:81 does not answer: no answer within 1s (and 1 more)";
    assert_eq!(bench.reason(), format!("{what}; withdrawn if it stays so for 500ms"));
    assert_eq!(bench.next_ms(), Some(1_500));
    assert!(bench.look(1_499, Some(&l4_with("+--")), None));
    assert!(!bench.look(1_500, Some(&l4_with("+--")), None));
    assert_eq!(bench.reason(), what);
    // Back: after rise, and not before.
    bench.look(2_000, Some(&l4_with("+++")), None);
    assert!(!bench.look(2_199, Some(&l4_with("+++")), None));
    assert!(bench.look(2_200, Some(&l4_with("+++")), None));

    let mut bench = announced("services = \"any\"");
    assert!(bench.look(1_000, Some(&l4_with("+-")), None));
    assert!(bench.reason().ends_with("; but tcp 192.0.2.1:81 does not answer: no answer within 1s"));
    bench.look(1_100, Some(&l4_with("--")), None);
    assert!(!bench.look(1_600, Some(&l4_with("--")), None));
    assert!(bench.reason().starts_with("no service answers: tcp 192.0.2.1:80"), "{}", bench.reason());
    let mut bench = super::Bench::new();
    bench.look(0, Some(&l4_with("?")), None);
    assert_eq!(bench.reason(), "tcp 192.0.2.1:80: not asked yet: as before");
}

#[test]
fn who_asked_and_is_silent_withdraws_nothing() {
    for policy in ["services = \"all\"", "services = \"any\""] {
        let mut bench = announced(policy);
        // The proxy cannot be heard: what the datapath found stands for it. Neither can be heard: as before.
        assert!(bench.look(10_000, Some(&l4_with("++")), None));
        assert!(bench.look(20_000, None, None));
        // Not even what one says while the datapath's daemon is silent.
        assert!(bench.look(30_000, None, Some(&proxy_with("--"))));
        assert!(bench.look(40_000, None, Some(&proxy_with("--"))));
        // A proxy that has read no configuration knows nothing.
        let ignorant = ProxyStatus { config: ConfigStatus::default(), ..proxy_with("--") };
        bench.look(50_000, Some(&l4_with("++")), Some(&ignorant));
        assert!(bench.look(60_000, Some(&l4_with("++")), Some(&ignorant)));
        // Restarted ones have not asked yet.
        bench.look(70_000, Some(&l4_with("??")), Some(&proxy_with("??")));
        assert!(bench.look(80_000, Some(&l4_with("??")), Some(&proxy_with("??"))));
    }
}

#[test]
fn services_that_do_not_answer_make_a_vip_worse_where_that_is_wished_and_flaps_wait() {
    let mut bench = announced("unserved = \"worse\"");
    let tier = |bench: &Bench| bench.announcer.verdicts()["web"].tier;
    let (good, bad) = (l4_with("++"), l4_with("+-"));
    let mut at_ms = 1_000;
    let mut waits = Vec::new();
    for _flap in 0..4 {
        assert!(bench.look(at_ms, Some(&bad), None) && bench.look(at_ms + 499, Some(&bad), None));
        assert_eq!(tier(&bench), Tier::Normal, "a blink does nothing");
        assert!(bench.look(at_ms + 500, Some(&bad), None));
        assert_eq!(tier(&bench), Tier::Worse);
        assert_eq!(bench.reason(), "tcp 192.0.2.1:81 does not answer: no answer within 1s");
        bench.look(at_ms + 600, Some(&good), None);
        assert_eq!(tier(&bench), Tier::Worse);
        let due_ms = bench.next_ms().unwrap();
        assert!(bench.look(due_ms, Some(&good), None));
        assert_eq!(tier(&bench), Tier::Normal);
        waits.push(due_ms - at_ms - 600);
        at_ms = due_ms + 100;
    }
    assert_eq!(waits, [200, 400, 800, 1_600]);
    // A critical pool without a server likewise.
    let dead = proxy(false);
    bench.look(at_ms, Some(&good), Some(&dead));
    assert!(bench.look(at_ms + 500, Some(&good), Some(&dead)));
    assert_eq!(tier(&bench), Tier::Worse);
    assert_eq!(bench.reason(), "no zone can answer: pool app has no server");
    // No proxy at all is no matter of degree.
    bench.look(at_ms + 1_000, Some(&super::l4(0)), Some(&dead));
    assert!(!bench.look(at_ms + 1_500, Some(&super::l4(0)), Some(&dead)));
}

#[test]
fn services_of_a_vip_straight_at_servers_are_those_the_datapath_asked_for() {
    let direct = snapshot(|text| {
        let text = text.replace("[vip.web]", "[vip.web]\npool = \"dns\"");
        text + "[pool.dns]\n[server.s1]\npools = [\"dns\"]\nzone = \"z1\"\naddress = \"192.0.2.77:53\"\n"
    });
    let mut bench = Bench::with(direct);
    bench.look(0, Some(&l4_with("++")), Some(&proxy_with("--")));
    assert!(bench.look(200, Some(&l4_with("++")), Some(&proxy_with("--"))));
    bench.look(1_000, Some(&l4_with("+-")), None);
    assert!(!bench.look(1_500, Some(&l4_with("+-")), None));
    assert!(bench.reason().starts_with("tcp 192.0.2.1:81"), "{}", bench.reason());
}

#[test]
fn of_two_nodes_whose_service_dies_one_goes_on() {
    let mut pair = Pair::new(PAIR);
    pair.web_answers[1] = "-";
    pair.run(1_000, 3_000);
    assert_eq!(pair.announced("web"), [true, false]);
    pair.web_answers[0] = "-";
    pair.run(3_000, 10_000);
    assert_eq!(pair.announced("web"), [true, false], "the last announcer stays");
    let reason = pair.reason(0, "web");
    assert!(
        reason.contains("tcp 192.0.2.1:80 does not answer") && reason.contains("nobody else"),
        "{reason}"
    );
    assert_eq!(pair.announced("mail"), [true, true]);
    pair.web_answers[1] = "+";
    pair.run(10_000, 12_000);
    assert_eq!(pair.announced("web"), [false, true]);
}

#[test]
fn what_a_proxy_alone_finds_of_all_vips_at_once_is_not_believed() {
    // It may be how it asks: a packet filter on the loopback interface, say.
    let mut pair = Pair::new(PAIR);
    (pair.web_answers[0], pair.mail_answers[0]) = ("-", "-");
    pair.run(1_000, 6_000);
    assert_eq!((pair.announced("web"), pair.announced("mail")), ([true, true], [true, true]));
    assert!(pair.reason(0, "web").contains("look dead at once"), "{}", pair.reason(0, "web"));
    // The datapath finds it too, by another way: this host is to blame.
    pair.datapath_agrees = true;
    pair.run(6_000, 8_000);
    assert_eq!((pair.announced("web"), pair.announced("mail")), ([false, true], [false, true]));
}
