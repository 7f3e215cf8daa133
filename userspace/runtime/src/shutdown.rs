//! SIGTERM and SIGINT as a future; a second one ends the process at once.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit status after a second signal: an impatient operator, not a failure of ours (128 + SIGINT).
const IMPATIENT_EXIT: i32 = 130;

/// Resolves when the process was asked to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks for a stop from within, for tests and fatal errors.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Asks every [`Shutdown`] of the pair to resolve.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// A pair that knows no signals.
    pub fn pair() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until a stop is asked for.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stopping| *stopping).await.is_err() {
            // The trigger is gone without having been pulled: nobody can ask for a stop any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Listens for SIGTERM and SIGINT; must be called inside a runtime.
pub fn on_signals() -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (trigger, shutdown) = Shutdown::pair();
    tokio::spawn(async move {
        let mut seen = false;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if seen {
                tracing::warn!("{name} again: leaving at once");
                std::process::exit(IMPATIENT_EXIT);
            }
            seen = true;
            tracing::info!("{name}: stopping");
            trigger.stop();
        }
    });
    Ok(shutdown)
}
