//! Listeners, and connections on either side.

use weir_model::Problem;

use super::{GOOD, each_is_named, problems, read};

#[test]
fn every_mistake_about_a_listener_is_named() {
    each_is_named(&[
        ("port = 80", "port = 81", "listener.web.port", "does not serve tcp/81"),
        ("port = 80", "port = 80\nbind = \"127.0.0.1:80\"", "listener.web", "either vip and port, or bind"),
        ("protocol = \"http\"", "protocol = \"https\"", "listener.web.tls", "needs a certificate"),
        ("protocol = \"http\"", "protocol = \"gopher\"", "listener.web.protocol", "gopher"),
        ("port = 80", "port = 80\nrequest_id = \"maybe\"", "listener.web.request_id", "maybe"),
        (
            "protocol = \"http\"",
            "protocol = \"tcp\"\nrequest_id = \"make\"",
            "listener.web.request_id",
            "no requests to name",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tcp\"\ntrace = \"make\"",
            "listener.web.trace",
            "no requests to trace",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tls-passthrough\"\ntls.directory = \"certs\"",
            "listener.web.tls",
            "does not terminate TLS",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tls-passthrough\"\nroutes = [{ path = \"/a\", pool = \"app\" }]",
            "listener.web.routes.0.path",
            "paths are encrypted",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"https\"\ntls.directory = \"c\"\nroutes = [{ pool = \"app\", client_certificate = true }]",
            "listener.web.routes.0.client_certificate",
            "no certificates of clients",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"https\"\ntls.directory = \"c\"\ntls.min_version = \"1.1\"",
            "listener.web.tls.min_version",
            "1.1",
        ),
    ]);
}

#[test]
fn the_time_of_clients_and_servers_has_bounds_and_defaults() {
    let snapshot = read(GOOD).expect("no problems");
    let (listener, pool) = (&snapshot.listeners["web"], &snapshot.pools["app"]);
    let seconds = [
        listener.header_timeout,
        listener.keep_alive_timeout,
        listener.client_timeout,
        listener.body_rate_grace,
        pool.server_timeout,
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [10, 60, 60, 20, 300]);
    assert_eq!(listener.body_rate_min, 500);
    let text = |listener: &str, pool: &str| {
        let text = GOOD.replacen("protocol = \"http\"", &format!("protocol = \"http\"\n{listener}"), 1);
        text.replacen("[pool.app]", &format!("[pool.app]\n{pool}"), 1)
    };
    let good = "header_timeout = \"5s\"\nkeep_alive_timeout = \"2m\"\nclient_timeout = \"30s\"\n\
                body_rate_min = 0\nbody_rate_grace = \"1m\"";
    assert!(read(&text(good, "server_timeout = \"1d\"")).is_ok());
    for (listener, pool, path, what) in [
        ("header_timeout = \"1ms\"", "", "listener.web.header_timeout", "out of range"),
        ("keep_alive_timeout = \"25h\"", "", "listener.web.keep_alive_timeout", "out of range"),
        ("client_timeout = \"2d\"", "", "listener.web.client_timeout", "out of range"),
        ("client_timeout = 5", "", "listener.web", "expected a string"),
        ("body_rate_min = 2000000", "", "listener.web.body_rate_min", "out of range"),
        ("body_rate_min = -1", "", "listener.web", "invalid value"),
        ("body_rate_grace = \"0s\"", "", "listener.web.body_rate_grace", "out of range"),
        ("", "server_timeout = \"8d\"", "pool.app.server_timeout", "out of range"),
    ] {
        let found = problems(&text(listener, pool));
        let wanted = |p: &Problem| p.path.starts_with(path) && p.what.contains(what) && p.line > 0;
        assert!(found.iter().any(wanted), "{listener}{pool}: {found:#?}");
    }
    for field in good.lines() {
        let found = problems(&text(field, "").replacen("protocol = \"http\"", "protocol = \"tcp\"", 1));
        let path = format!("listener.web.{}", field.split(' ').next().unwrap());
        assert!(
            found.iter().any(|p| p.path == path && p.what.contains("no requests")),
            "{field}: {found:#?}"
        );
    }
}

#[test]
fn who_speaks_for_clients_and_how_servers_are_connected_to_is_said_or_what_is_wrong_with_it() {
    let text = |listener: &str, pool: &str| {
        let listener = format!("[listener.web]\n{listener}");
        GOOD.replacen("[listener.web]", &listener, 1).replacen(
            "[pool.app]",
            &format!("[pool.app]\n{pool}"),
            1,
        )
    };
    let good = read(&text(
        "proxy_protocol_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nidle_timeout = \"1h\"\nhalf_closed_timeout = \"30s\"",
        "send_proxy = \"v2\"\nsource = \"client\"\ntcp = { fast_open = true, user_timeout = \"3s\" }",
    ));
    let snapshot = good.expect("no problems");
    assert!(snapshot.pools["app"].dials_for_one_client());
    let cases = [
        (
            "proxy_protocol_from = [\"10.0.0.1/8\"]",
            "",
            "listener.web.proxy_protocol_from.0",
            "beyond its length",
        ),
        ("proxy_protocol_from = [\"all\"]", "", "listener.web", "invalid IP address"),
        ("idle_timeout = \"8d\"", "", "listener.web.idle_timeout", "out of range"),
        ("half_closed_timeout = \"1ms\"", "", "listener.web.half_closed_timeout", "out of range"),
        ("", "send_proxy = \"v3\"", "pool.app", "unknown variant"),
        ("", "source = \"everybody\"", "pool.app", "neither"),
        ("", "source = \"0.0.0.0\"", "pool.app.source", "nothing can come from"),
        ("", "tcp = { keep_alive = \"1ms\" }", "pool.app.tcp.keep_alive", "out of range"),
        ("", "tcp = { user_timeout = \"2h\" }", "pool.app.tcp.user_timeout", "out of range"),
        ("", "tcp = { nodelay = true }", "pool.app.tcp", "unknown field"),
        ("", "protocol = \"h2c\"\nsend_proxy = \"v2\"", "pool.app.protocol", "are shared by clients"),
    ];
    for (listener, pool, path, what) in cases {
        let found = problems(&text(listener, pool));
        let wanted = |p: &Problem| p.path.starts_with(path) && p.what.contains(what) && p.line > 0;
        assert!(found.iter().any(wanted), "{listener}{pool}: {found:#?}");
    }
}

#[test]
fn bytes_are_passed_on_over_tls_but_not_within_http_2_nor_is_tls_within_tls() {
    let text = |protocol: &str, pool: &str| {
        let text = GOOD.replacen("protocol = \"http\"", &format!("protocol = \"{protocol}\""), 1);
        text.replacen("[pool.app]\n", &format!("[pool.app]\n{pool}\n"), 1)
    };
    let tls = "tls = { ca = \"ca.pem\" }";
    assert!(read(&text("tcp", tls)).is_ok());
    for (protocol, pool, what) in [
        ("tcp", "protocol = \"h2c\"", "speaks HTTP/2"),
        ("tcp", &format!("protocol = \"h2\"\n{tls}"), "speaks HTTP/2"),
        ("tls-passthrough", tls, "TLS of clients"),
        ("tls-passthrough", "protocol = \"h2c\"", "speaks HTTP/2"),
    ] {
        let found = problems(&text(protocol, pool));
        let wanted = |p: &Problem| p.path == "listener.web.pool" && p.what.contains(what) && p.line > 0;
        assert!(found.iter().any(wanted), "{protocol} {pool}: {found:#?}");
    }
}
