//! The server from start to exit: banner, signals, graceful stop.

use std::io::{self, Write};

use super::banner::banner;
use super::run::FAULT;
use super::signals::{ReloadSignal, StopSignals};
use crate::server::NoexServer;
use crate::server::config::{ConfigError, LogConfig, Resolved};

const STOPPED: u8 = 0;

/// Runs the server until a signal stops it, and gives the exit status. `read_again` gives the configuration as it is
/// written by then.
pub(super) fn serve(config: Resolved, read_again: impl Fn() -> Result<Resolved, ConfigError>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return FAULT;
        }
    };
    let status = runtime.block_on(serve_until_stopped(config, read_again));
    // What still runs now was given its time, or a second signal has cut it short.
    runtime.shutdown_background();
    status
}

async fn serve_until_stopped(resolved: Resolved, read_again: impl Fn() -> Result<Resolved, ConfigError>) -> u8 {
    let Resolved { config, log, .. } = resolved;
    let listening = StopSignals::listen().and_then(|stop| Ok((stop, ReloadSignal::listen()?)));
    let (mut signals, mut hang_up) = match listening {
        Ok(listening) => listening,
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
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = hang_up.next() => reload(&server, log, read_again()),
            () = server.store().ended() => {
                // Nothing of what was acknowledged is lost; whoever runs the server should start it again.
                tracing::error!("the store has failed: the server cannot go on");
                server.stop_now().await;
                return FAULT;
            }
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

/// Takes over what can be taken over while the server runs, and says what cannot.
fn reload(server: &NoexServer, log: LogConfig, written: Result<Resolved, ConfigError>) {
    let resolved = match written {
        Ok(resolved) => resolved,
        Err(error) => return tracing::error!("the configuration stays as it was: {error}"),
    };
    for warning in resolved.warnings {
        tracing::warn!("{warning}");
    }
    let mut waiting = match server.reload(resolved.config) {
        Ok(waiting) => waiting,
        Err(error) => return tracing::error!("the configuration stays as it was: {error}"),
    };
    if resolved.log != log {
        waiting.push("logFormat, logLevel");
    }
    if waiting.is_empty() {
        tracing::info!("the configuration was read again");
    } else {
        tracing::warn!("the configuration was read again; a restart is needed for {}", waiting.join(", "));
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
