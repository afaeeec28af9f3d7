//! Log lines on standard error; standard output holds the banner alone.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::server::config::{LogConfig, LogFormat, LogLevel};

/// Starts logging.
///
/// # Errors
/// Where the process logs already.
pub(super) fn start(config: LogConfig) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let lines = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(EnvFilter::new(filter(config.level)));
    match config.format {
        LogFormat::Text => lines.with_target(false).with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
}

/// Our own lines from the level on; those of libraries where something is amiss, or from `debug` on somewhat more. Never
/// what the library of WebSockets says at `trace`: it shows every message, and so every token and password.
fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,noex_server=info",
        LogLevel::Debug => "info,noex_server=debug",
        LogLevel::Trace => "trace,tungstenite=info,tokio_tungstenite=info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_filter_that_is_understood() {
        for level in [
            LogLevel::Off,
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
            LogLevel::Trace,
        ] {
            assert!(EnvFilter::try_new(filter(level)).is_ok(), "{level:?}");
        }
    }
}
