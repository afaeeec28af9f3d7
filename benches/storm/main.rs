//! What do a storm of returning clients, a small change in a large result, and ten thousand idle clients cost?
//!
//! ```sh
//! ulimit -n 65536
//! cargo bench --bench storm -- resume --clients 2000 --records 1000
//! cargo bench --bench storm -- delta --records 10000
//! cargo bench --bench storm -- idle --connections 10000
//! cargo bench --bench storm -- leave --connections 10000
//! ```
//!
//! Each part starts the built server as a process of its own and prints a few lines. A part that finds something wrong
//! says so and ends with status 1; whether its figures are good is for the reader to say.

#[expect(dead_code, reason = "the soak uses more of it")]
#[path = "../support/mod.rs"]
mod support;

mod delta;
mod idle;
mod leave;
mod resume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use self::support::connection::Connection;

#[derive(Parser)]
#[command(name = "storm", about = "Measures a built server under storms and over large results")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// All clients of one view are cut off at once, and all resume at once, while somebody goes on writing.
    Resume {
        /// How many.
        #[arg(long, default_value_t = 2000)]
        clients: usize,
        /// How many records the view has.
        #[arg(long, default_value_t = 1000)]
        records: usize,
        /// How long they are away, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        away_ms: u64,
    },
    /// Bytes and processor time of a push about one changed record: as a delta, and as the whole result.
    Delta {
        /// How many records the result has.
        #[arg(long, default_value_t = 10_000)]
        records: usize,
        /// How many pushes of the whole result to measure; of deltas it is a hundred times as many.
        #[arg(long, default_value_t = 250)]
        pushes: u32,
    },
    /// Processor time and memory of connections on which nothing happens but the heartbeat.
    Idle {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Latencies of some clients while all others end their connections in one moment.
    Leave {
        /// How many leave.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
    },
}

fn main() -> ExitCode {
    let Some(part) = Arguments::parse().part else {
        println!("cargo bench --bench storm -- resume [--clients 2000] [--records 1000] [--away-ms 1000]");
        println!("cargo bench --bench storm -- delta [--records 10000] [--pushes 250]");
        println!("cargo bench --bench storm -- idle [--connections 10000] [--seconds 60]");
        println!("cargo bench --bench storm -- leave [--connections 10000]");
        println!("Every client needs a file descriptor, here and in the server: ulimit -n 65536");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Runtime::new().expect("the system has threads to give");
    let outcome = runtime.block_on(async {
        match part {
            Part::Resume { clients, records, away_ms } => resume::measure(clients, records, away_ms).await,
            Part::Delta { records, pushes } => delta::measure(records, pushes).await,
            Part::Idle { connections, seconds } => idle::measure(connections, seconds).await,
            Part::Leave { connections } => leave::measure(connections).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            println!("FAULT: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// The name of the query in all parts: all records of the bucket `items`.
const QUERY: &str = "all";

/// A configuration with one bucket, one query over all of it, and room for everybody.
fn configuration(durability: &str) -> Value {
    json!({
        "logLevel": "warn",
        "durability": durability,
        "connectionLimits": { "maxTotalSubscriptions": 1_000_000 },
        "buckets": { "items": { "key": "id", "schema": {
            "id": { "type": "string" },
            "n": { "type": "number" },
            "text": { "type": "string" },
        } } },
        "queries": { QUERY: { "bucket": "items" } },
    })
}

fn key(at: usize) -> String {
    format!("k{at:06}")
}

/// Fills the bucket with records of about 200 bytes, their metadata included.
async fn fill(connection: &mut Connection, records: usize) -> Result<(), String> {
    let all: Vec<Value> = (0..records)
        .map(|at| json!({ "id": key(at), "n": 0, "text": "x".repeat(70) }))
        .collect();
    for some in all.chunks(2_000) {
        let fields = json!({ "bucket": "items", "data": some });
        connection
            .call("store.insertMany", fields)
            .await
            .map_err(|ended| ended.to_string())?;
    }
    Ok(())
}
