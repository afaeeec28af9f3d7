//! The server as its statistics see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::report::{
    AcceptStats, ConnectionInfo, ConnectionStats, LatencyByTier, PushStats, QueueStats, ServerStats, ServiceStats, TrafficStats, closes,
    errors,
};
use crate::protocol::ConnectionId;
use crate::server::access::Presence;
use crate::server::config::Config;
use crate::server::connection::registry::Registry;
use crate::server::millis;
use crate::store::Store;

/// Connections that are looked at while the registry is held.
const PAGE: usize = 512;

/// All that reports are made of.
pub(crate) struct Overview {
    name: String,
    host: String,
    port: u16,
    rate_limit_enabled: bool,
    auth_enabled: bool,
    presence: Arc<Presence>,
    started: Instant,
    counters: Arc<Counters>,
    registry: Arc<Registry>,
    subscriptions: Arc<AtomicUsize>,
}

impl Overview {
    /// A server of this configuration that starts now and listens on `port`. `subscriptions` counts those of all
    /// connections.
    pub(crate) fn new(config: &Config, port: u16, registry: Arc<Registry>, subscriptions: Arc<AtomicUsize>) -> Self {
        Self {
            name: config.name.clone(),
            host: config.host.clone(),
            port,
            rate_limit_enabled: config.rate_limit.is_some(),
            auth_enabled: config.auth.is_some(),
            presence: Arc::default(),
            started: Instant::now(),
            counters: Arc::default(),
            registry,
            subscriptions,
        }
    }

    /// What connections count with.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Who is connected as whom.
    pub(crate) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// How long ago the server has started.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// How the server is doing.
    pub(crate) fn server(&self, store: &Store) -> ServerStats {
        ServerStats {
            port: self.port,
            host: self.host.clone(),
            uptime_ms: millis(self.uptime()),
            service: self.service(store),
        }
    }

    /// What clients are told of it.
    pub(crate) fn service(&self, store: &Store) -> ServiceStats {
        let counters = &self.counters;
        let active = self.registry.len();
        ServiceStats {
            name: self.name.clone(),
            connection_count: active,
            auth_enabled: self.auth_enabled,
            rate_limit_enabled: self.rate_limit_enabled,
            rules_enabled: false,
            connections: ConnectionStats {
                active,
                authenticated: self.presence.len(),
                total_store_subscriptions: self.subscriptions.load(Ordering::Relaxed),
                total_rules_subscriptions: 0,
            },
            store: store.stats().without_reserved(),
            rules: (),
            accepts: AcceptStats::of(counters),
            closes: closes(counters),
            traffic: TrafficStats::of(counters),
            errors: errors(counters),
            pushes: PushStats::of(counters),
            queues: QueueStats::of(counters),
            latency: LatencyByTier::of(counters),
        }
    }

    /// The number of connections.
    pub(crate) fn connection_count(&self) -> usize {
        self.registry.len()
    }

    /// The connections in the order in which they came. The registry is held for some of them at a time, so that
    /// nobody who comes or goes waits for a long list.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionInfo> {
        let mut last: Option<ConnectionId> = None;
        let pages = std::iter::from_fn(move || {
            let page = self.registry.page(last, PAGE);
            last = page.last().map(|(id, ..)| *id).or(last);
            (!page.is_empty()).then_some(page)
        });
        pages
            .flatten()
            .map(|(id, address, figures)| ConnectionInfo::of(id, address, &figures))
    }
}
