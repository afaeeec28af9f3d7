//! The keys of everything but access.

use std::time::Duration;

use super::{DAY_MS, HOUR_MS, Key, Kind, Turn, U32_MAX, size_of};
use crate::protocol::MAX_DEPTH;
use crate::server::config::draft::{Draft, Durability};
use crate::server::config::forms::{DIRECTORY, HOST, NAME, NETWORK, ORIGIN, PATH};
use crate::server::config::{Config, LogFormat, LogLevel, Storage, SyncPolicy};
use crate::server::millis;

/// A number of the rate limits: it has a place only where they are on, and setting it turns them on.
macro_rules! rate {
    ($name:literal, $of:literal, $min:literal..=$max:expr, |$limit:ident| $get:expr, |$draft:ident, $number:ident| $set:expr) => {
        whole!(
            $name,
            $of,
            $min..=$max,
            |config| config.rate_limit.as_ref().and_then(|$limit| $get).map(|number| number as u64),
            |draft, number| {
                let ($draft, $number) = (draft.rate_limit(), size_of(number));
                $set;
            }
        )
    };
}

/// Everything but access.
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
    text_of!("host", HOST, |config| Some(&config.host), |draft, text| draft.host =
        Some(text.into())),
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
        "connectionLimits.unauthenticatedTimeoutMs",
        10..=DAY_MS,
        connection_limits.unauthenticated_timeout
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
    Key {
        name: "rateLimit",
        kind: Kind::Part { turn: turn_rate_limit },
    },
    rate!(
        "rateLimit.maxRequests",
        "",
        0..=1_000_000,
        |limit| Some(limit.max_requests),
        |limit, number| limit.max_requests = number
    ),
    whole!(
        "rateLimit.windowMs",
        "milliseconds",
        10..=DAY_MS,
        |config| config.rate_limit.as_ref().map(|limit| millis(limit.window)),
        |draft, number| draft.rate_limit().window = Duration::from_millis(number)
    ),
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
    Key {
        name: "rules.enabled",
        kind: Kind::Switch {
            set: |draft, yes| draft.asks_for_rules = yes,
        },
    },
    Key {
        name: "rules.rules",
        kind: Kind::Rules,
    },
];

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
        } => Some(millis(interval)),
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

fn turn_rate_limit(draft: &mut Draft, turn: Turn) {
    match turn {
        Turn::Off => draft.config.rate_limit = None,
        Turn::On | Turn::Described => _ = draft.rate_limit(),
    }
}
