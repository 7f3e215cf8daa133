//! Mission 6: long-lived connections survive a proxy being added, drained and removed, and a balancer host leaving ECMP.

use anyhow::Result;
use weir_model::Admin;

use super::{
    Trial,
    observe::Watch,
    operate::{announced, proxies_used, set_admin, set_member},
    streams::Streams,
};
use crate::{
    daemon::Kind,
    topology::{Host, Role},
};

/// Streams opened at each stage.
const STREAMS: u16 = 16;

const FIRST: Host = Host { zone: 1, role: Role::Balancer, index: 1 };
const SECOND: Host = Host { zone: 1, role: Role::Balancer, index: 2 };

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let mut streams = Streams::default();

    set_member(trial, SECOND, false)?;
    proxies_used(trial, &[FIRST]).await?;
    let watch = Watch::open(&lab);
    streams.open(&lab, 1, STREAMS).await?;
    let through = streams.through("z1lb1");
    trial.check("streams through z1lb1 while it is alone", STREAMS, through, through == usize::from(STREAMS));

    set_member(trial, SECOND, true)?;
    proxies_used(trial, &[FIRST, SECOND]).await?;
    announced(trial, SECOND, true).await?;
    streams.check_alive(trial, "streams broken by adding z1lb2").await;
    streams.open(&lab, 1, STREAMS).await?;
    let through = streams.through("z1lb2");
    trial.check("new streams that z1lb2 takes", "some", through, through > 0);

    set_admin(trial, FIRST, Admin::Drain)?;
    proxies_used(trial, &[SECOND]).await?;
    streams.check_alive(trial, "streams broken by draining z1lb1").await;

    // What is drained to its end can be removed without anybody noticing.
    streams.close("z1lb1");
    set_member(trial, FIRST, false)?;
    announced(trial, FIRST, false).await?;
    proxies_used(trial, &[SECOND]).await?;
    streams.check_alive(trial, "streams broken by removing z1lb1").await;

    set_admin(trial, FIRST, Admin::Active)?;
    set_member(trial, FIRST, true)?;
    announced(trial, FIRST, true).await?;
    proxies_used(trial, &[FIRST, SECOND]).await?;
    streams.check_alive(trial, "streams broken by adding z1lb1 again").await;

    if let Some(balancer) = lab.balancers.lock().await.get_mut(&FIRST) {
        balancer.stop(Kind::Bgp).await?;
    }
    announced(trial, FIRST, false).await?;
    streams.check_alive(trial, "streams broken by z1lb1 leaving ECMP").await;
    if let Some(balancer) = lab.balancers.lock().await.get_mut(&FIRST) {
        balancer.start(Kind::Bgp)?;
    }
    announced(trial, FIRST, true).await?;
    streams.check_alive(trial, "streams broken by z1lb1 joining ECMP").await;
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    Ok(())
}
