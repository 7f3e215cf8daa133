//! The real binary between real clients and real servers, on the loopback interface, unprivileged.

mod authority;
mod clients;
mod raw;
mod secure;
mod servers;
mod subject;

mod access_log;
mod balance;
mod certificates;
mod config_changes;
mod failures;
mod faults;
mod grpc;
mod hard;
mod health;
mod hedging;
mod http;
mod http2;
mod limits;
mod outliers;
mod passthrough;
mod proxy_protocol;
mod request_ids;
mod slow;
mod stopping;
mod streams;
mod tables;
mod tcp_mode;
mod threads;
mod tls;
mod towards;
mod upgrade;
mod vips;
mod zones;
