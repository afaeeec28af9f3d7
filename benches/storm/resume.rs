//! A storm: everybody is cut off at once and comes back at once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::support::connection::{Connection, Leave};
use super::support::dice::Dice;
use super::support::follow::{Follow, Mode, Step, Subject};
use super::support::message::Message;
use super::support::server::Server;
use super::support::view::{Shape, View};
use super::{QUERY, configuration, fill, key};

/// How long nothing may have come before a client believes that it has been told everything.
const QUIET: Duration = Duration::from_millis(500);

/// How long the whole of a step may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The time between two writes.
const WRITE_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Follow,
    Away,
    Back,
    Quiet,
}

/// What one client can tell afterwards.
struct Story {
    follow: Follow,
    /// How long after the call to come back it was current.
    current: Duration,
    resumed: bool,
    pushes: usize,
}

pub async fn measure(clients: usize, records: usize, away_ms: u64) -> Result<(), String> {
    let server = Server::start(&configuration("sync")).await?;
    let mut control = Connection::open(server.port, None).await.map_err(|ended| ended.to_string())?;
    if !control.features.iter().any(|feature| feature == "resume") {
        return Err("the server knows no resume".to_owned());
    }
    fill(&mut control, records).await?;
    let (phase, phases) = watch::channel(Phase::Follow);
    let followed = Arc::new(Barrier::new(clients + 1));
    let mut storm = JoinSet::new();
    for _ in 0..clients {
        storm.spawn(client(server.port, phases.clone(), Arc::clone(&followed)));
    }
    if timeout(PATIENCE, followed.wait()).await.is_err() {
        let first = storm.try_join_next().map(|ended| ended.map(|story| story.err()));
        return Err(format!("not everybody follows; the first to end: {first:?}"));
    }
    let writer = tokio::spawn(write(server.port, records, phases.clone()));
    sleep(Duration::from_secs(2)).await;

    let before = views(&mut control).await?;
    phase.send_replace(Phase::Away);
    sleep(Duration::from_millis(away_ms)).await;
    let busy = server.processor_time();
    phase.send_replace(Phase::Back);
    sleep(Duration::from_secs(10)).await;
    let after = views(&mut control).await?;
    let busy = server.processor_time() - busy;
    phase.send_replace(Phase::Quiet);
    let writes = writer.await.map_err(|error| error.to_string())??;
    let stories = timeout(PATIENCE, storm.join_all()).await.map_err(|_| "the clients do not end")?;
    let stories: Vec<Story> = stories.into_iter().collect::<Result<_, _>>()?;

    let fresh = fresh(&server).await?;
    report(&stories, writes, &fresh)?;
    println!(
        "resume: {} evaluations of the view, {} of them because it could not be maintained; {:.2} s of processor in the first 10 s",
        figure(&after, "evaluated") - figure(&before, "evaluated"),
        figure(&after, "reevaluated") - figure(&before, "reevaluated"),
        busy.as_secs_f64(),
    );
    server.stop().await
}

async fn views(control: &mut Connection) -> Result<Value, String> {
    let mut stats = control.call("store.stats", json!({})).await.map_err(|ended| ended.to_string())?;
    Ok(stats["views"].take())
}

fn figure(stats: &Value, name: &str) -> i64 {
    stats[name].as_i64().unwrap_or(-1)
}

/// What everybody should have in the end.
async fn fresh(server: &Server) -> Result<View, String> {
    let mut connection = Connection::open(server.port, None).await.map_err(|ended| ended.to_string())?;
    let follow = new_follow();
    let (operation, fields) = follow.fresh();
    connection.request(operation, fields).await.map_err(|ended| ended.to_string())?;
    let answer = connection.next().await.map_err(|ended| ended.to_string())?;
    follow.read_fresh(&Message::parse(&answer)?)
}

fn report(stories: &[Story], writes: usize, fresh: &View) -> Result<(), String> {
    let mut times: Vec<Duration> = stories.iter().map(|story| story.current).collect();
    times.sort();
    let resumed = stories.iter().filter(|story| story.resumed).count();
    let pushes: usize = stories.iter().map(|story| story.pushes).sum();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!(
        "resume: {} clients, {} records: all current after {:.2} s (half of them after {:.2} s); {resumed} resumed; {writes} writes and {pushes} pushes in all",
        stories.len(),
        fresh.len(),
        times.last().copied().unwrap_or_default().as_secs_f64(),
        median.as_secs_f64(),
    );
    let different = stories.iter().filter(|story| story.follow.view() != Some(fresh)).count();
    let twice: usize = stories.iter().map(|story| story.follow.not_newer).sum();
    println!("resume: {different} clients miss something, {twice} items came twice");
    if different + twice > 0 {
        return Err("something was missed, or came twice".to_owned());
    }
    Ok(())
}

fn new_follow() -> Follow {
    let subject = Subject::Query {
        name: QUERY,
        params: json!({}),
        shape: Shape::Records,
    };
    Follow::new(subject, Mode::Delta)
}

/// Updates one record after the other until all is quiet. Gives how many.
async fn write(port: u16, records: usize, phases: watch::Receiver<Phase>) -> Result<usize, String> {
    let mut connection = Connection::open(port, None).await.map_err(|ended| ended.to_string())?;
    let mut dice = Dice::new(records as u64, 0);
    let mut writes = 0;
    while *phases.borrow() != Phase::Quiet {
        let at = dice.below(records as u64) as usize;
        let fields = json!({ "bucket": "items", "key": key(at), "data": { "n": writes } });
        connection.call("store.update", fields).await.map_err(|ended| ended.to_string())?;
        writes += 1;
        sleep(WRITE_EVERY).await;
    }
    Ok(writes)
}

async fn client(port: u16, mut phases: watch::Receiver<Phase>, followed: Arc<Barrier>) -> Result<Story, String> {
    let mut story = Story {
        follow: new_follow(),
        current: Duration::ZERO,
        resumed: false,
        pushes: 0,
    };
    let mut connection = begin(port, &mut story).await?;
    followed.wait().await;
    listen(&mut connection, &mut story, &mut phases, Phase::Away).await?;
    connection.leave(Leave::Reset);
    story.follow.disconnected();
    // A failure says that the program is over.
    if phases.wait_for(|phase| *phase == Phase::Back).await.is_err() {
        return Err("the storm is over too soon".to_owned());
    }
    let called = Instant::now();
    let mut connection = begin(port, &mut story).await?;
    story.current = called.elapsed();
    listen(&mut connection, &mut story, &mut phases, Phase::Quiet).await?;
    // What was written last is on its way.
    while let Ok(text) = timeout(QUIET, connection.next()).await {
        hear(&text.map_err(|ended| ended.to_string())?, &mut story)?;
    }
    connection.close().await;
    Ok(story)
}

/// Connects and follows, from where the client was.
async fn begin(port: u16, story: &mut Story) -> Result<Connection, String> {
    let mut connection = Connection::open(port, None).await.map_err(|ended| ended.to_string())?;
    let (operation, fields) = story.follow.request();
    connection.request(operation, fields).await.map_err(|ended| ended.to_string())?;
    let answer = timeout(PATIENCE, connection.next()).await.map_err(|_| "no answer")?;
    let answer = answer.map_err(|ended| ended.to_string())?;
    let answer = Message::parse(&answer)?;
    if answer.kind != "result" {
        return Err(format!("{operation} is refused: {:?}", answer.code));
    }
    story.resumed = story.follow.begin(&answer)? == Step::Onward;
    Ok(connection)
}

async fn listen(connection: &mut Connection, story: &mut Story, phases: &mut watch::Receiver<Phase>, end: Phase) -> Result<(), String> {
    loop {
        let text = tokio::select! {
            text = connection.next() => text.map_err(|ended| ended.to_string())?,
            reached = phases.wait_for(|phase| *phase == end) => return reached.map(drop).map_err(|error| error.to_string()),
        };
        hear(&text, story)?;
    }
}

fn hear(text: &str, story: &mut Story) -> Result<(), String> {
    let message = Message::parse(text)?;
    if message.kind != "push" {
        return Err(format!("unexpected: {}", message.kind));
    }
    story.follow.push(&message)?;
    story.pushes += 1;
    Ok(())
}
