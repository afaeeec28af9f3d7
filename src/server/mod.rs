//! The server: the only layer that knows sockets and sessions.
//!
//! ```no_run
//! use noex_server::server::{Config, NoexServer};
//!
//! # async fn run() -> Result<(), noex_server::server::StartError> {
//! let server = NoexServer::start(Config { port: 0, ..Config::default() }).await?;
//! println!("listening on {}", server.local_addr());
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

pub(crate) mod access;
mod admission;
mod audit;
mod authority;
mod bootstrap;
pub mod config;
mod connection;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    //! What the fuzz targets reach of the inside. Built only for them.
    pub use super::connection::fuzzing::{Handle, open};
    pub use super::handlers::fuzzing::Readings;
}
mod handlers;
mod http;
mod identity;
mod listener;
mod shutdown;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod socket_tests;
pub mod statistics;
mod supervisor;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use ractor::ActorCell;
use tokio::sync::{OnceCell, Semaphore, watch};

pub use access::KeyFault;
pub use audit::{Verified, VerifyError, verify as verify_audit_log};
pub use authority::RevocationFilter;
pub use config::Config;
pub use error::StartError;
pub use statistics::{ConnectionInfo, ServerStats};

use self::admission::Gatekeeper;
use self::audit::AuditLog;
use self::authority::ChosenAuthority;
use self::config::Reload;
use self::connection::heartbeat::HeartbeatQueue;
use self::connection::registry::Registry;
use self::connection::{Connections, FAREWELLS_MAX, Limits, StoreSessions};
use self::handlers::{HandlerContext, RequestLimits};
use self::http::Endpoint;
use self::listener::{Gate, Reception};
use self::statistics::Overview;
use crate::protocol::Part;
use crate::store::{Store, StoreError};

/// Handshakes that may always be in progress, however few connections there may be.
const HANDSHAKES_MIN: usize = 64;

/// A server that listens. Dropping it ends it at once: connections are cut off, acknowledged writes are kept.
pub struct NoexServer {
    store: Store,
    store_owner: StoreOwner,
    gate: Arc<Gate>,
    registry: Arc<Registry>,
    overview: Arc<Overview>,
    audit: Option<Arc<AuditLog>>,
    authority: ChosenAuthority,
    /// What the server runs with by now.
    config: Mutex<Config>,
    root: ActorCell,
    grace: Duration,
    /// Becomes true when the grace period is to end at once.
    hurry: watch::Sender<bool>,
    stopped: OnceCell<()>,
}

/// Who closes the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreOwner {
    /// The server has opened it and closes it when it stops.
    Server,
    /// The program that embeds the server goes on using it.
    Embedder,
}

impl NoexServer {
    /// Checks what can be checked without starting: every value of the configuration, and the files with keys that it
    /// names.
    ///
    /// # Errors
    /// Where the server would not start with it.
    pub fn check(config: &Config) -> Result<(), StartError> {
        config.check()?;
        Ok(config.auth.as_ref().map_or(Ok(()), access::check_keys)?)
    }

    /// Opens the store of the configuration, defines the configured buckets and queries, and listens.
    ///
    /// # Errors
    /// Where the configuration, the storage or the address does not allow it.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        // Bound first: a second server on the same port must not touch the data.
        let gate = open_gate(&config).await?;
        let store = bootstrap::open_store(&config).await?;
        Self::run(config, store, StoreOwner::Server, gate).await
    }

    /// Serves a store that the program uses itself. `config.storage` counts for nothing; the configured buckets and
    /// queries are defined as by [`NoexServer::start`]. Stopping the server leaves the store open.
    ///
    /// # Errors
    /// Where the configuration or the address does not allow it.
    pub async fn start_with(config: Config, store: Store) -> Result<Self, StartError> {
        config.check()?;
        let gate = open_gate(&config).await?;
        Self::run(config, store, StoreOwner::Embedder, gate).await
    }

    async fn run(config: Config, store: Store, store_owner: StoreOwner, gate: Gate) -> Result<Self, StartError> {
        bootstrap::apply_definitions(&store, &config).await?;
        let gate = Arc::new(gate);
        let registry = Registry::new(config.max_connections, config.max_connections_per_ip);
        let port = gate.local_address().port();
        let audit = config.audit.as_ref().map(AuditLog::open).transpose()?.map(Arc::new);
        let context = Arc::new(handler_context(store.clone(), &config, &registry, port, audit.clone()));
        let overview = Arc::clone(&context.overview);
        let authority = ChosenAuthority::new(&config, &store, overview.presence()).await?;
        let reception = Reception {
            gate: Arc::clone(&gate),
            endpoint: Endpoint::from(&config),
            gatekeeper: Gatekeeper::from(&config),
            authority: authority.get(),
            accepts_per_second: config.connection_limits.max_accepts_per_second,
            handshake_timeout: config.connection_limits.handshake_timeout,
            // As many again as there may be connections: a storm that fills all seats gets in at once, and with few
            // seats there is still room to tell those who are too many.
            handshakes_max: config.max_connections.max(HANDSHAKES_MIN),
            connections: Connections {
                farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
                sessions: StoreSessions {
                    context,
                    authority: authority.get(),
                    presence: Arc::clone(overview.presence()),
                    deadlines: Arc::default(),
                    log_in_within: config.connection_limits.unauthenticated_timeout,
                },
                registry: Arc::clone(&registry),
                heartbeat: Arc::new(HeartbeatQueue::new(config.heartbeat.interval, config.heartbeat.timeout)),
                limits: Limits::from(&config),
                counters: Arc::clone(overview.counters()),
            },
        };
        let root = supervisor::start(Arc::new(reception))
            .await
            .map_err(|error| StartError::Internal(error.into()))?;
        tracing::info!(address = %gate.local_address(), path = config.path, "listening");
        Ok(Self {
            store,
            store_owner,
            gate,
            registry,
            overview,
            audit,
            authority,
            root,
            grace: config.shutdown.grace_period,
            config: Mutex::new(config),
            hurry: watch::Sender::new(false),
            stopped: OnceCell::new(),
        })
    }

    /// Takes over what can be taken over while the server runs: `auth.tokens`, `auth.jwt` (whose files are read again)
    /// and `auth.permissions`. Live connections go by it at once: a session whose token is not taken any more is over, and
    /// subscriptions end whose right is gone. Gives the keys whose new values take a restart.
    ///
    /// ```
    /// use noex_server::server::config::{AuthConfig, Secret, StaticToken, Storage};
    /// use noex_server::server::{Config, NoexServer};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let token = |token: &str| StaticToken {
    ///     token: Secret::from(token),
    ///     user_id: "ida".into(),
    ///     roles: vec!["reader".into()],
    ///     metadata: Default::default(),
    ///     expires_at: None,
    /// };
    /// let with = |tokens| Config {
    ///     port: 0,
    ///     storage: Storage::Memory,
    ///     auth: Some(AuthConfig { tokens, ..AuthConfig::default() }),
    ///     ..Config::default()
    /// };
    /// let server = NoexServer::start(with(vec![token("last-year")])).await?;
    /// let waiting = server.reload(Config { max_connections: 5, ..with(vec![token("this-year")]) })?;
    /// assert_eq!(waiting, ["maxConnections"]);
    /// # server.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the configuration has faults, or a key cannot be used. Then everything stays as it was.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        config.check()?;
        // Held to the end: of two that come together one is wholly behind the other.
        let mut running = self.config.lock();
        let Reload { config, waiting } = Reload::of(&running, &config);
        self.authority.reload(config.auth.as_ref())?;
        // Everybody, logged in or not: what strangers may do can have changed as well.
        for outbox in self.registry.outboxes() {
            outbox.recheck();
        }
        *running = config;
        Ok(waiting)
    }

    /// The address listened on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.gate.local_address()
    }

    /// The number of live connections.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.registry.len()
    }

    /// Whether new connections are let in: from the start until the server begins to stop.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.gate.is_open()
    }

    /// How long ago the server has started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.overview.uptime()
    }

    /// How the server is doing: what clients are told by `server.stats`, with the address and the uptime.
    ///
    /// ```
    /// use noex_server::server::{Config, NoexServer, config::Storage};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config { port: 0, name: "desk".into(), storage: Storage::Memory, ..Config::default() };
    /// let server = NoexServer::start(config).await?;
    /// let stats = server.stats();
    /// assert_eq!(stats.port, server.local_addr().port());
    /// assert_eq!(stats.service.name, "desk");
    /// assert_eq!(stats.service.connections.active, 0);
    /// // On the wire, and wherever else it is serialised, the names are those of the protocol.
    /// assert_eq!(serde_json::to_value(&stats)?["connectionCount"], 0);
    /// # server.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.overview.server(&self.store)
    }

    /// The live connections, in the order in which they came.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.overview.connections().collect()
    }

    /// Tells the connections of a user that their session is revoked, closes them with 4002, and keeps the user from
    /// logging in by a token for [`Config::revocation_ttl`]. Gives the number of connections.
    ///
    /// ```
    /// # use noex_server::server::{Config, NoexServer, config::{AuthConfig, Storage, TokenValidator}};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let validate = Some(TokenValidator::new(|_| async { Ok(None) }));
    /// # let auth = Some(AuthConfig { validate, ..AuthConfig::default() });
    /// let server = NoexServer::start(Config { port: 0, auth, storage: Storage::Memory, ..Config::default() }).await?;
    /// assert_eq!(server.revoke_session("ida").await?, 0);
    /// # server.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the store cannot keep that beyond a restart. It is done nevertheless.
    pub async fn revoke_session(&self, user: &str) -> Result<usize, StoreError> {
        self.authority.revoke(&[user]).await
    }

    /// As [`NoexServer::revoke_session`], for all users who are logged in and fit a filter; an empty one fits all.
    ///
    /// # Errors
    /// As [`NoexServer::revoke_session`].
    pub async fn revoke_sessions(&self, filter: &RevocationFilter) -> Result<usize, StoreError> {
        let users = self.overview.presence().users_with(filter.role.as_deref());
        let fits = |user: &Arc<str>| filter.user.as_deref().is_none_or(|wanted| wanted == &**user);
        let users: Vec<_> = users.into_iter().filter(fits).collect();
        self.authority.revoke(&users).await
    }

    /// The store that is served.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stops: nobody new is let in, clients are told and served during the configured grace period, what is in
    /// flight is answered, and everybody who is left is closed with 1001. Returns when all is on disk. Calling it
    /// again, or while it runs, waits for the same end.
    pub async fn stop(&self) {
        self.stopped.get_or_init(|| self.stop_after(self.grace)).await;
    }

    /// Stops without a grace period, or cuts short a stop that is under way. What is in flight has one second to be
    /// answered.
    pub async fn stop_now(&self) {
        self.hurry.send_replace(true);
        self.stopped.get_or_init(|| self.stop_after(Duration::ZERO)).await;
    }

    async fn stop_after(&self, grace: Duration) {
        shutdown::drain(&self.gate, &self.registry, grace, self.hurry.subscribe()).await;
        self.root.kill();
        self.registry.emptied().await;
        if let Some(audit) = &self.audit {
            audit.close().await;
        }
        if self.store_owner == StoreOwner::Server
            && let Err(error) = self.store.close().await
        {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}

impl Drop for NoexServer {
    fn drop(&mut self) {
        self.root.kill();
    }
}

impl fmt::Debug for NoexServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoexServer")
            .field("local_addr", &self.local_addr())
            .field("connections", &self.connection_count())
            .finish_non_exhaustive()
    }
}

/// What the sessions share on a server that listens on `port` and keeps its connections in `registry`.
fn handler_context(store: Store, config: &Config, registry: &Arc<Registry>, port: u16, audit: Option<Arc<AuditLog>>) -> HandlerContext {
    let limits = &config.connection_limits;
    let total_subscriptions = Arc::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    HandlerContext {
        store,
        overview: Arc::new(Overview::new(config, port, Arc::clone(registry), Arc::clone(&total_subscriptions))),
        max_subscriptions_per_connection: limits.max_subscriptions_per_connection,
        max_total_subscriptions: limits.max_total_subscriptions,
        total_subscriptions,
        max_bulk_records: limits.max_bulk_records,
        request_limits: RequestLimits::from(limits),
        max_result_bytes: limits.max_result_bytes,
        parts: parts(config),
        expose_error_details: config.expose_error_details,
        // They run on threads of their own: more than there are cores would only get in each other's way.
        long_reads: Arc::new(Semaphore::new(cores)),
        audit,
    }
}

/// The optional parts that are configured.
fn parts(config: &Config) -> Vec<Part> {
    let is_built_in = config.auth.as_ref().is_some_and(|auth| auth.built_in.is_some());
    let configured = [
        (Part::Auth, config.auth.is_some()),
        (Part::Identity, is_built_in),
        (Part::Audit, config.audit.is_some()),
    ];
    configured
        .into_iter()
        .filter_map(|(part, is_there)| is_there.then_some(part))
        .collect()
}

async fn open_gate(config: &Config) -> Result<Gate, StartError> {
    let bind_error = |source| StartError::Bind {
        address: format!("{}:{}", config.host, config.port),
        source,
    };
    Gate::open(&config.host, config.port).await.map_err(bind_error)
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 on the wall clock.
pub(crate) fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}
