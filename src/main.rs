//! The `noex-server` program.

use std::process::ExitCode;

/// Gives memory back that short-lived connections have left scattered, which the system's allocator keeps.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    noex_server::cli::run()
}
