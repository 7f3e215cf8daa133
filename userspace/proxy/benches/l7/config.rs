//! What the three proxies are told: the same listeners, the same origin, connections kept on both sides, the same fields
//! added to requests, TLS 1.3, a line of log for each request. Nothing ends a connection of the benchmark for its age.

use std::{net::SocketAddr, path::Path};

use crate::proxies::Places;

/// Connections a proxy may have at once, both sides together; more than any case needs.
const CONNECTIONS_MAX: u32 = 16_000;

pub(crate) fn weir(places: &Places, origin: SocketAddr) -> String {
    let Places { http, https, h2, tcp } = places;
    let listener = |name: &str, protocol: &str, bind: &SocketAddr, more: &str| {
        format!(
            "[listener.{name}]\nprotocol = \"{protocol}\"\nbind = \"{bind}\"\npool = \"origin\"\n\
             max_connections = {CONNECTIONS_MAX}\n{more}\n"
        )
    };
    [
        "[zone.here]\n[pool.origin]\nconnect_timeout = \"5s\"\n".to_owned(),
        format!("[server.origin]\npools = [\"origin\"]\naddress = \"{origin}\"\nzone = \"here\"\n"),
        listener("plain", "http", http, ""),
        listener("h2", "http", h2, ""),
        listener("tcp", "tcp", tcp, ""),
        listener(
            "tls",
            "https",
            https,
            "tls.certificates = [{ certificate = \"bench.pem\", key = \"bench.key\" }]",
        ),
    ]
    .concat()
}

/// Its own best: connections to the origin are used for whoever comes, as nginx does and weir for what can be repeated. It may
/// not refuse to start where it could not have a second file open for each connection: it needs none for idle clients.
pub(crate) fn haproxy(places: &Places, origin: SocketAddr, certificate: &Path) -> String {
    let Places { http, https, h2, tcp } = places;
    let certificate = certificate.display();
    format!(
        "global
    nbthread 1
    maxconn {CONNECTIONS_MAX}
    no strict-limits
    log stdout format raw local0
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    log global
    timeout connect 5s
    timeout client 300s
    timeout server 300s
frontend web
    mode http
    option httplog
    option forwardfor
    http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    bind {http}
    bind {h2}
    bind {https} ssl crt {certificate} alpn h2,http/1.1
    default_backend web
backend web
    mode http
    http-reuse always
    server origin {origin}
frontend tcp
    mode tcp
    option tcplog
    option splice-request
    option splice-response
    bind {tcp}
    default_backend tcp
backend tcp
    mode tcp
    option splice-request
    option splice-response
    server origin {origin}
"
    )
}

/// One process, without a master that would only wait for it.
pub(crate) fn nginx(places: &Places, origin: SocketAddr, dir: &Path) -> String {
    let Places { http, https, h2, tcp } = places;
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .collect();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {dir}/pid;
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
    {temporary}
    access_log /dev/null combined;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    ssl_protocols TLSv1.3;
    ssl_certificate {dir}/bench.pem;
    ssl_certificate_key {dir}/bench.key;
    upstream origin {{
        server {origin};
        keepalive 1000;
        keepalive_requests 1000000000;
        keepalive_timeout 300s;
    }}
    server {{
        listen {http};
        listen {h2} http2;
        listen {https} ssl http2;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection \"\";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
    }}
}}
stream {{
    log_format line '$remote_addr [$time_local] $status $bytes_sent $bytes_received $session_time';
    access_log /dev/null line;
    server {{
        listen {tcp};
        proxy_pass {origin};
    }}
}}
"
    )
}
