//! The signals that the program listens to.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop the server.
pub(super) struct StopSignals {
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    interrupt: Signal,
}

/// The signal by which the configuration is read again.
pub(super) struct ReloadSignal {
    #[cfg(unix)]
    hang_up: Signal,
}

#[cfg(unix)]
impl StopSignals {
    /// From here on the signals no longer end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(unix)]
impl ReloadSignal {
    /// From here on the signal no longer ends the process.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) {
        self.hang_up.recv().await;
    }
}

#[cfg(not(unix))]
impl StopSignals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
impl ReloadSignal {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// There is no such signal.
    pub(super) async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}
