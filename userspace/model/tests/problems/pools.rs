//! Pools, their checks, and their servers.

use std::time::Duration;

use weir_model::Problem;

use super::{GOOD, each_is_named, problems, read};

#[test]
fn every_mistake_about_a_pool_is_named() {
    each_is_named(&[
        ("path = \"/healthz\"", "path = \"healthz\"", "pool.app.check.path", "not a path"),
        ("path = \"/healthz\"", "via = \"tunnel\"", "pool.app.check.via", "no vip points straight at"),
        ("path = \"/healthz\"", "interval = \"5\"", "pool.app.check", "no unit"),
        ("path = \"/healthz\"", "interval = \"1ms\"", "pool.app.check.interval", "out of range"),
        ("[pool.app]", "[pool.app]\noverprovision = \"50%\"", "pool.app.overprovision", "out of range"),
        ("[pool.app]", "[pool.app]\nretires = 3", "pool.app.retires", "unknown field"),
        (
            "[pool.app]",
            "[pool.app]\nsticky = { cookie = \"a b\", key = \"short\" }",
            "pool.app.sticky.cookie",
            "cookie name",
        ),
        (
            "address = \"10.1.1.1:8080\"",
            "address = \"10.1.1.1:0\"",
            "server.app1.address",
            "cannot be connected to",
        ),
        (
            "address = \"10.1.1.1:8080\"",
            "address = \"app1.example.org:80\"",
            "server.app1.address",
            "socket address",
        ),
        ("pools = [\"app\"]", "pools = []", "server.app1.pools", "no pool"),
    ]);
}

#[test]
fn a_pool_says_how_it_balances_ejects_and_checks_or_what_is_wrong_with_it() {
    let text = |pool: &str, check: &str| {
        GOOD.replacen("[pool.app]", &format!("[pool.app]\n{pool}"), 1).replacen(
            "path = \"/healthz\"",
            &format!("path = \"/healthz\"{check}"),
            1,
        )
    };
    let good = read(&text(
        "balance = \"hash\"\nhash_on = \"header:x-user\"\nbounded_load = \"125%\"\nslow_start = \"30s\"\n\
         eject = { success_rate = \"90%\" }\nbreaker = { consecutive = 20 }\nretry_budget = {}\nhedge_after = \"20ms\"",
        ", version = \"1.0\", method = \"HEAD\", expect = [[200, 299], [404, 404]], headers = { X-Key = \"a b\" }, \
         fast_interval = \"100ms\", and = [{ kind = \"tls\", port = 443, tls = { name = \"a.example\" } }, \
         { kind = \"agent\", port = 99 }]",
    ));
    let snapshot = good.expect("no problems");
    let pool = &snapshot.pools["app"];
    assert_eq!(pool.hash_on.as_ref().map(ToString::to_string).as_deref(), Some("header:x-user"));
    let check = pool.check.as_ref().expect("check");
    assert_eq!(check.steps().count(), 3);
    assert!(check.expect.contains(404) && !check.expect.contains(301));
    let eject = pool.eject.as_ref().expect("eject");
    assert_eq!(
        (eject.consecutive, eject.time, eject.max_ejected.to_string().as_str()),
        (5, Duration::from_secs(10), "50%")
    );

    let cases = [
        ("balance = \"hash\"", "", "hash_on", "needs something to go by"),
        ("hash_on = \"path\"", "", "hash_on", "only balance"),
        ("balance = \"hash\"\nhash_on = \"heder:x\"", "", "hash_on", "nothing to hash by"),
        ("balance = \"hash\"\nhash_on = \"cookie:a b\"", "", "hash_on", "not the name of a cookie"),
        ("bounded_load = \"125%\"", "", "bounded_load", "have a bound"),
        ("balance = \"source\"\nbounded_load = \"100%\"", "", "bounded_load", "out of range"),
        ("protocol = \"h2\"", "", "protocol", "over TLS"),
        ("protocol = \"h2c\"\ntls = { verify = false }", "", "protocol", "without TLS"),
        ("protocol = \"h3\"", "", "protocol", "unknown variant"),
        ("tls = {}", "", "tls.ca", "without authorities"),
        ("tls = { ca = \"a.pem\", verify = false }", "", "tls.ca", "not looked at"),
        ("tls = { ca = \"a.pem\", key = \"a.key\" }", "", "tls.certificate", "belong together"),
        ("tls = { ca = \"a.pem\", name = \"a b\" }", "", "tls.name", "not a name"),
        ("hedge_after = \"20ms\"", "", "hedge_after", "every request twice"),
        ("hedge_after = \"2h\"\nretry_budget = {}", "", "hedge_after", "out of range"),
        (
            "hedge_after = \"20ms\"\nretry_budget = {}\nprotocol = \"h2c\"",
            "",
            "hedge_after",
            "are asked of one",
        ),
        ("random_of = 0", "", "random_of", "out of range"),
        ("slow_start = \"1ms\"", "", "slow_start", "out of range"),
        ("eject = { consecutive = 0 }", "", "eject", "neither"),
        ("eject = { max_time = \"1s\" }", "", "eject.max_time", "out of range"),
        ("eject = { max_ejected = \"101%\" }", "", "eject.max_ejected", "out of range"),
        ("breaker = { consecutive = 0 }", "", "breaker.consecutive", "out of range"),
        ("breaker = {}", "", "breaker", "missing field"),
        ("retry_budget = { share = \"2000%\" }", "", "retry_budget.share", "out of range"),
        ("", ", expect = [[200, 299], [300, 200]]", "check.expect", "not a range"),
        ("", ", expect = 200", "check", "first and last status code"),
        ("", ", method = \"G T\"", "check.method", "not a method"),
        ("", ", method = \"HEAD\", body_contains = \"x\"", "check.method", "no body"),
        ("", ", body_matches = \"(\"", "check", "not a regular expression: unclosed group"),
        ("", ", version = \"2\"", "check", "unknown variant"),
        ("", ", headers = { Host = \"a\" }", "check.headers", "set by the check itself"),
        ("", ", headers = { x = \"a\\r\\nb: c\" }", "check.headers", "cannot be sent"),
        ("", ", tls = {}", "check.tls", "no TLS"),
        ("", ", fast_interval = \"1ms\"", "check.fast_interval", "out of range"),
        ("", ", and = [{ kind = \"agent\" }]", "check.and.0.port", "port of its own"),
        ("", ", and = [{ kind = \"tcp\", port = 1, rise = 7 }]", "check.and.0", "timing of its own"),
        ("", ", and = [{ kind = \"tcp\", method = \"PUT\" }]", "check.and.0", "none is made"),
        ("", ", and = [{ kind = \"tcp\", and = [{ kind = \"tcp\" }] }]", "check.and.0.and", "nested"),
    ];
    for (pool, check, path, what) in cases {
        let found = problems(&text(pool, check));
        let wanted = |p: &Problem| {
            p.path.starts_with(&format!("pool.app.{path}")) && p.what.contains(what) && p.line > 0
        };
        assert!(found.iter().any(wanted), "{pool}{check}: {found:#?}");
    }
}
