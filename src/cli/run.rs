//! From the command line to an exit status.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::args::{Args, Command};
use super::{logging, serve, token};
use crate::server::{NoexServer, Verified, verify_audit_log};

/// A fault at run time that the server cannot survive.
pub(super) const FAULT: u8 = 1;
const BAD_CONFIGURATION: u8 = 2;

/// Runs the program with the arguments and the environment of this process.
#[must_use]
pub fn run() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run_with(&args, std::env::vars_os()),
        Err(refusal) => {
            // Help and version come this way too. Nobody is left to tell where even this cannot be printed.
            let _ = refusal.print();
            u8::try_from(refusal.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn run_with(args: &Args, variables: impl IntoIterator<Item = (OsString, OsString)>) -> ExitCode {
    let variables: Vec<_> = variables.into_iter().collect();
    if let Some(shell) = args.completions {
        return print(&completions(shell));
    }
    match &args.command {
        None => {}
        Some(Command::Token(order)) => {
            return match token::make(order, variables) {
                Ok(token) => print(format!("{}\n", token.expose()).as_bytes()),
                Err(problem) => complain(&problem, BAD_CONFIGURATION),
            };
        }
        Some(Command::AuditVerify(order)) => {
            return match verify_audit_log(&order.file) {
                Ok(verified) => print(describe(&verified).as_bytes()),
                Err(problem) => complain(&problem, FAULT),
            };
        }
    }
    let read = || args.sources(variables.clone()).resolve();
    let resolved = match read() {
        Ok(resolved) => resolved,
        Err(error) => return complain(&error, BAD_CONFIGURATION),
    };
    if let Err(error) = logging::start(resolved.log) {
        return complain(&*error, FAULT);
    }
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    if args.check {
        return match NoexServer::check(&resolved.config) {
            Ok(()) => print(b"The configuration is fine.\n"),
            Err(error) => complain(&error, error.exit_status()),
        };
    }
    ExitCode::from(serve::serve(resolved, read))
}

/// What is said of an audit log that is sound.
fn describe(log: &Verified) -> String {
    let Verified { files, lines, head, .. } = log;
    let beginning = if log.is_whole {
        ""
    } else {
        "It begins behind files that were removed.\n"
    };
    let end = if log.is_torn { "Its last line is not complete.\n" } else { "" };
    let files = files.len();
    format!("The audit log is as it was written. Lines: {lines}, files: {files}.\n{beginning}{end}Last line: {head}\n")
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "noex-server", &mut script);
    script
}

fn print(text: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAULT),
    }
}

/// Says why the program ends. Logging has not started yet: its own configuration may be what is wrong.
fn complain(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    // Nobody is left to tell where even this cannot be printed.
    let _ = writeln!(io::stderr(), "Error: {error}\nRun \"noex-server --help\" for usage information.");
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_flags() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let script = String::from_utf8(completions(shell)).unwrap();
            for flag in ["data-dir", "durability", "audit", "admin-secret", "completions"] {
                assert!(script.contains(flag), "{shell}: {flag}");
            }
        }
    }
}
