//! Thousands of connections that end in one moment: what others notice of it.

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::idle::open_all;
use super::support::connection::{Connection, Leave};
use super::support::server::Server;
use super::{configuration, fill, key};

/// How many go on asking.
const ASKING: usize = 8;

/// How long they do before the others leave.
const CALM: Duration = Duration::from_secs(5);

/// Longer than the server may take to notice that all others are gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// What the clients that stay have seen.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn describe(mut self) -> String {
        self.0.sort_unstable();
        let at = |part: f64| {
            let index = (self.0.len() as f64 * part) as usize;
            self.0
                .get(index.min(self.0.len().saturating_sub(1)))
                .map_or(0.0, |it| it.as_secs_f64() * 1e3)
        };
        format!(
            "{} gets, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        )
    }
}

pub async fn measure(connections: usize) -> Result<(), String> {
    let server = Server::start(&configuration("memory")).await?;
    let mut probe = Connection::open(server.port, None).await.map_err(|ended| ended.to_string())?;
    fill(&mut probe, 1_000).await?;
    let crowd = open_all(server.port, connections).await?;
    let calm = ask_until(server.port, sleep(CALM)).await?;
    println!("calm:    {}", calm.describe());
    let begun = Instant::now();
    let (port, mut took) = (server.port, Duration::ZERO);
    let leaving = async {
        for connection in crowd {
            connection.leave(Leave::Drop);
        }
        while begun.elapsed() < GONE_WITHIN && connected(&mut probe).await > ASKING as u64 + 1 {
            sleep(Duration::from_millis(5)).await;
        }
        took = begun.elapsed();
    };
    let disturbed = ask_until(port, leaving).await?;
    println!("leaving: {}", disturbed.describe());
    println!(
        "leave: all {connections} were gone from the server after {:.2} s",
        took.as_secs_f64()
    );
    if took >= GONE_WITHIN {
        return Err(format!("not all have gone within {} s", GONE_WITHIN.as_secs()));
    }
    server.stop().await
}

async fn connected(probe: &mut Connection) -> u64 {
    let stats = probe.call("server.stats", json!({})).await.unwrap_or_default();
    stats["connections"]["active"].as_u64().unwrap_or(u64::MAX)
}

/// Has some clients ask for records, one after the other, until something is over.
async fn ask_until(port: u16, end: impl Future<Output = ()>) -> Result<Latencies, String> {
    let (over, _) = watch::channel(false);
    let asking: Vec<_> = (0..ASKING)
        .map(|number| tokio::spawn(ask(port, number, over.subscribe())))
        .collect();
    end.await;
    over.send_replace(true);
    let mut all = Latencies::default();
    for client in asking {
        all.0.extend(client.await.map_err(|error| error.to_string())??);
    }
    Ok(all)
}

async fn ask(port: u16, number: usize, over: watch::Receiver<bool>) -> Result<Vec<Duration>, String> {
    let mut connection = Connection::open(port, None).await.map_err(|ended| ended.to_string())?;
    let mut latencies = Vec::new();
    while !*over.borrow() {
        let begun = Instant::now();
        let fields = json!({ "bucket": "items", "key": key((number * 97 + latencies.len()) % 1_000) });
        connection.call("store.get", fields).await.map_err(|ended| ended.to_string())?;
        latencies.push(begun.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    connection.close().await;
    Ok(latencies)
}
