//! The server from start to exit: banner, signals, graceful stop.

use std::io::{self, Write};

use super::banner::banner;
use super::run::FAULT;
use crate::server::{Config, NoexServer};

const STOPPED: u8 = 0;

/// Runs the server until a signal stops it, and gives the exit status.
pub(super) fn serve(config: Config) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return FAULT;
        }
    };
    let status = runtime.block_on(serve_until_stopped(config));
    // What still runs now was given its time, or a second signal has cut it short.
    runtime.shutdown_background();
    status
}

async fn serve_until_stopped(config: Config) -> u8 {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("cannot listen for signals: {error}");
            return FAULT;
        }
    };
    let started = tokio::select! {
        started = NoexServer::start(config.clone()) => started,
        () = signals.next() => {
            tracing::info!("stopped before it had started");
            return STOPPED;
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error}");
            return error.exit_status();
        }
    };
    if let Err(error) = print(&banner(&config, server.local_addr())) {
        tracing::warn!("cannot print the banner: {error}");
    }
    tokio::select! {
        () = signals.next() => {}
        () = server.store().ended() => {
            // Nothing of what was acknowledged is lost; whoever runs the server should start it again.
            tracing::error!("the store has failed: the server cannot go on");
            server.stop_now().await;
            return FAULT;
        }
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => {}
        () = signals.next() => server.stop_now().await,
    }
    tracing::info!("stopped");
    STOPPED
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The signals that stop the server.
struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    /// From here on the signals no longer end the process by themselves.
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
