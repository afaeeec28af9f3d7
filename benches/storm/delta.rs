//! One changed record in a large result: what a push of the difference costs, against one of the whole.

use std::time::Duration;

use serde_json::json;

use super::support::connection::Connection;
use super::support::follow::{Follow, Mode, Subject};
use super::support::message::Message;
use super::support::server::Server;
use super::support::view::Shape;
use super::{QUERY, configuration, fill, key};

/// What a run took.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    processor: Duration,
}

/// How many deltas are measured for one whole result: they take less time to measure well.
const DELTAS: u32 = 100;

pub async fn measure(records: usize, pushes: u32) -> Result<(), String> {
    let nobody = run(records, None, pushes * DELTAS).await?;
    let whole = run(records, Some(Mode::Full), pushes).await?;
    let delta = run(records, Some(Mode::Delta), pushes * DELTAS).await?;
    println!(
        "delta: one changed record of {records}; a write that nobody watches takes {:.1} µs of processor",
        micros(nobody.processor)
    );
    for (name, cost) in [("whole result", whole), ("delta", delta)] {
        println!(
            "delta: {name:<12}  {:>12.0} bytes  {:>10.1} µs of processor, {:>10.1} µs without the write",
            cost.bytes,
            micros(cost.processor),
            micros(cost.processor) - micros(nobody.processor),
        );
    }
    let processor = (micros(delta.processor) - micros(nobody.processor)) / (micros(whole.processor) - micros(nobody.processor));
    println!(
        "delta: 1/{:.0} of the bytes, 1/{:.0} of the processor time",
        whole.bytes / delta.bytes,
        1.0 / processor.max(1e-9)
    );
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Updates one record many times, each time waiting for what has to come of it. Gives the mean of one time.
async fn run(records: usize, mode: Option<Mode>, times: u32) -> Result<Cost, String> {
    let server = Server::start(&configuration("memory")).await?;
    let mut writer = Connection::open(server.port, None).await.map_err(|ended| ended.to_string())?;
    fill(&mut writer, records).await?;
    let mut watcher = match mode {
        Some(mode) => Some(Watcher::open(server.port, mode).await?),
        None => None,
    };
    for at in 0..10 {
        step(&mut writer, watcher.as_mut(), records, at).await?;
    }
    let (bytes, processor) = (
        watcher.as_ref().map_or(0, |watcher| watcher.connection.bytes),
        server.processor_time(),
    );
    for at in 0..times {
        step(&mut writer, watcher.as_mut(), records, at).await?;
    }
    let processor = (server.processor_time() - processor) / times;
    let bytes = watcher.as_ref().map_or(0, |watcher| watcher.connection.bytes) - bytes;
    if let Some(watcher) = watcher {
        watcher.check().await?;
    }
    server.stop().await?;
    Ok(Cost {
        bytes: bytes as f64 / f64::from(times),
        processor,
    })
}

async fn step(writer: &mut Connection, watcher: Option<&mut Watcher>, records: usize, at: u32) -> Result<(), String> {
    let fields = json!({ "bucket": "items", "key": key(at as usize * 7_919 % records), "data": { "n": at } });
    writer.call("store.update", fields).await.map_err(|ended| ended.to_string())?;
    match watcher {
        Some(watcher) => watcher.take_push().await,
        None => Ok(()),
    }
}

struct Watcher {
    connection: Connection,
    follow: Follow,
    mode: Mode,
}

impl Watcher {
    async fn open(port: u16, mode: Mode) -> Result<Self, String> {
        let mut connection = Connection::open(port, None).await.map_err(|ended| ended.to_string())?;
        let subject = Subject::Query {
            name: QUERY,
            params: json!({}),
            shape: Shape::Records,
        };
        let mut follow = Follow::new(subject, mode);
        let (operation, fields) = follow.request();
        connection.request(operation, fields).await.map_err(|ended| ended.to_string())?;
        let answer = connection.next().await.map_err(|ended| ended.to_string())?;
        follow.begin(&Message::parse(&answer)?)?;
        Ok(Self { connection, follow, mode })
    }

    /// Takes the push of a write. A whole result is not looked into: that would be all that the machine does.
    async fn take_push(&mut self) -> Result<(), String> {
        let text = self.connection.next().await.map_err(|ended| ended.to_string())?;
        if !text.starts_with("{\"type\":\"push\"") {
            return Err("no push".to_owned());
        }
        if self.mode == Mode::Delta {
            self.follow.push(&Message::parse(&text)?)?;
        }
        Ok(())
    }

    /// What deltas have made of the view must be what a fresh query gives.
    async fn check(mut self) -> Result<(), String> {
        if self.mode == Mode::Full {
            return Ok(());
        }
        let (operation, fields) = self.follow.fresh();
        self.connection
            .request(operation, fields)
            .await
            .map_err(|ended| ended.to_string())?;
        let answer = self.connection.next().await.map_err(|ended| ended.to_string())?;
        let fresh = self.follow.read_fresh(&Message::parse(&answer)?)?;
        if self.follow.view() == Some(&fresh) && self.follow.not_newer == 0 {
            Ok(())
        } else {
            Err("the deltas do not give what a fresh query gives".to_owned())
        }
    }
}
