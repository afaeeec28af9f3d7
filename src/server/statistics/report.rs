//! Reports, as they are on the wire: `server.stats` and `server.connections`.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use indexmap::IndexMap;
use serde::Serialize;

use super::connection::ConnectionFigures;
use super::counters::{Count, Counters};
use super::histogram::LatencyStats;
use crate::protocol::{CloseCode, ConnectionId, ErrorCode, Tier};
use crate::store::StoreStats;

/// How a server is doing, as [`NoexServer::stats`](crate::server::NoexServer::stats) tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStats {
    /// The port listened on, the real one also where any was asked for.
    pub port: u16,
    /// The configured host.
    pub host: String,
    /// How long the server has been running, in milliseconds.
    pub uptime_ms: u64,
    /// What clients are told, too.
    #[serde(flatten)]
    pub service: ServiceStats,
}

/// What `server.stats` answers. Counts begin at the start of the server and never go back, except where it says
/// "at present".
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStats {
    /// The configured name.
    pub name: String,
    /// Connections at present.
    pub connection_count: usize,
    /// Whether clients can log in.
    pub auth_enabled: bool,
    /// Whether the rate of requests is limited.
    pub rate_limit_enabled: bool,
    /// Whether there is a rule engine.
    pub rules_enabled: bool,
    /// The connections at present.
    pub connections: ConnectionStats,
    /// The store, as `store.stats` shows it.
    pub store: StoreStats,
    /// Null: there is no rule engine.
    pub rules: (),
    /// What became of the sockets that were accepted.
    pub accepts: AcceptStats,
    /// Connections that the server closed, by close code. Codes that never occurred are left out.
    pub closes: IndexMap<u16, u64>,
    /// Messages and bytes.
    pub traffic: TrafficStats,
    /// Error answers by code. Codes that never occurred are left out.
    pub errors: IndexMap<&'static str, u64>,
    /// Messages about subscriptions.
    pub pushes: PushStats,
    /// What waits at present.
    pub queues: QueueStats,
    /// How long answers took.
    pub latency: LatencyByTier,
}

/// The connections at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStats {
    /// All of them.
    pub active: usize,
    /// Those that have logged in.
    pub authenticated: usize,
    /// Their subscriptions to queries and buckets.
    pub total_store_subscriptions: usize,
    /// Their subscriptions to facts and events of rules.
    pub total_rules_subscriptions: usize,
}

/// What became of the sockets that were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptStats {
    /// All of them.
    pub sockets: u64,
    /// Dropped, at once or to make room for others: too many handshakes were under way.
    pub dropped: u64,
    /// Refused, malformed or too slow: they did not become WebSockets.
    pub refused: u64,
    /// Became connections.
    pub opened: u64,
}

/// Messages and bytes of WebSockets. Frame headers and control frames do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStats {
    /// Messages of clients.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages to clients that have left the server's own queues.
    pub messages_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Answers to requests, errors included.
    pub answers: u64,
    /// Answers that were errors.
    pub errors: u64,
}

/// Messages about subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PushStats {
    /// Sent to clients.
    pub sent: u64,
    /// Replaced by something newer before they were sent, because the client was still busy with older messages.
    pub coalesced: u64,
    /// Whole results that were sent in the place of what has changed: to clients whose cursor was too old, and where
    /// the result was smaller than the difference.
    pub resynced: u64,
    /// Changes that followers of a bucket were told they have missed.
    pub missed_changes: u64,
}

/// What waits at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStats {
    /// Requests that were taken and are not answered.
    pub requests_in_flight: u64,
    /// Bytes that clients have not taken yet.
    pub unsent_bytes: u64,
}

/// How long answers took, by what the request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LatencyByTier {
    /// Reads and subscriptions.
    pub read: LatencyStats,
    /// Writes, up to when they are durable.
    pub write: LatencyStats,
    /// Definitions and the like.
    pub admin: LatencyStats,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// Its name, as in the welcome.
    pub connection_id: ConnectionId,
    /// Where it comes from.
    pub remote_address: IpAddr,
    /// When it was opened, in milliseconds since 1970.
    pub connected_at: u64,
    /// Whether the client has logged in.
    pub authenticated: bool,
    /// As whom.
    pub user_id: Option<String>,
    /// With which roles.
    pub roles: Vec<String>,
    /// Subscriptions to queries and buckets.
    pub store_subscription_count: usize,
    /// Subscriptions to facts and events of rules.
    pub rules_subscription_count: usize,
    /// Bytes of its messages so far.
    pub bytes_in: u64,
    /// Bytes of the messages to it so far.
    pub bytes_out: u64,
    /// Bytes that it has not taken yet.
    pub unsent_bytes: u64,
    /// Requests that were taken and are not answered.
    pub requests_in_flight: u64,
}

impl ConnectionInfo {
    pub(super) fn of(id: ConnectionId, address: IpAddr, figures: &ConnectionFigures) -> Self {
        let user = figures.user.lock().clone();
        Self {
            connection_id: id,
            remote_address: address,
            connected_at: figures.connected_at,
            authenticated: user.is_some(),
            user_id: user.as_ref().map(|user| user.user_id.clone()),
            roles: user.map_or_else(Vec::new, |user| user.roles.clone()),
            store_subscription_count: figures.subscriptions.load(Ordering::Relaxed),
            rules_subscription_count: 0,
            bytes_in: figures.bytes_in.load(Ordering::Relaxed),
            bytes_out: figures.bytes_out.load(Ordering::Relaxed),
            unsent_bytes: figures.unsent_bytes.load(Ordering::Relaxed),
            requests_in_flight: figures.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl AcceptStats {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            sockets: counters.total(Count::Accepted),
            dropped: counters.total(Count::Dropped),
            refused: counters.total(Count::Refused),
            opened: counters.total(Count::Opened),
        }
    }
}

impl TrafficStats {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            messages_in: counters.total(Count::MessagesIn),
            bytes_in: counters.total(Count::BytesIn),
            messages_out: counters.total(Count::MessagesOut),
            bytes_out: counters.total(Count::BytesOut),
            answers: counters.total(Count::Answers),
            errors: errors(counters).values().sum(),
        }
    }
}

impl PushStats {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            sent: counters.total(Count::Pushes),
            coalesced: counters.total(Count::Coalesced),
            resynced: counters.total(Count::Resynced),
            missed_changes: counters.total(Count::MissedChanges),
        }
    }
}

impl QueueStats {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            requests_in_flight: counters.total(Count::InFlight),
            unsent_bytes: counters.total(Count::UnsentBytes),
        }
    }
}

impl LatencyByTier {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            read: counters.latency(Tier::Read),
            write: counters.latency(Tier::Write),
            admin: counters.latency(Tier::Admin),
        }
    }
}

pub(super) fn errors(counters: &Counters) -> IndexMap<&'static str, u64> {
    let counted = ErrorCode::ALL.map(|code| (code.as_str(), counters.total_of_errors(code)));
    counted.into_iter().filter(|(_, count)| *count > 0).collect()
}

pub(super) fn closes(counters: &Counters) -> IndexMap<u16, u64> {
    let counted = CloseCode::ALL.map(|code| (code.code(), counters.total_of_closes(code)));
    counted.into_iter().filter(|(_, count)| *count > 0).collect()
}
