//! Connections on which nothing happens but the heartbeat.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::configuration;
use super::support::connection::{Connection, Ended};
use super::support::server::Server;

/// How many connections come about at one time.
const AT_ONCE: usize = 200;

/// How long after the last connection to begin to measure.
const CALM: Duration = Duration::from_secs(5);

pub async fn measure(connections: usize, seconds: u64) -> Result<(), String> {
    let server = Server::start(&configuration("memory")).await?;
    let before = server.footprint();
    let begun = Instant::now();
    let opened = open_all(server.port, connections).await?;
    let took = begun.elapsed();
    let mut idle = JoinSet::new();
    for mut connection in opened {
        // Pings are answered on the way to the next message, which never comes.
        idle.spawn(async move { connection.next().await.map(drop) });
    }
    sleep(CALM).await;
    let after = server.footprint();
    let processor = server.processor_time();
    let measured = Instant::now();
    sleep(Duration::from_secs(seconds)).await;
    let processor = server.processor_time() - processor;
    let length = measured.elapsed();
    if let Some(ended) = idle.try_join_next() {
        let how = ended
            .map_err(|error| error.to_string())?
            .err()
            .unwrap_or(Ended::Wrong("a message".to_owned()));
        return Err(format!("an idle connection has ended: {how}"));
    }
    println!(
        "idle: {connections} connections, opened at {:.0} a second (by a client that shares the machine); {:.1} KiB resident each",
        connections as f64 / took.as_secs_f64(),
        after.resident_bytes.saturating_sub(before.resident_bytes) as f64 / 1024.0 / connections as f64,
    );
    println!(
        "idle: {:.2} s of processor in {:.0} s: {:.2} % of a core",
        processor.as_secs_f64(),
        length.as_secs_f64(),
        100.0 * processor.as_secs_f64() / length.as_secs_f64(),
    );
    idle.abort_all();
    server.stop().await
}

pub async fn open_all(port: u16, connections: usize) -> Result<Vec<Connection>, String> {
    let mut opening = JoinSet::new();
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        while opening.len() >= AT_ONCE {
            take_one(&mut opening, &mut opened).await?;
        }
        opening.spawn(Connection::open(port, None));
    }
    while !opening.is_empty() {
        take_one(&mut opening, &mut opened).await?;
    }
    Ok(opened)
}

async fn take_one(opening: &mut JoinSet<Result<Connection, Ended>>, opened: &mut Vec<Connection>) -> Result<(), String> {
    if let Some(connection) = opening.join_next().await {
        let connection = connection.map_err(|error| error.to_string())?;
        opened.push(connection.map_err(|ended| ended.to_string())?);
    }
    Ok(())
}
