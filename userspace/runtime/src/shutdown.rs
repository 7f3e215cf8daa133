//! SIGTERM and SIGINT as a future; a second one ends the process at once.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit status after a second signal: an impatient operator, not a failure of ours (128 + SIGINT).
const IMPATIENT_EXIT: i32 = 130;

/// Who asked for a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM: a service manager, that may start the process again.
    Terminate,
    /// SIGINT: an operator at a terminal.
    Interrupt,
    /// The process itself.
    Itself,
}

/// Resolves when the process was asked to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Option<Cause>>);

/// Asks for a stop from within, for tests and fatal errors.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<Option<Cause>>);

impl Trigger {
    /// Asks every [`Shutdown`] of the pair to resolve.
    pub fn stop(&self) {
        self.pull(Cause::Itself);
    }

    fn pull(&self, cause: Cause) {
        self.0.send_replace(Some(cause));
    }
}

impl Shutdown {
    /// A pair that knows no signals.
    pub fn pair() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(None);
        (Trigger(sender), Self(receiver))
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.cause().is_some()
    }

    /// Who asked for a stop, when somebody did.
    pub fn cause(&self) -> Option<Cause> {
        *self.0.borrow()
    }

    /// Waits until a stop is asked for.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(Option::is_some).await.is_err() {
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
            let (name, cause) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", Cause::Terminate),
                _ = interrupt.recv() => ("SIGINT", Cause::Interrupt),
            };
            if seen {
                tracing::warn!("{name} again: leaving at once");
                std::process::exit(IMPATIENT_EXIT);
            }
            seen = true;
            tracing::info!("{name}: stopping");
            trigger.pull(cause);
        }
    });
    Ok(shutdown)
}
