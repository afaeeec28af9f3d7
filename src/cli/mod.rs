//! The program: flags, logging, banner, signals and exit statuses around [`crate::server`].

mod args;
mod banner;
mod logging;
mod run;
mod serve;
mod signals;
mod token;

pub use run::run;
