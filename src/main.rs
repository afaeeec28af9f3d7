//! The `noex-server` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    noex_server::cli::run()
}
