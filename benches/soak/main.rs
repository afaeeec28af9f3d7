//! Does a server stay sound under clients that come, subscribe, write, stall, vanish and resume?
//!
//! ```sh
//! ulimit -n 65536; cargo bench --bench soak -- --minutes 20 --clients 1000
//! ```
//!
//! Every client keeps what it follows up to date by the pushes it gets. Now and then, and at the end, nobody writes for
//! a moment, and what every client has must equal a fresh query. The end is good if also the server's memory is where
//! it was after the first two minutes, and if nothing is left once all clients are gone: no socket, no file, no thread,
//! no connection, no subscription, no view. Everything random follows from the seed, but for what the system's
//! scheduler makes of it.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod tally;
mod workload;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use self::client::{Phase, Plan, live};
use self::support::connection::{Connection, Ended};
use self::support::server::{Footprint, Server};
use self::tally::Tally;

/// The memory that the end is compared with is that after this time: caches and history are full by then.
const WARM_UP: Duration = Duration::from_secs(120);

/// The mean of so long after the warm-up is compared with that of so long before the end: at single moments memory is
/// that of what has just been sent and not given back yet.
const WINDOW: Duration = Duration::from_secs(120);

/// How much more memory the end may show, beside a tenth of what there was: the allocator's share.
const SLACK_BYTES: u64 = 16 << 20;

/// How many clients compare at one time.
const AT_ONCE: usize = 16;

/// How long all clients may take to connect, to be told everything, and to compare.
const SETTLING: Duration = Duration::from_secs(90);

/// How long the server may take to notice that everybody is gone: a heartbeat and its timeout, and some.
const LEAVING: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Presses a built server with clients of all kinds and checks what is left in the end"
)]
struct Arguments {
    /// How long.
    #[arg(long)]
    minutes: Option<f64>,
    /// How many clients there are at one time.
    #[arg(long, default_value_t = 1000)]
    clients: u64,
    /// How many writes all of them make in a second.
    #[arg(long, default_value_t = 300)]
    writes: u64,
    /// What everything random follows from.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seconds lie between two comparisons.
    #[arg(long, default_value_t = 60)]
    compare_every: u64,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(minutes) = arguments.minutes else {
        println!("cargo bench --bench soak -- --minutes 20 [--clients 1000] [--writes 300] [--seed N] [--compare-every 60]");
        println!("With --minutes it runs; it needs two file descriptors a client: ulimit -n 65536");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Runtime::new().expect("the system has threads to give");
    let outcome = runtime.block_on(soak(&arguments, Duration::from_secs_f64(60.0 * minutes)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => {
            println!("all is well");
            ExitCode::SUCCESS
        }
        Err(faults) => {
            for fault in faults {
                println!("FAULT: {fault}");
            }
            ExitCode::FAILURE
        }
    }
}

fn configuration(clients: u64) -> Value {
    let (buckets, queries) = workload::definitions();
    json!({
        "logLevel": "warn",
        "idempotencyWindowMs": 60_000,
        "heartbeat": { "intervalMs": 10_000, "timeoutMs": 10_000 },
        // Little, so that clients that stall are held back, and some given up.
        "backpressure": { "maxBufferedBytes": 64 * 1024, "graceMs": 4_000 },
        // Some seconds of writes, so that some come back too late.
        "storeLimits": { "historyMaxChanges": 2_000, "historyMaxBytes": 1 << 20 },
        "connectionLimits": { "maxTotalSubscriptions": 20 * clients },
        "buckets": buckets,
        "queries": queries,
    })
}

/// A run.
struct Soak {
    server: Server,
    tally: Arc<Tally>,
    phase: watch::Sender<Phase>,
    clients: u64,
    begun: Instant,
    round: u64,
    /// Resident bytes, and when they were looked at.
    resident: Vec<(Duration, u64)>,
    faults: Vec<String>,
}

async fn soak(arguments: &Arguments, length: Duration) -> Result<(), Vec<String>> {
    let one = |fault: String| vec![fault];
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()) ^ (length.as_millis() as u64) << 20);
    println!(
        "seed {seed}, {} clients, {} writes/s, {:.1} min",
        arguments.clients,
        arguments.writes,
        length.as_secs_f64() / 60.0
    );
    let server = Server::start(&configuration(arguments.clients)).await.map_err(one)?;
    let welcomed = Connection::open(server.port, None).await.map_err(|ended| one(ended.to_string()))?;
    println!("features: {}", welcomed.features.join(", "));
    let first = server.footprint();
    let (phase, phases) = watch::channel(Phase::Live);
    let tally = Arc::new(Tally::default());
    let plan = Arc::new(Plan {
        port: server.port,
        seed,
        pause: Duration::from_secs_f64(arguments.clients as f64 / arguments.writes.max(1) as f64),
        features: welcomed.features.clone(),
        tally: Arc::clone(&tally),
        comparing: Semaphore::new(AT_ONCE),
    });
    welcomed.close().await;
    for number in 0..arguments.clients {
        tokio::spawn(live(Arc::clone(&plan), number, phases.clone()));
    }
    drop(phases);
    let mut soak = Soak {
        server,
        tally,
        phase,
        clients: arguments.clients,
        begun: Instant::now(),
        round: 0,
        resident: Vec::new(),
        faults: Vec::new(),
    };
    soak.run(length, Duration::from_secs(arguments.compare_every.max(5)), first).await;
    let Soak {
        server, tally, mut faults, ..
    } = soak;
    faults.extend(tally.faults());
    faults.extend(server.stop().await.err());
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

impl Soak {
    async fn run(&mut self, length: Duration, every: Duration, first: Footprint) {
        let end = self.begun + length;
        let mut next = Instant::now();
        while Instant::now() < end && self.is_sound() {
            next += every;
            self.watch_until(next.min(end)).await;
            self.compare().await;
        }
        self.judge_memory();
        self.phase.send_replace(Phase::Over);
        self.check_leftovers(first).await;
    }

    fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.tally.faults().is_empty()
    }

    async fn watch_until(&mut self, end: Instant) {
        let mut ticks = interval(Duration::from_secs(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                _ = ticks.tick() => self.report("").await,
            }
        }
    }

    /// What the server says of itself, and what the system says of it.
    async fn report(&mut self, what: &str) {
        let footprint = self.server.footprint();
        self.resident.push((self.begun.elapsed(), footprint.resident_bytes));
        let stats = self.stats().await.unwrap_or_else(|ended| {
            self.faults.push(format!("statistics: {ended}"));
            Value::Null
        });
        println!(
            "{:>6.0} s  {:>6.1} MiB  {:>5} files  {:>3} threads  {:>5} connections  {:>5} subscriptions  {:>5} views  {:>6.1} s of processor  pushes {} coalesced {} missed {}  {}{what}",
            self.begun.elapsed().as_secs_f64(),
            footprint.resident_bytes as f64 / f64::from(1 << 20),
            footprint.files,
            footprint.threads,
            stats["connections"]["active"],
            stats["store"]["queries"]["activeSubscriptions"],
            stats["store"]["views"]["live"],
            self.server.processor_time().as_secs_f64(),
            stats["pushes"]["sent"],
            stats["pushes"]["coalesced"],
            stats["pushes"]["missedChanges"],
            self.tally.line(),
        );
    }

    /// Asked on a connection of its own, which is one of those that are counted.
    async fn stats(&self) -> Result<Value, Ended> {
        let mut connection = Connection::open(self.server.port, None).await?;
        let stats = connection.call("server.stats", json!({})).await;
        connection.close().await;
        stats
    }

    /// Lets nobody write until everybody has compared.
    async fn compare(&mut self) {
        self.round += 1;
        self.tally.begin_round();
        self.phase.send_replace(Phase::Settle(self.round));
        let deadline = Instant::now() + SETTLING;
        while self.tally.settled() < self.clients && Instant::now() < deadline && self.tally.faults().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        let settled = self.tally.settled();
        if settled < self.clients && self.tally.faults().is_empty() {
            self.faults
                .push(format!("only {settled} of {} clients have compared in time", self.clients));
        }
        self.report(&format!("  {settled} clients have what a fresh query gives")).await;
        self.phase.send_replace(Phase::Live);
    }

    fn judge_memory(&mut self) {
        let Some((end, _)) = self.resident.last().copied() else { return };
        let (early, last) = (
            self.mean_resident(WARM_UP..WARM_UP + WINDOW),
            self.mean_resident(end.saturating_sub(WINDOW)..end),
        );
        let (Some(early), Some(last)) = (early, last) else {
            println!("memory: the run is too short to tell whether it grows");
            return;
        };
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "memory: {:.1} MiB after the warm-up, {:.1} MiB in the end, each the mean of {} s",
            mib(early),
            mib(last),
            WINDOW.as_secs()
        );
        if last > early + early / 10 + SLACK_BYTES {
            self.faults
                .push(format!("memory has grown from {:.1} to {:.1} MiB", mib(early), mib(last)));
        }
    }

    fn mean_resident(&self, within: Range<Duration>) -> Option<u64> {
        let samples = self.resident.iter().filter(|(at, _)| within.contains(at));
        let bytes: Vec<u64> = samples.map(|(_, bytes)| *bytes).collect();
        (!bytes.is_empty()).then(|| bytes.iter().sum::<u64>() / bytes.len() as u64)
    }

    /// Waits until nothing is left of the clients, and says what is.
    async fn check_leftovers(&mut self, first: Footprint) {
        let mut left = Vec::new();
        let gone = timeout(LEAVING, async {
            loop {
                match self.leftovers(first).await {
                    Ok(found) if found.is_empty() => return,
                    Ok(found) => left = found,
                    Err(ended) => left = vec![format!("statistics: {ended}")],
                }
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
        self.report("  everybody has left").await;
        if gone.is_err() {
            self.faults.extend(left);
        }
    }

    async fn leftovers(&mut self, first: Footprint) -> Result<Vec<String>, Ended> {
        /// Segments of the data on disk come and go.
        const FILES: usize = 100;
        /// So do threads that blocked once.
        const THREADS: u64 = 2;
        let stats = self.stats().await?;
        let now = self.server.footprint();
        let figures = [
            ("connections", stats["connections"]["active"].as_u64().unwrap_or(u64::MAX), 1),
            (
                "subscriptions",
                stats["store"]["queries"]["activeSubscriptions"].as_u64().unwrap_or(u64::MAX),
                0,
            ),
            (
                "subscriptions of connections",
                stats["connections"]["totalStoreSubscriptions"].as_u64().unwrap_or(u64::MAX),
                0,
            ),
            ("views", stats["store"]["views"]["live"].as_u64().unwrap_or(u64::MAX), 0),
            ("sockets", now.sockets as u64, first.sockets as u64),
            ("files", now.files as u64, (first.files + FILES) as u64),
            ("threads", now.threads, first.threads + THREADS),
        ];
        let surplus = figures.into_iter().filter(|(_, number, most)| number > most);
        Ok(surplus
            .map(|(what, number, most)| format!("{number} {what} are left, {most} at most should be"))
            .collect())
    }
}
