//! Mission 1: every client is served in its own zone over IPv4 and IPv6, http and https, and nothing fails.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Trial, observe::Watch};
use crate::topology::{BACKENDS, BALANCERS, zone_name};

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let times = lab.times;
    let seen = format!("{:.2} s, every zone after {:.2} s", times.first_request, times.ready);
    trial.check(
        "time from up to the first served request",
        "at most 10 s",
        seen,
        times.first_request <= 10.0,
    );

    let watch = Watch::open(&lab);
    for zone in lab.topology.zones() {
        let census = lab.census(zone).await?;
        for (v6, tls) in [(false, false), (false, true), (true, false), (true, true)] {
            let records: Vec<_> =
                census.iter().filter(|r| r.client.is_ipv6() == v6 && r.tls == tls).cloned().collect();
            let family = if v6 { "IPv6" } else { "IPv4" };
            let scheme = if tls { "https" } else { "http" };
            let what = format!("clients of {} by {scheme} over {family} are served by", zone_name(zone));
            trial.check_served_by(&what, zone, &records);
        }
        let served = || census.iter().filter_map(|record| record.outcome.as_ref().ok());
        let servers: BTreeSet<&str> = served().map(|served| served.server.as_str()).collect();
        let what = format!("servers of {} that answer", zone_name(zone));
        trial.check(what, BACKENDS, servers.len(), servers.len() == usize::from(BACKENDS));
        let balancers: BTreeSet<&str> = served().map(|served| served.balancer.as_str()).collect();
        let what = format!("proxies of {} that are used", zone_name(zone));
        trial.check(what, BALANCERS, balancers.len(), balancers.len() == usize::from(BALANCERS));
        let hidden = served().filter(|served| !served.forwarded).count();
        let what = format!("requests in {} whose client the server was not told", zone_name(zone));
        trial.check(what, 0, hidden, hidden == 0);
    }
    watch.requests(trial, 100).await?;
    trial.check_no_failures("requests of all zones in the background", &watch.records(&lab));
    Ok(())
}
