//! The command line exactly as typed; `server::config` checks the values, with those of every other source.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use clap_complete::Shell;

use super::token::TokenArgs;
use crate::server::config::{Secret, Sources};

const AFTER_HELP: &str = "\
A value comes from its flag, else from its environment variable (NOEX_ and the key in upper snake case, such as
NOEX_MAX_PAYLOAD_BYTES for maxPayloadBytes), else from the file, else it is the default.

Exit status: 0 stopped by a signal, 1 a fault at run time, 2 bad flags or configuration, 3 the data directory cannot be
used, 4 the port cannot be bound.";

/// A reactive data store served over WebSocket.
#[derive(Debug, Default, Parser)]
#[command(
    name = "noex-server",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    disable_version_flag = true,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = AFTER_HELP,
    max_term_width = 120
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// TCP port to listen on; 0 picks a free one [default: 8080]
    #[arg(short, long, value_name = "PORT", allow_hyphen_values = true)]
    port: Option<String>,

    /// Address to listen on [default: 127.0.0.1, with logins 0.0.0.0]
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    host: Option<String>,

    /// Path of the WebSocket endpoint [default: /]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// Name shown in statistics [default: noex-server]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Directory where data is kept [default: ./noex-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// When data is safe on disk: sync, interval or memory (nothing on disk) [default: sync]
    #[arg(long, value_name = "LEVEL")]
    durability: Option<String>,

    /// Leave details out of error replies
    #[arg(long)]
    no_error_details: bool,

    /// Origins that browsers may connect from, separated by commas [default: any]
    #[arg(long, value_name = "LIST")]
    allowed_origins: Option<String>,

    /// Most connections of one address [default: no limit]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    max_connections_per_ip: Option<String>,

    /// Log in before anything else, as a user that the server keeps
    #[arg(long)]
    auth: bool,

    /// Secret that the first administrator is made with, 32 bytes or more; better in NOEX_ADMIN_SECRET
    #[arg(long, value_name = "SECRET")]
    admin_secret: Option<Secret>,

    /// Record who did what
    #[arg(long)]
    audit: bool,

    /// Shape of log lines: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// What is logged: off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Configuration file, .json or .toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration and exit
    #[arg(long)]
    pub(super) check: bool,

    /// Update stored buckets and queries that differ from the configuration file
    #[arg(long)]
    apply: bool,

    /// Print a completion script and exit
    #[arg(long, value_name = "SHELL", value_enum)]
    pub(super) completions: Option<Shell>,

    /// Print the version
    #[arg(short = 'V', short_alias = 'v', long, action = ArgAction::Version)]
    version: (),

    #[command(flatten)]
    unusable: UnusableFlags,
}

/// What the program does instead of serving.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Token(TokenArgs),
    AuditVerify(AuditVerifyArgs),
}

/// Look whether the file of an audit log is as it was written
///
/// Follows the digests from line to line, through the files that were put aside. Prints how many lines there are and the
/// digest of the last: kept elsewhere, it shows later whether the end was cut off.
#[derive(Debug, clap::Args)]
pub(super) struct AuditVerifyArgs {
    /// The file of the configuration's audit.file
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

/// Flags of other versions and servers, taken so that they can be answered with what to use instead.
#[derive(Debug, Default, clap::Args)]
struct UnusableFlags {
    #[arg(long, hide = true, num_args = 0..=1)]
    admin_port: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    persistence: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    db: Option<Option<String>>,
    #[arg(long, hide = true)]
    no_rules: bool,
}

impl Args {
    /// The sources of the configuration: the file named, the environment given, and these flags.
    pub(super) fn sources(&self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Sources {
        let mut sources = Sources::new().variables(variables).apply(self.apply);
        if let Some(file) = &self.config {
            sources = sources.file(file);
        }
        for (flag, key, text) in self.values() {
            if let Some(text) = text {
                sources = sources.flag(flag, key, text);
            }
        }
        for (flag, is_given, instead) in self.unusable.all() {
            if is_given {
                sources = sources.refused_flag(flag, instead);
            }
        }
        sources
    }

    /// Every flag that carries a value of the configuration, with its key.
    fn values(&self) -> [(&'static str, &'static str, Option<&str>); 14] {
        [
            ("--port", "port", self.port.as_deref()),
            ("--host", "host", self.host.as_deref()),
            ("--path", "path", self.path.as_deref()),
            ("--name", "name", self.name.as_deref()),
            ("--data-dir", "dataDir", self.data_dir.as_deref()),
            ("--durability", "durability", self.durability.as_deref()),
            ("--no-error-details", "exposeErrorDetails", self.no_error_details.then_some("false")),
            ("--allowed-origins", "allowedOrigins", self.allowed_origins.as_deref()),
            (
                "--max-connections-per-ip",
                "maxConnectionsPerIp",
                self.max_connections_per_ip.as_deref(),
            ),
            ("--auth", "auth", self.auth.then_some("true")),
            ("--admin-secret", "adminSecret", self.admin_secret.as_ref().map(Secret::expose)),
            ("--audit", "audit", self.audit.then_some("true")),
            ("--log-format", "logFormat", self.log_format.as_deref()),
            ("--log-level", "logLevel", self.log_level.as_deref()),
        ]
    }
}

impl UnusableFlags {
    fn all(&self) -> [(&'static str, bool, &'static str); 4] {
        [
            ("--admin-port", self.admin_port.is_some(), "is not available in this version"),
            (
                "--persistence",
                self.persistence.is_some(),
                "no flag of this server; use --durability sync, interval or memory",
            ),
            (
                "--db",
                self.db.is_some(),
                "no flag of this server; use --data-dir, the directory where data is kept",
            ),
            (
                "--no-rules",
                self.no_rules,
                "not needed: rules are not available in this version; leave the flag out",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::server::config::{AuditConfig, AuthConfig, BuiltInConfig, Config, Storage};

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["noex-server"].iter().chain(arguments))
    }

    fn config(arguments: &[&str]) -> Config {
        parse(arguments).unwrap().sources([]).resolve().unwrap().config
    }

    fn fault(arguments: &[&str]) -> String {
        parse(arguments).unwrap().sources([]).resolve().unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_shows_every_flag_that_can_be_used() {
        insta::assert_snapshot!(Args::command().term_width(120).render_long_help());
    }

    #[test]
    fn every_version_flag_prints_name_and_version() {
        for flag in ["-V", "-v", "--version"] {
            let answer = parse(&[flag]).unwrap_err();
            assert_eq!(
                (answer.exit_code(), answer.to_string()),
                (0, format!("noex-server v{}\n", env!("CARGO_PKG_VERSION"))),
                "{flag}"
            );
        }
    }

    #[test]
    fn flags_take_their_values_in_every_usual_spelling_and_the_last_wins() {
        assert_eq!(config(&["-p", "3000"]).port, 3000);
        assert_eq!(config(&["--port=3000", "--port", "3001"]).port, 3001);
        assert_eq!(config(&["-H", "0.0.0.0"]).host, "0.0.0.0");
        assert_eq!(
            config(&["--allowed-origins", "https://a.example , null"]).allowed_origins.unwrap(),
            ["https://a.example", "null"]
        );
    }

    #[test]
    fn every_value_flag_reaches_its_key() {
        let all = [
            "--port=1",
            "--host=localhost",
            "--path=/live",
            "--name=desk",
            "--data-dir=/srv",
            "--durability=memory",
            "--no-error-details",
            "--allowed-origins=null",
            "--max-connections-per-ip=2",
            "--auth",
            "--admin-secret=0123456789abcdef0123456789abcdef",
            "--audit",
            "--log-format=json",
            "--log-level=off",
            "--apply",
        ];
        let expected = Config {
            port: 1,
            host: "localhost".to_owned(),
            path: "/live".to_owned(),
            name: "desk".to_owned(),
            storage: Storage::Memory,
            expose_error_details: false,
            allowed_origins: Some(vec!["null".to_owned()]),
            max_connections_per_ip: Some(2),
            auth: Some(AuthConfig {
                built_in: Some(BuiltInConfig {
                    admin_secret: Some("0123456789abcdef0123456789abcdef".into()),
                    ..BuiltInConfig::default()
                }),
                ..AuthConfig::default()
            }),
            audit: Some(AuditConfig::default()),
            apply: true,
            ..Config::default()
        };
        assert_eq!(config(&all), expected);
    }

    #[test]
    fn faults_of_flags_are_listed_together_with_their_names() {
        insta::assert_snapshot!(fault(&[
            "--port",
            "-1",
            "--durability=none",
            "--data-dir=",
            "--log-level=loud",
            "--host=a:b"
        ]));
    }

    #[test]
    fn flags_of_other_servers_are_answered_with_what_to_use() {
        let all = ["--persistence", "sqlite", "--db=x.db", "--no-rules", "--admin-port=1"];
        insta::assert_snapshot!(fault(&all));
        assert!(fault(&["--persistence"]).contains("--durability"));
    }

    #[test]
    fn a_secret_on_the_command_line_is_not_shown() {
        let args = parse(&["--auth", "--admin-secret=too-short"]).unwrap();
        assert!(!format!("{args:?}").contains("too-short"));
        assert!(!fault(&["--auth", "--admin-secret=too-short"]).contains("too-short"));
    }

    #[test]
    fn an_unknown_flag_or_argument_ends_with_status_2() {
        for argument in ["--prot", "stray", "--completions=tcsh"] {
            assert_eq!(parse(&[argument]).unwrap_err().exit_code(), 2, "{argument}");
        }
    }
}
