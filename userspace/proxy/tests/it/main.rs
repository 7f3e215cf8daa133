//! The real binary between real clients and real servers, on the loopback interface, unprivileged.

mod authority;
mod clients;
mod raw;
mod servers;
mod subject;

mod certificates;
mod config_changes;
mod failures;
mod http;
mod limits;
mod passthrough;
mod stopping;
mod tables;
mod tcp_mode;
mod threads;
mod tls;
mod vips;
mod zones;
