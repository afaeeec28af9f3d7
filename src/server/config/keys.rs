//! The one table of keys: how each is spelt, what it may hold and which field it fills in.

use std::path::PathBuf;
use std::time::Duration;

use super::forms::{DIRECTORY, Form, HOST, NAME, NETWORK, ORIGIN, PATH};
use super::{Config, LogConfig, LogFormat, LogLevel, RateLimitConfig, Storage, SyncPolicy};
use crate::protocol::MAX_DEPTH;

/// One key of the configuration.
pub(super) struct Key {
    /// The path in the file, such as `heartbeat.intervalMs`.
    pub(super) name: &'static str,
    /// What it may hold.
    pub(super) kind: Kind,
}

impl Key {
    /// Whether it has an environment variable: the single values at the top of the file have.
    pub(super) fn has_variable(&self) -> bool {
        !self.name.contains('.') && !matches!(self.kind, Kind::Buckets | Kind::Queries | Kind::Weights)
    }
}

/// What a key may hold, and how it gets into a configuration and, where it can be out of bounds, out of it again.
pub(super) enum Kind {
    /// A whole number of something between bounds, both included.
    Whole {
        of: &'static str,
        min: u64,
        max: u64,
        get: fn(&Config) -> Option<u64>,
        set: fn(&mut Draft, u64),
    },
    /// A number above 0, at most 1.
    Fraction { get: fn(&Config) -> f64, set: fn(&mut Draft, f64) },
    /// True or false.
    Switch { set: fn(&mut Draft, bool) },
    /// A text of a form.
    Text {
        form: &'static Form,
        get: fn(&Config) -> Option<&str>,
        set: fn(&mut Draft, &str),
    },
    /// Texts of a form.
    Texts {
        form: &'static Form,
        get: fn(&Config) -> Option<&[String]>,
        set: fn(&mut Draft, Vec<String>),
    },
    /// One of some words.
    Choice {
        words: &'static [&'static str],
        set: fn(&mut Draft, &str),
    },
    /// Whole numbers by the names of operations.
    Weights,
    /// Definitions of buckets by name.
    Buckets,
    /// Definitions of queries by name.
    Queries,
}

/// A number of things or bytes that is one field.
macro_rules! size {
    ($name:literal, $of:literal, $min:literal..=$max:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: $of,
                min: $min,
                max: $max,
                get: |config| Some(config.$($field).+ as u64),
                set: |draft, number| draft.config.$($field).+ = size_of(number),
            },
        }
    };
}

/// A time in milliseconds that is one field.
macro_rules! time {
    ($name:literal, $min:literal..=$max:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: "milliseconds",
                min: $min,
                max: $max,
                get: |config| Some(millis_of(config.$($field).+)),
                set: |draft, number| draft.config.$($field).+ = Duration::from_millis(number),
            },
        }
    };
}

/// A text that is one field.
macro_rules! text {
    ($name:literal, $form:ident, $field:ident) => {
        Key {
            name: $name,
            kind: Kind::Text {
                form: &$form,
                get: |config| Some(&config.$field),
                set: |draft, text| draft.config.$field = text.into(),
            },
        }
    };
}

/// A number of the rate limits: it has a place only where they are on, and setting it turns them on.
macro_rules! rate {
    ($name:literal, $of:literal, $min:literal..=$max:expr, |$limit:ident| $get:expr, |$draft:ident, $number:ident| $set:expr) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: $of,
                min: $min,
                max: $max,
                get: |config| config.rate_limit.as_ref().and_then(|$limit| $get).map(|number| number as u64),
                set: |draft, number| {
                    let ($draft, $number) = (draft.rate_limit(), size_of(number));
                    $set;
                },
            },
        }
    };
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// 4 GiB, and 49 days: more means "never" or "whatever it takes", and still fits a size on every machine.
const U32_MAX: u64 = u32::MAX as u64;

/// Every key that this version has.
pub(super) static KEYS: &[Key] = &[
    Key {
        name: "port",
        kind: Kind::Whole {
            of: "",
            min: 0,
            max: 65_535,
            get: |config| Some(config.port.into()),
            set: set_port,
        },
    },
    text!("host", HOST, host),
    text!("path", PATH, path),
    text!("name", NAME, name),
    Key {
        name: "dataDir",
        kind: Kind::Text {
            form: &DIRECTORY,
            get: data_dir,
            set: |draft, dir| draft.data_dir = Some(dir.into()),
        },
    },
    Key {
        name: "durability",
        kind: Kind::Choice {
            words: &["sync", "interval", "memory"],
            set: set_durability,
        },
    },
    Key {
        name: "durabilityIntervalMs",
        kind: Kind::Whole {
            of: "milliseconds",
            min: 1,
            max: 60_000,
            get: sync_interval_ms,
            set: set_sync_interval,
        },
    },
    size!("maxPayloadBytes", "bytes", 256..=1 << 30, max_payload_bytes),
    Key {
        name: "exposeErrorDetails",
        kind: Kind::Switch {
            set: |draft, yes| draft.config.expose_error_details = yes,
        },
    },
    Key {
        name: "allowedOrigins",
        kind: Kind::Texts {
            form: &ORIGIN,
            get: |config| config.allowed_origins.as_deref(),
            set: |draft, origins| draft.config.allowed_origins = Some(origins),
        },
    },
    time!("idempotencyWindowMs", 10..=U32_MAX, store_limits.command.requests.window),
    size!("maxConnections", "", 1..=10_000_000, max_connections),
    Key {
        name: "maxConnectionsPerIp",
        kind: Kind::Whole {
            of: "",
            min: 1,
            max: 10_000_000,
            get: |config| config.max_connections_per_ip.map(|number| number as u64),
            set: |draft, number| draft.config.max_connections_per_ip = Some(size_of(number)),
        },
    },
    Key {
        name: "trustedProxies",
        kind: Kind::Texts {
            form: &NETWORK,
            get: |config| Some(&config.trusted_proxies),
            set: |draft, networks| draft.config.trusted_proxies = networks,
        },
    },
    Key {
        name: "logFormat",
        kind: Kind::Choice {
            words: &["text", "json"],
            set: set_log_format,
        },
    },
    Key {
        name: "logLevel",
        kind: Kind::Choice {
            words: &["off", "error", "warn", "info", "debug", "trace"],
            set: set_log_level,
        },
    },
    time!("heartbeat.intervalMs", 10..=U32_MAX, heartbeat.interval),
    time!("heartbeat.timeoutMs", 10..=U32_MAX, heartbeat.timeout),
    size!(
        "backpressure.maxBufferedBytes",
        "bytes",
        1_024..=U32_MAX,
        backpressure.max_buffered_bytes
    ),
    Key {
        name: "backpressure.highWaterMark",
        kind: Kind::Fraction {
            get: |config| config.backpressure.high_water_mark,
            set: |draft, part| draft.config.backpressure.high_water_mark = part,
        },
    },
    time!("backpressure.graceMs", 10..=U32_MAX, backpressure.grace),
    size!("backpressure.maxHeldChanges", "", 1..=1_000_000, backpressure.max_held_changes),
    size!(
        "connectionLimits.maxSubscriptionsPerConnection",
        "",
        0..=1_000_000,
        connection_limits.max_subscriptions_per_connection
    ),
    size!(
        "connectionLimits.maxTotalSubscriptions",
        "",
        0..=100_000_000,
        connection_limits.max_total_subscriptions
    ),
    size!(
        "connectionLimits.maxRequestsInFlight",
        "",
        1..=1_000_000,
        connection_limits.max_requests_in_flight
    ),
    size!(
        "connectionLimits.maxBulkRecords",
        "",
        1..=10_000_000,
        connection_limits.max_bulk_records
    ),
    size!(
        "connectionLimits.maxBatchRequests",
        "",
        1..=1_000_000,
        connection_limits.max_batch_requests
    ),
    size!(
        "connectionLimits.maxResultBytes",
        "bytes",
        1_024..=U32_MAX,
        connection_limits.max_result_bytes
    ),
    time!(
        "connectionLimits.handshakeTimeoutMs",
        10..=HOUR_MS,
        connection_limits.handshake_timeout
    ),
    size!(
        "connectionLimits.maxAcceptsPerSecond",
        "",
        0..=1_000_000,
        connection_limits.max_accepts_per_second
    ),
    size!(
        "connectionLimits.maxJsonDepth",
        "",
        2..=MAX_DEPTH as u64,
        connection_limits.max_json_depth
    ),
    size!(
        "connectionLimits.maxFilterConditions",
        "",
        1..=10_000,
        connection_limits.max_filter_conditions
    ),
    size!(
        "connectionLimits.maxTransactionOperations",
        "",
        1..=10_000_000,
        connection_limits.max_transaction_operations
    ),
    size!(
        "connectionLimits.maxNameBytes",
        "bytes",
        1..=65_536,
        connection_limits.max_name_bytes
    ),
    rate!(
        "rateLimit.maxRequests",
        "",
        0..=1_000_000,
        |limit| Some(limit.max_requests),
        |limit, number| limit.max_requests = number
    ),
    Key {
        name: "rateLimit.windowMs",
        kind: Kind::Whole {
            of: "milliseconds",
            min: 10,
            max: DAY_MS,
            get: |config| config.rate_limit.as_ref().map(|limit| millis_of(limit.window)),
            set: |draft, number| draft.rate_limit().window = Duration::from_millis(number),
        },
    },
    rate!("rateLimit.refused", "", 0..=10_000_000, |limit| limit.refused, |limit, number| {
        limit.refused = Some(number)
    }),
    rate!(
        "rateLimit.connections",
        "",
        1..=1_000_000,
        |limit| limit.connections,
        |limit, number| limit.connections = Some(number)
    ),
    rate!(
        "rateLimit.maxKeys",
        "",
        1..=10_000_000,
        |limit| Some(limit.max_keys),
        |limit, number| limit.max_keys = number
    ),
    Key {
        name: "rateLimit.weights",
        kind: Kind::Weights,
    },
    size!(
        "storeLimits.maxPendingCommands",
        "",
        1..=16_777_216,
        store_limits.max_pending_commands
    ),
    size!("storeLimits.maxBuckets", "", 1..=1_000_000, store_limits.max_buckets),
    size!("storeLimits.maxQueries", "", 1..=1_000_000, store_limits.max_queries),
    size!(
        "storeLimits.maxTransactionRows",
        "",
        1_000..=1_000_000_000,
        store_limits.command.rows_read
    ),
    size!(
        "storeLimits.maxCommandBytes",
        "bytes",
        1_048_576..=U32_MAX,
        store_limits.command.bytes
    ),
    size!(
        "storeLimits.maxRecordBytes",
        "bytes",
        1_024..=U32_MAX,
        store_limits.command.record_bytes
    ),
    size!(
        "storeLimits.historyMaxChanges",
        "",
        0..=10_000_000,
        store_limits.history.max_changes
    ),
    size!(
        "storeLimits.historyMaxBytes",
        "bytes",
        1_024..=U32_MAX,
        store_limits.history.max_bytes
    ),
    size!(
        "storeLimits.historyMaxTotalBytes",
        "bytes",
        1_024..=U32_MAX,
        store_limits.history.max_total_bytes
    ),
    size!(
        "storeLimits.maxRequestKeys",
        "",
        1..=100_000_000,
        store_limits.command.requests.keys
    ),
    size!(
        "storeLimits.maxRequestKeyBytes",
        "bytes",
        1_024..=U32_MAX,
        store_limits.command.requests.bytes
    ),
    time!("storeLimits.ttlCheckIntervalMs", 10..=HOUR_MS, store_limits.ttl_check_interval),
    time!("shutdown.gracePeriodMs", 0..=HOUR_MS, shutdown.grace_period),
    Key {
        name: "buckets",
        kind: Kind::Buckets,
    },
    Key {
        name: "queries",
        kind: Kind::Queries,
    },
];

/// Keys of capabilities that this version does not have.
pub(super) const LATER: &[&str] = &["auth", "rules", "audit", "procedures", "tls", "adminPort", "revocation"];

/// Keys of other servers of the protocol, with what to use here.
pub(super) const REPLACED: &[(&str, &str)] = &[
    ("persistence", "use \"durability\": sync, interval or memory"),
    ("db", "use \"dataDir\", the directory where data is kept"),
    ("adminSecret", "authentication is not available in this version"),
];

/// A configuration that is being put together: as [`Config`], with what several keys make up still apart.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) log: LogConfig,
    durability: Durability,
    data_dir: Option<PathBuf>,
    sync_interval: Option<Duration>,
}

#[derive(Clone, Copy, Default)]
enum Durability {
    #[default]
    Sync,
    Interval,
    Memory,
}

impl Draft {
    /// The rate limits, which are on from now.
    pub(super) fn rate_limit(&mut self) -> &mut RateLimitConfig {
        self.config.rate_limit.get_or_insert_default()
    }

    /// Takes note of an object of the file, which may be empty: the mere presence of some says something.
    pub(super) fn begin_section(&mut self, section: &str) {
        if section == "rateLimit" {
            self.rate_limit();
        }
    }

    /// The whole configuration.
    pub(super) fn finish(self) -> (Config, LogConfig) {
        let dir = self.data_dir.unwrap_or_else(|| Config::DEFAULT_DATA_DIR.into());
        let interval = self.sync_interval.unwrap_or(Config::DEFAULT_SYNC_INTERVAL);
        let storage = match self.durability {
            Durability::Sync => Storage::Disk {
                dir,
                sync: SyncPolicy::EveryGroup,
            },
            Durability::Interval => Storage::Disk {
                dir,
                sync: SyncPolicy::Interval(interval),
            },
            Durability::Memory => Storage::Memory,
        };
        (Config { storage, ..self.config }, self.log)
    }
}

fn set_port(draft: &mut Draft, number: u64) {
    draft.config.port = u16::try_from(number).unwrap_or(u16::MAX);
}

fn data_dir(config: &Config) -> Option<&str> {
    match &config.storage {
        Storage::Memory => None,
        Storage::Disk { dir, .. } => dir.to_str(),
    }
}

fn sync_interval_ms(config: &Config) -> Option<u64> {
    match config.storage {
        Storage::Memory
        | Storage::Disk {
            sync: SyncPolicy::EveryGroup,
            ..
        } => None,
        Storage::Disk {
            sync: SyncPolicy::Interval(interval),
            ..
        } => Some(millis_of(interval)),
    }
}

fn set_sync_interval(draft: &mut Draft, number: u64) {
    draft.sync_interval = Some(Duration::from_millis(number));
}

fn set_durability(draft: &mut Draft, word: &str) {
    draft.durability = match word {
        "interval" => Durability::Interval,
        "memory" => Durability::Memory,
        _ => Durability::Sync,
    };
}

fn set_log_format(draft: &mut Draft, word: &str) {
    draft.log.format = match word {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
}

fn set_log_level(draft: &mut Draft, word: &str) {
    draft.log.level = match word {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => LogLevel::Info,
    };
}

/// A number within its bounds as a size; every bound fits 32 bits.
fn size_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
