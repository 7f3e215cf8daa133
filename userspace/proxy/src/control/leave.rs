//! The ways out: a stop, and a hand-over to a process that serves already.

use tokio::{
    signal::unix::Signal,
    task::JoinHandle,
    time::{Instant, interval, sleep_until, timeout},
};
use weir_runtime::{shutdown::Shutdown, status::UnixServer};

use super::{Control, TICK, at};
use crate::{connection::Phase, limits::IDLE_AFTER_HAND_OVER};

/// What others see of the process beside its listeners, and how it is told to hand over.
pub(crate) struct Outside {
    pub(crate) status: Option<UnixServer>,
    pub(crate) metrics: Option<JoinHandle<()>>,
    pub(crate) hand_over: Signal,
}

impl Outside {
    /// From now on the status is ours and not that of the process before us.
    pub(super) fn take_place(&mut self) {
        if let Some(Err(error)) = self.status.as_mut().map(UnixServer::take_place) {
            tracing::error!("the status socket cannot take its place: {error}");
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.abort();
        }
    }
}

impl Control {
    /// Accepts no more, and waits for what is open.
    pub(super) async fn stop(mut self) {
        self.holder.stopping();
        self.proxy.phase.set(Phase::Stopping);
        self.listeners.end_connections();
        self.publish();
        if let Some(steering) = &self.steering {
            steering.want(Vec::new());
        }
        self.listeners.close().await;
        tracing::info!("accepting no more; open requests may take {:?}", self.options.stop_timeout);
        match timeout(self.options.stop_timeout, self.connections.recv()).await {
            Ok(_all_closed) => tracing::info!("stopped: every connection has ended"),
            Err(_) => self.warn_of_open(),
        }
        self.close_probe_ports();
    }

    /// Leaves the sockets to the process that accepts from them already, and waits for what is open here. Nobody is told that this
    /// process drains: the status is the other one's, and so are the probe ports.
    ///
    /// Idle connections are not closed at once, for a request may be on its way in each of them: who asks once more is told to go.
    pub(super) async fn hand_over(mut self, shutdown: Shutdown, outside: Outside) {
        let limit = self.options.hand_over_timeout;
        // Followers of the status find the other one.
        drop(outside);
        self.close_probe_ports();
        self.steering = None;
        self.self_checks.end();
        self.proxy.phase.set(Phase::Draining);
        self.listeners.hand_over().await;
        tracing::info!("the sockets are left to another process; open requests may take {limit:?}");
        let mut end = Instant::now() + limit;
        let mut idle_until = Some(Instant::now() + IDLE_AFTER_HAND_OVER.min(limit / 2));
        let mut is_hurried = false;
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                // Those that stay are still sent to servers that are up.
                Some(event) = self.events.recv() => self.note_health(event),
                _ = tick.tick() => self.tick(),
                () = at(idle_until) => {
                    idle_until = None;
                    self.proxy.phase.set(Phase::Stopping);
                    self.listeners.end_connections();
                }
                () = shutdown.wait(), if !is_hurried => {
                    is_hurried = true;
                    idle_until = idle_until.map(|_| Instant::now());
                    end = end.min(Instant::now() + self.options.stop_timeout);
                }
                _all_closed = self.connections.recv() => {
                    tracing::info!("handed over: every connection has ended");
                    return;
                }
                () = sleep_until(end) => {
                    self.warn_of_open();
                    return;
                }
            }
        }
    }

    fn warn_of_open(&self) {
        let open: u64 = self.listeners.states().values().map(|state| state.live.connections()).sum();
        tracing::warn!("stopped with {open} connections open");
    }
}
