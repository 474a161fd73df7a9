//! Signals: SIGTERM and Ctrl-C, heard from the first moment of a command to its end.

use std::io;

use tokio::sync::watch;

/// Signals that ask a command to end. They are counted from the moment they are listened for: one
/// that comes while nobody waits is not lost, and does not kill the process.
#[derive(Debug, Clone)]
pub(super) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Listens from now on, in place of the end of the process that each would be.
    ///
    /// # Errors
    /// The system lets nobody listen.
    pub(super) fn listen() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(0);
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::spawn(async move {
                // Whichever comes; neither ends before the runtime does.
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    sender.send_modify(|heard| *heard += 1);
                }
            });
        }
        #[cfg(not(unix))]
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                sender.send_modify(|heard| *heard += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Resolves once one has come: the command is to end.
    pub(super) async fn stop(&self) {
        self.heard(1).await;
    }

    /// Resolves once a second one has come: the command is to end at once.
    pub(super) async fn hurry(&self) {
        self.heard(2).await;
    }

    /// Result of `work`, or `None` if a signal comes first. The work is dropped where it is.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop() => None,
            done = work => Some(done),
        }
    }

    async fn heard(&self, count: u32) {
        let mut heard = self.0.clone();
        if heard.wait_for(|heard| *heard >= count).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
