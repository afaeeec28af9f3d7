//! The configuration: what the server runs with, and how it is put together from a file, the environment and flags.
//!
//! Two steps. [`Sources`] holds everything as it was written; [`Sources::resolve`] checks all of it against the one
//! table of keys (`keys/`) and gives a [`Resolved`] configuration or every fault at once. A program that embeds the
//! server needs neither: it fills in a [`Config`], which is checked against the same table when the server starts.

#[cfg(test)]
mod access_tests;
mod auth;
mod check;
mod draft;
mod fault;
mod forms;
mod json;
mod keys;
mod names;
mod raw;
mod reload;
mod resolution;
mod secrets;
#[cfg(test)]
mod tests;
mod together;
mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Map, Value};

pub use auth::{
    Argon2Config, AuditConfig, AuditSink, AuthConfig, BuiltInConfig, DefaultPermission, JwtAlgorithm, JwtConfig, LoginRateLimitConfig,
    PermissionCheck, PermissionRule, PermissionsConfig, Principal, Secret, StaticToken, TokenFault, TokenValidator,
};
pub use fault::{ConfigError, Fault, Place};
pub(crate) use names::nearest;
pub use raw::{Resolved, Sources};
pub(crate) use reload::Reload;

use crate::protocol::{BucketName, MAX_DEPTH, Operation, QueryName};
pub use crate::store::StoreLimits;

/// What the server runs with.
///
/// ```
/// use noex_server::server::config::{Config, Storage};
///
/// let config = Config { port: 0, storage: Storage::Memory, ..Config::default() };
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The address or host name to listen on. Default `127.0.0.1`: listening openly has to be asked for. (By a file or
    /// flags that turn on authentication and name no host, the server listens on `0.0.0.0`.)
    pub host: String,
    /// The TCP port, 0 to 65,535. Default 8080; 0 picks a free one.
    pub port: u16,
    /// The path of the WebSocket endpoint, compared as it stands. Default `/`.
    pub path: String,
    /// The name shown in statistics, 1 to 200 characters. Default `noex-server`.
    pub name: String,
    /// Where data is kept. Default: on disk, in `./noex-data`, every commit group synced.
    pub storage: Storage,
    /// The largest message taken from a client, in bytes, 256 to 1 GiB. Default 1 MiB.
    pub max_payload_bytes: usize,
    /// Whether error replies carry `details`. Default true.
    pub expose_error_details: bool,
    /// The origins that browsers may connect from, compared exactly. Default `None`: any. An empty list refuses
    /// every request that names an origin.
    pub allowed_origins: Option<Vec<String>>,
    /// The most connections at one time, 1 to 10,000,000; beyond it upgrades get HTTP 503. Default 100,000.
    pub max_connections: usize,
    /// The most connections of one address, 1 to 10,000,000; beyond it they are closed with 4003. Default `None`: no limit.
    pub max_connections_per_ip: Option<usize>,
    /// The addresses and networks of proxies whose `X-Forwarded-For` is believed, such as `10.0.0.7` and `10.1.0.0/16`.
    /// Default none: clients are known by the addresses of their sockets.
    pub trusted_proxies: Vec<String>,
    /// How often clients may ask for something. Default `None`: as often as they like.
    pub rate_limit: Option<RateLimitConfig>,
    /// When silent clients are given up.
    pub heartbeat: HeartbeatConfig,
    /// How much may wait for a client that reads slowly.
    pub backpressure: BackpressureConfig,
    /// What one connection, and all of them together, may take up.
    pub connection_limits: ConnectionLimits,
    /// What the store may take up.
    pub store_limits: StoreLimits,
    /// How the server stops.
    pub shutdown: ShutdownConfig,
    /// Buckets to define at start if they are not there, each as `store.defineBucket` takes it. Default none.
    pub buckets: IndexMap<BucketName, Map<String, Value>>,
    /// Queries to define at start if they are not there, each as `store.defineQuery` takes it. Default none.
    pub queries: IndexMap<QueryName, Map<String, Value>>,
    /// Who may log in, and how. Default `None`: nobody is asked, and everybody may do everything.
    pub auth: Option<AuthConfig>,
    /// What is written down of who did what. Default `None`: nothing.
    pub audit: Option<AuditConfig>,
    /// How long a user whose session was revoked by the embedding program cannot log in again by a token, 0 to 1 year.
    /// Default 1 h.
    pub revocation_ttl: Duration,
    /// Whether stored definitions that differ from `buckets` and `queries` are updated. Default false: the stored
    /// one stays and the difference is logged.
    pub apply: bool,
}

/// Where data is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Nowhere: it is gone when the server stops.
    Memory,
    /// In a directory.
    Disk {
        /// The directory; created if it is not there. Relative to the working directory. Default `./noex-data`.
        dir: PathBuf,
        /// When what was written is made safe against a loss of power. Default [`SyncPolicy::EveryGroup`].
        sync: SyncPolicy,
    },
}

/// When what was written is made safe against a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before anything of a commit group is acknowledged or pushed.
    EveryGroup,
    /// This often, 1 ms to 60 s; what was acknowledged since the last time can be lost with the machine.
    Interval(Duration),
}

/// When silent clients are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// The time between two pings, 10 ms to 49 days. Default 30 s.
    pub interval: Duration,
    /// How long a pong may take, 10 ms to 49 days. Default 10 s.
    pub timeout: Duration,
}

/// How much may wait for a client that reads slowly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackpressureConfig {
    /// The hard limit of one connection's unsent bytes, 1 KiB to 4 GiB. Default 1 MiB.
    pub max_buffered_bytes: usize,
    /// The part of `max_buffered_bytes` from which pushes are held back, above 0, at most 1. Default 0.8.
    pub high_water_mark: f64,
    /// How long a client may stay too slow before it is closed with 4004, 10 ms to 49 days. Default 10 s.
    pub grace: Duration,
    /// The most sets of changes that wait for one subscription, 1 to 1,000,000; beyond it they are dropped, and the
    /// client is told how many. Default 1,000.
    pub max_held_changes: usize,
}

/// How often clients may ask for something. Every quota may be used up at once, and refills evenly over the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// The most requests of one client, 0 (none at all) to 1,000,000. Default 200.
    pub max_requests: usize,
    /// The time in which an empty quota is full again, 10 ms to 24 h. Default 60 s.
    pub window: Duration,
    /// The most messages of one address that are refused for their form, 0 to 10,000,000; beyond it connections are
    /// closed with 1008. Default `None`: ten times `max_requests`, and ten at least.
    pub refused: Option<usize>,
    /// The most new connections of one address, 1 to 1,000,000; beyond it upgrades get HTTP 429. Default `None`: no limit.
    pub connections: Option<usize>,
    /// What a request of an operation counts for, 1 to `max_requests`. Default 1 for all that are not named.
    pub weights: IndexMap<Operation, usize>,
    /// The most clients that are kept apart, 1 to 10,000,000; those who come when all are in use share their quotas.
    /// Default 100,000.
    pub max_keys: usize,
}

/// What one connection, and all of them together, may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most subscriptions of one connection, 0 (none) to 1,000,000. Default 100.
    pub max_subscriptions_per_connection: usize,
    /// The most subscriptions of all connections together, 0 (none) to 100,000,000. Default 10,000.
    pub max_total_subscriptions: usize,
    /// The most unanswered requests of one connection, 1 to 1,000,000; beyond it, it is not read. Default 256.
    pub max_requests_in_flight: usize,
    /// The most records of one bulk operation, 1 to 10,000,000. Default 10,000.
    pub max_bulk_records: usize,
    /// The most requests of one batch, 1 to 1,000,000. Default 1,000.
    pub max_batch_requests: usize,
    /// The largest answer, in bytes, 1 KiB to 4 GiB. Default 256 MiB.
    pub max_result_bytes: usize,
    /// How long a client may take to complete its upgrade request, 10 ms to 1 h. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a client may take to log in where it has to, 10 ms to 24 h. Default 60 s.
    pub unauthenticated_timeout: Duration,
    /// The most sockets accepted in a second, 0 (no limit) to 1,000,000; others wait in the system's queue. Default 5,000.
    pub max_accepts_per_second: usize,
    /// How deep a message may be nested, 2 to 100. Default 100.
    pub max_json_depth: usize,
    /// The most conditions of one filter, nested ones and elements of lists included, 1 to 10,000. Default 1,000.
    pub max_filter_conditions: usize,
    /// The most operations of one transaction, 1 to 10,000,000. Default 10,000.
    pub max_transaction_operations: usize,
    /// The longest name of a bucket or a query that clients may define, in bytes, 1 to 65,536. Default 512.
    pub max_name_bytes: usize,
}

/// How the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long clients have to leave after the notice, 0 to 1 h. Default 5 s.
    pub grace_period: Duration,
}

/// How the program logs. Not part of [`Config`]: a program that embeds the server has its own subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// The shape of a line. Default text.
    pub format: LogFormat,
    /// The least important level that is logged. Default info.
    pub level: LogLevel,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing is logged.
    Off,
    /// What failed.
    Error,
    /// What may need somebody's attention.
    Warn,
    /// What happened on the whole.
    #[default]
    Info,
    /// What happened in detail.
    Debug,
    /// Everything.
    Trace,
}

impl Config {
    /// The address listened on unless another is named.
    pub const DEFAULT_HOST: &str = "127.0.0.1";
    /// The port listened on unless another is named.
    pub const DEFAULT_PORT: u16 = 8080;
    /// The directory used unless another is named.
    pub const DEFAULT_DATA_DIR: &str = "./noex-data";
    /// The time between two syncs where `interval` is chosen and no time is named.
    pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_millis(50);

    /// Checks every value against its bounds and every definition against the grammar of definitions.
    ///
    /// # Errors
    /// All faults at once, each with the key that it would have in a file.
    pub fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless_empty(check::faults_of(self))
    }

    /// Whether clients on other machines can reach the server: anything but a loopback address counts as open.
    #[must_use]
    pub fn listens_openly(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => !address.to_canonical().is_loopback(),
            Err(_) => !self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: Self::DEFAULT_HOST.to_owned(),
            port: Self::DEFAULT_PORT,
            path: "/".to_owned(),
            name: "noex-server".to_owned(),
            storage: Storage::default(),
            max_payload_bytes: 1 << 20,
            expose_error_details: true,
            allowed_origins: None,
            max_connections: 100_000,
            max_connections_per_ip: None,
            trusted_proxies: Vec::new(),
            rate_limit: None,
            heartbeat: HeartbeatConfig::default(),
            backpressure: BackpressureConfig::default(),
            connection_limits: ConnectionLimits::default(),
            store_limits: StoreLimits::default(),
            shutdown: ShutdownConfig::default(),
            buckets: IndexMap::new(),
            queries: IndexMap::new(),
            auth: None,
            audit: None,
            revocation_ttl: Duration::from_secs(3600),
            apply: false,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::Disk {
            dir: Config::DEFAULT_DATA_DIR.into(),
            sync: SyncPolicy::EveryGroup,
        }
    }
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for BackpressureConfig {
    fn default() -> Self {
        Self {
            max_buffered_bytes: 1 << 20,
            high_water_mark: 0.8,
            grace: Duration::from_secs(10),
            max_held_changes: 1_000,
        }
    }
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            max_requests: 200,
            window: Duration::from_secs(60),
            refused: None,
            connections: None,
            weights: IndexMap::new(),
            max_keys: 100_000,
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_subscriptions_per_connection: 100,
            max_total_subscriptions: 10_000,
            max_requests_in_flight: 256,
            max_bulk_records: 10_000,
            max_batch_requests: 1_000,
            max_result_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(10),
            unauthenticated_timeout: Duration::from_secs(60),
            max_accepts_per_second: 5_000,
            max_json_depth: MAX_DEPTH,
            max_filter_conditions: 1_000,
            max_transaction_operations: 10_000,
            max_name_bytes: 512,
        }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            grace_period: Duration::from_secs(5),
        }
    }
}
