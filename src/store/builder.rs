//! Opening a store: where it keeps its data, what it may grow to, and how it gets back what it had.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ractor::Actor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::command::CommandLimits;
use super::disk::{Disk, DiskReport};
use super::durability::{Durability, Embedded, OpenError as StorageError, Recovered, SyncLevel};
use super::handle::Store;
use super::history::{History, HistoryLimits};
use super::query::QueryDefinition;
use super::shared::{Identity, Shared};
use super::state::{Bucket, BucketDefinition, BucketId, QueryKind, State, Timestamp};
use super::store_actor::{StoreActor, StoreArguments, StoreMessage};
use crate::protocol::{BucketName, Issue, QueryName, join_issues};

/// Where the store gets the time from, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Progress is logged every so many records while a store loads.
const PROGRESS_EVERY: u64 = 250_000;

/// What a store may grow to.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreLimits {
    /// Operations that may wait to be applied; beyond it [`super::StoreError::Busy`]. Default 65,536.
    pub max_pending_commands: usize,
    /// Buckets. Default 1,000.
    pub max_buckets: usize,
    /// Queries. Default 10,000.
    pub max_queries: usize,
    /// How much one command may cost.
    pub command: CommandLimits,
    /// How much is remembered of what happened, for those who come back.
    pub history: HistoryLimits,
    /// How often to look again for expired records that something still refers to. Default 1 s.
    pub ttl_check_interval: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            max_pending_commands: 65_536,
            max_buckets: 1_000,
            max_queries: 10_000,
            command: CommandLimits::default(),
            history: HistoryLimits::default(),
            ttl_check_interval: Duration::from_secs(1),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be opened, is in use, or is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A stored definition that this version does not understand.
    #[error("the stored definition of {what} cannot be used: {}", join_issues(issues))]
    Definition {
        /// `bucket "users"` or `query "all-users"`.
        what: String,
        /// What is wrong with it.
        issues: Vec<Issue>,
    },
    /// The system has no thread or no randomness to give, or the runtime is shutting down.
    #[error("cannot start the store: {0}")]
    Start(String),
}

#[derive(Clone, Debug)]
enum Place {
    Memory,
    Disk { dir: PathBuf, level: Level },
}

#[derive(Clone, Copy, Debug)]
enum Level {
    EveryGroup,
    Interval(Duration),
}

/// How a store is to be opened.
#[derive(Clone)]
pub struct StoreBuilder {
    name: String,
    place: Place,
    limits: StoreLimits,
    clock: Clock,
}

impl Default for StoreBuilder {
    fn default() -> Self {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            name: "store-1".to_owned(),
            place: Place::Memory,
            limits: StoreLimits::default(),
            clock: Arc::new(clock),
        }
    }
}

impl StoreBuilder {
    /// Keeps nothing on disk: everything goes with the process. The default.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.place = Place::Memory;
        self
    }

    /// Keeps everything in a directory; a write is answered once it is safe against a crash of the machine.
    #[must_use]
    pub fn on_disk(mut self, dir: impl Into<PathBuf>) -> Self {
        self.place = Place::Disk {
            dir: dir.into(),
            level: Level::EveryGroup,
        };
        self
    }

    /// Keeps everything in a directory; a write is answered at once and made safe at least every `interval`. A
    /// crash of the process loses nothing; a crash of the machine loses up to the last `interval`.
    #[must_use]
    pub fn on_disk_with_interval(mut self, dir: impl Into<PathBuf>, interval: Duration) -> Self {
        self.place = Place::Disk {
            dir: dir.into(),
            level: Level::Interval(interval),
        };
        self
    }

    /// What the store is called in its statistics.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the store may grow to.
    #[must_use]
    pub fn limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Another clock than the system's, for tests.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the store, with everything that it had.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self) -> Result<Store, OpenError> {
        let place = self.place.clone();
        let limits = self.limits.history;
        let opened = tokio::task::spawn_blocking(move || open_place(&place, limits))
            .await
            .map_err(|error| cannot_start(&error))??;
        self.start(opened).await
    }

    /// Opens an empty store over a durability of the test's own.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(test)]
    pub(super) async fn open_with(self, durability: Box<dyn Durability>) -> Result<Store, OpenError> {
        let state = State::default();
        let history = History::new(self.limits.history, &state, true);
        self.start(Opened {
            history,
            state,
            epoch: None,
            durability: Some((durability, None)),
        })
        .await
    }

    async fn start(self, opened: Opened) -> Result<Store, OpenError> {
        let retry = self.limits.ttl_check_interval;
        let life = getrandom::u64().map_err(|error| cannot_start(&error))?;
        let identity = Identity {
            persistent: opened.durability.is_some(),
            epoch: opened.epoch.unwrap_or(life),
            life,
        };
        let shared = Arc::new(Shared::new(self.name, opened.state, self.limits, self.clock, identity));
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| cannot_start(&error))?;

        // The disk thread reports to the actor, which needs the thread to begin with: the address comes later.
        let address = Arc::new(std::sync::OnceLock::<ractor::ActorRef<StoreMessage>>::new());
        let disk = match opened.durability {
            Some((durability, interval)) => {
                let address = Arc::clone(&address);
                let report = move |report: DiskReport| {
                    if let Some(actor) = address.get() {
                        // Without the actor there is nobody left to tell.
                        let _ = actor.cast(StoreMessage::Disk(report));
                    }
                };
                Some(Disk::start(durability, interval, report).map_err(|error| cannot_start(&error))?)
            }
            None => None,
        };
        let arguments = StoreArguments {
            shared: Arc::clone(&shared),
            disk,
            history: opened.history,
            seeds: ChaCha8Rng::from_seed(seed),
        };
        let (actor, _) = Actor::spawn(None, StoreActor, arguments)
            .await
            .map_err(|error| cannot_start(&error))?;
        // Nothing was reported before: the thread speaks only when spoken to.
        let _ = address.set(actor.clone());
        Ok(Store::new(shared, actor, retry))
    }
}

fn cannot_start(reason: &dyn std::fmt::Display) -> OpenError {
    OpenError::Start(reason.to_string())
}

struct Opened {
    state: State,
    history: History,
    /// The epoch of what is on disk.
    epoch: Option<u64>,
    durability: Option<(Box<dyn Durability>, Option<Duration>)>,
}

fn open_place(place: &Place, limits: HistoryLimits) -> Result<Opened, OpenError> {
    match place {
        Place::Memory => {
            let state = State::default();
            Ok(Opened {
                history: History::new(limits, &state, false),
                state,
                epoch: None,
                durability: None,
            })
        }
        Place::Disk { dir, level } => {
            let (level, interval) = match level {
                Level::EveryGroup => (SyncLevel::EveryGroup, None),
                Level::Interval(interval) => (SyncLevel::OnRequest, Some(*interval)),
            };
            let (mut embedded, recovered) = Embedded::open(dir, level)?;
            let state = load(&mut embedded, &recovered, dir)?;
            let stored = embedded.load_history()?;
            let history = History::restore(limits, &state, stored).map_err(|misfit| embedded.refuse(misfit))?;
            Ok(Opened {
                state,
                history,
                epoch: Some(embedded.epoch()),
                durability: Some((Box::new(embedded), interval)),
            })
        }
    }
}

/// Puts the state together again from what was stored.
fn load(embedded: &mut Embedded, recovered: &Recovered, dir: &Path) -> Result<State, OpenError> {
    let begun = std::time::Instant::now();
    let mut buckets: HashMap<BucketId, Bucket> = HashMap::new();
    let mut order = Vec::new();
    for stored in &recovered.catalog.buckets {
        let id = BucketId(stored.id);
        let definition = BucketDefinition::stored(&stored.config).map_err(|issues| OpenError::Definition {
            what: format!("bucket \"{}\"", stored.name),
            issues,
        })?;
        let bucket = Bucket::new(id, BucketName::from(stored.name.as_str()), Arc::new(definition), stored.incarnation);
        buckets.insert(id, bucket);
        order.push(id);
    }
    let mut loaded = 0_u64;
    // Records come bucket by bucket: the last one found is nearly always the right one.
    let mut current: Option<(BucketId, Bucket)> = None;
    embedded.load(|id, row, record| {
        if current.as_ref().is_none_or(|(open, _)| *open != id) {
            if let Some((open, bucket)) = current.take() {
                buckets.insert(open, bucket);
            }
            current = buckets.remove(&id).map(|bucket| (id, bucket));
        }
        if let Some((_, bucket)) = &mut current {
            bucket.load(row, &record);
        }
        loaded += 1;
        if loaded.is_multiple_of(PROGRESS_EVERY) {
            tracing::info!(records = loaded, elapsed_ms = begun.elapsed().as_millis() as u64, "loading");
        }
    })?;
    buckets.extend(current);
    for (id, progress) in &recovered.progress {
        if let Some(bucket) = buckets.get_mut(id) {
            bucket.restore_progress(progress.next_row, progress.counter);
        }
    }
    let mut state = State::recovered(recovered.seq, recovered.now, recovered.catalog.next_bucket);
    for bucket in order.into_iter().filter_map(|id| buckets.remove(&id)) {
        state.put_bucket(bucket);
    }
    for stored in &recovered.catalog.queries {
        let definition = QueryDefinition::stored(&stored.config).map_err(|issues| OpenError::Definition {
            what: format!("query \"{}\"", stored.name),
            issues,
        })?;
        let kind = QueryKind::Declarative(Arc::new(definition));
        state.put_query(QueryName::from(stored.name.as_str()), kind, stored.incarnation);
    }
    *state.requests_mut() = recovered.requests.clone();
    tracing::info!(dir = %dir.display(), records = loaded, elapsed_ms = begun.elapsed().as_millis() as u64, "store loaded");
    Ok(state)
}
