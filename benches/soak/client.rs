//! One client: it comes, follows, writes, stalls, vanishes, comes back or is replaced by another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::support::connection::{Connection, Ended, Leave};
use super::support::dice::Dice;
use super::support::follow::{Follow, Step};
use super::support::message::{Message, brief};
use super::support::view::View;
use super::tally::Tally;
use super::workload;

/// How long nothing may have come before a client believes that it has been told everything.
const QUIET: Duration = Duration::from_millis(300);

/// How long what a client has may differ from a fresh query although nobody writes.
const CATCHING_UP: Duration = Duration::from_secs(60);

/// What all clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// As they like.
    Live,
    /// Come, write nothing, and compare; each round once.
    Settle(u64),
    /// Leave.
    Over,
}

/// What all clients have in common.
pub struct Plan {
    pub port: u16,
    pub seed: u64,
    /// The mean time between two things that a client does.
    pub pause: Duration,
    pub features: Vec<String>,
    pub tally: Arc<Tally>,
    /// Lets few clients at a time ask for fresh results: the memory of the server is to be that of what it serves, not
    /// that of a thousand large answers at once.
    pub comparing: Semaphore,
}

/// What an answer that is awaited is an answer to.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// Following what is at this place in the list.
    Follow(usize),
    /// The records that a change feed changes, and for which of its beginnings.
    Fill(usize, u32),
    /// What it should be.
    Fresh(usize),
    Write,
    /// Anything that only has to succeed.
    Other,
}

/// Why a client's connection is over.
enum Over {
    /// It was the client's own doing.
    Left,
    Ended(Ended),
}

impl From<Ended> for Over {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

struct Client {
    plan: Arc<Plan>,
    dice: Dice,
    name: String,
    /// How many others it has taken the place of.
    lives: u64,
    number: u64,
    follows: Vec<Follow>,
    phases: watch::Receiver<Phase>,
    /// The round in which it has last compared.
    compared: u64,
}

/// Lives one client after the other until all is over.
pub async fn live(plan: Arc<Plan>, number: u64, phases: watch::Receiver<Phase>) {
    let dice = Dice::new(plan.seed, number);
    let mut client = Client {
        plan,
        dice,
        name: String::new(),
        lives: 0,
        number,
        follows: Vec::new(),
        phases,
        compared: 0,
    };
    client.become_another();
    let pause = client.dice.up_to(Duration::from_secs(5));
    sleep(pause).await;
    while client.phase() != Phase::Over {
        client.connect_once().await;
        for follow in &mut client.follows {
            follow.disconnected();
        }
        client.rest().await;
    }
}

/// Waits until clients are not to do as they like.
async fn called(phases: &watch::Receiver<Phase>) {
    let mut phases = phases.clone();
    // A failure says that all is over.
    let _ = phases.wait_for(|phase| *phase != Phase::Live).await.is_ok();
}

impl Client {
    fn phase(&self) -> Phase {
        *self.phases.borrow()
    }

    /// Forgets everything, as somebody else would come in its place.
    fn become_another(&mut self) {
        self.name = format!("c{}-{}", self.number, self.lives);
        self.lives += 1;
        self.follows.clear();
        for _ in 0..1 + self.dice.below(4) {
            self.follow_something();
        }
    }

    fn follow_something(&mut self) {
        let follow = workload::follow(&mut self.dice, &self.name, &self.plan.features);
        self.follows.push(follow);
    }

    /// Stays away for a while, unless everybody is to be there.
    async fn rest(&mut self) {
        if self.dice.percent(30) && !matches!(self.phase(), Phase::Settle(_)) {
            self.become_another();
        }
        let pause = self.dice.up_to(Duration::from_secs(6));
        if timeout(pause, called(&self.phases)).await.is_ok() {
            let pause = self.dice.up_to(Duration::from_millis(500));
            sleep(pause).await;
        }
    }

    async fn connect_once(&mut self) {
        // Some keep little in the system's buffers: they are felt sooner when they stall.
        let receive_buffer = self.dice.percent(30).then_some(32 * 1024);
        let connection = match Connection::open(self.plan.port, receive_buffer).await {
            Ok(connection) => connection,
            Err(Ended::Wrong(what)) => return self.plan.tally.fault(format!("{}: {what}", self.name)),
            Err(ended) => return self.plan.tally.ended(ended.to_string()),
        };
        self.plan.tally.count("connected");
        let mut visit = Visit {
            client: self,
            connection: Some(connection),
            asked: HashMap::new(),
            given_up: Vec::new(),
            last_heard: Instant::now(),
            kept: if receive_buffer.is_some() {
                "a small buffer"
            } else {
                "a usual buffer"
            },
            different: Vec::new(),
        };
        match visit.stay().await {
            Ok(()) | Err(Over::Left) => {}
            Err(Over::Ended(Ended::Wrong(what))) => {
                let name = self.name.clone();
                self.plan.tally.fault(format!("{name}: {what}"));
            }
            Err(Over::Ended(Ended::Dropped(cause))) => {
                // Which of the ways a lost connection shows itself in is of no interest.
                let cause = if cause.contains("timely") || cause.contains("cannot be sent") {
                    "unsendable"
                } else {
                    "dropped"
                };
                self.plan.tally.ended(cause.to_owned());
            }
            Err(Over::Ended(Ended::Closed(code))) => self.plan.tally.ended(format!("closed {code}")),
        }
    }
}

/// A client's stay on one connection.
struct Visit<'c> {
    client: &'c mut Client,
    /// There until the client leaves.
    connection: Option<Connection>,
    asked: HashMap<u64, Asked>,
    /// Subscriptions that were given up a moment ago: pushes for them may still be on their way.
    given_up: Vec<String>,
    last_heard: Instant,
    /// How much the system keeps for it.
    kept: &'static str,
    /// What differed from a fresh query when last compared.
    different: Vec<String>,
}

impl Visit<'_> {
    async fn stay(&mut self) -> Result<(), Over> {
        for at in 0..self.client.follows.len() {
            self.follow(at).await?;
        }
        loop {
            match self.client.phase() {
                Phase::Live => self.act().await?,
                Phase::Settle(round) => self.settle(round).await?,
                Phase::Over => return self.vanish().await,
            }
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, Over> {
        self.connection.as_mut().ok_or(Over::Left)
    }

    async fn ask(&mut self, (operation, fields): (&str, serde_json::Value), asked: Asked) -> Result<(), Over> {
        let id = self.connection()?.request(operation, fields).await?;
        self.asked.insert(id, asked);
        Ok(())
    }

    async fn follow(&mut self, at: usize) -> Result<(), Over> {
        let request = self.client.follows[at].request();
        self.ask(request, Asked::Follow(at)).await
    }

    /// Reads until `end`, or until the phase changes.
    async fn listen(&mut self, end: Instant) -> Result<(), Over> {
        let mut phases = self.client.phases.clone();
        phases.mark_unchanged();
        loop {
            let text = tokio::select! {
                text = self.connection.as_mut().ok_or(Over::Left)?.next() => text?,
                () = sleep_until(end) => return Ok(()),
                // A failure says that all is over, which the caller finds out.
                _ = phases.changed() => return Ok(()),
            };
            self.last_heard = Instant::now();
            self.hear(&text).await?;
        }
    }

    async fn hear(&mut self, text: &str) -> Result<(), Over> {
        let wrong = |what: String| Over::Ended(Ended::Wrong(format!("{what} in {}", brief(text))));
        let message = Message::parse(text).map_err(wrong)?;
        match &*message.kind {
            "push" => self.hear_push(&message).map_err(wrong)?,
            "result" | "error" => return self.hear_answer(&message, text).await,
            _ => return Err(wrong("an unexpected message".to_owned())),
        }
        self.close_gaps().await
    }

    fn hear_push(&mut self, push: &Message<'_>) -> Result<(), String> {
        let id = push.subscription_id.as_deref().ok_or("a push of nothing")?;
        let tally = &self.client.plan.tally;
        let Some(follow) = self.client.follows.iter_mut().find(|follow| follow.subscription() == Some(id)) else {
            return if self.given_up.iter().any(|it| it == id) {
                Ok(())
            } else {
                Err("a push of an unknown subscription".to_owned())
            };
        };
        tally.count(match follow.push(push)? {
            Step::Whole => "whole",
            Step::Onward => "deltas",
            Step::Gap => "gaps",
        });
        Ok(())
    }

    async fn hear_answer(&mut self, answer: &Message<'_>, text: &str) -> Result<(), Over> {
        let wrong = |what: &str| Over::Ended(Ended::Wrong(format!("{what}: {}", brief(text))));
        let asked = answer
            .id
            .and_then(|id| self.asked.remove(&id))
            .ok_or_else(|| wrong("an answer to nothing"))?;
        let tally = Arc::clone(&self.client.plan.tally);
        if let Some(code) = answer.code.as_deref() {
            return match asked {
                Asked::Write if workload::may_answer(code) => Ok(()),
                Asked::Follow(at) if code == "CURSOR_TOO_OLD" => {
                    tally.count("too old");
                    self.client.follows[at].start_anew();
                    self.follow(at).await
                }
                Asked::Follow(_) | Asked::Fill(..) | Asked::Fresh(_) | Asked::Write | Asked::Other => Err(wrong("refused")),
            };
        }
        match asked {
            Asked::Follow(at) => {
                let follow = &mut self.client.follows[at];
                let resumes = follow.cursor().is_some();
                let step = follow.begin(answer).map_err(|what| wrong(&what))?;
                match step {
                    Step::Onward => tally.count("resumed"),
                    Step::Whole | Step::Gap if resumes => tally.count("not resumed"),
                    Step::Whole | Step::Gap => tally.count("followed"),
                }
                if follow.lacks_records() {
                    let request = follow.fresh();
                    let beginning = follow.beginnings();
                    self.ask(request, Asked::Fill(at, beginning)).await?;
                }
            }
            Asked::Fill(at, beginning) => {
                let follow = &mut self.client.follows[at];
                // Where it was begun anew meanwhile, these records are older than what it will be told of.
                if follow.beginnings() == beginning {
                    follow.fill(answer).map_err(|what| wrong(&what))?;
                }
            }
            Asked::Fresh(at) => {
                let fresh = self.client.follows[at].read_fresh(answer).map_err(|what| wrong(&what))?;
                let follow = &self.client.follows[at];
                if follow.view() != Some(&fresh) {
                    let (has, should) = (follow.view().map(View::len), fresh.len());
                    self.different.push(format!(
                        "{:?} at {:?} has {has:?} items in the place of {should}",
                        follow.subject,
                        follow.cursor()
                    ));
                }
            }
            Asked::Write => tally.count("writes"),
            Asked::Other => {}
        }
        Ok(())
    }

    /// Follows anew, from the last cursor, what has a gap.
    async fn close_gaps(&mut self) -> Result<(), Over> {
        let gap = self
            .client
            .follows
            .iter_mut()
            .position(|follow| follow.has_gap() && follow.subscription().is_some());
        let Some(at) = gap else { return Ok(()) };
        self.give_up(at).await?;
        self.follow(at).await
    }

    async fn give_up(&mut self, at: usize) -> Result<(), Over> {
        let Some(id) = self.client.follows[at].subscription().map(str::to_owned) else {
            return Ok(());
        };
        self.client.follows[at].disconnected();
        self.given_up.push(id.clone());
        self.ask(("store.unsubscribe", json!({ "subscriptionId": id })), Asked::Other).await
    }

    /// Does one thing, after a pause in which it reads.
    async fn act(&mut self) -> Result<(), Over> {
        let pause = self.client.dice.up_to(2 * self.client.plan.pause);
        self.listen(Instant::now() + pause).await?;
        if self.client.phase() != Phase::Live {
            return Ok(());
        }
        match self.client.dice.below(100) {
            0..=79 => {
                let request = workload::write(&mut self.client.dice, &self.client.name, &self.client.plan.features);
                self.ask(request, Asked::Write).await
            }
            80..=85 => self.stall().await,
            86..=91 => self.change_mind().await,
            92 => self.ask(("store.buckets", json!({})), Asked::Other).await,
            93..=96 => self.vanish().await,
            _ => Ok(()),
        }
    }

    /// Follows something else in the place of what it followed last, once all that was asked about that is answered.
    /// How much all clients follow stays as it is: what the server keeps for them can be compared over time.
    async fn change_mind(&mut self) -> Result<(), Over> {
        let last = self.client.follows.len() - 1;
        let awaits = |asked: &Asked| matches!(asked, Asked::Follow(at) | Asked::Fill(at, _) | Asked::Fresh(at) if *at == last);
        if self.asked.values().any(awaits) {
            return Ok(());
        }
        self.give_up(last).await?;
        self.client.follows.pop();
        self.client.follow_something();
        self.follow(last).await
    }

    /// Reads nothing for a while; mostly so short that the server waits for it.
    async fn stall(&mut self) -> Result<(), Over> {
        self.client.plan.tally.count("stalls");
        let longest = if self.client.dice.percent(15) { 25 } else { 5 };
        let pause = self.client.dice.up_to(Duration::from_secs(longest));
        // Whether it is called or the time is up, it goes on reading.
        let _ = timeout(pause, called(&self.client.phases)).await;
        Ok(())
    }

    /// Leaves in one of the ways there are.
    async fn vanish(&mut self) -> Result<(), Over> {
        let connection = self.connection.take().ok_or(Over::Left)?;
        match self.client.dice.below(5) {
            0 => connection.close().await,
            1 | 2 => connection.leave(Leave::Drop),
            3 => connection.leave(Leave::Reset),
            // The socket stays and nobody is behind it, as with a cable that is cut.
            _ => drop(tokio::spawn(async move {
                sleep(Duration::from_secs(20)).await;
                drop(connection);
            })),
        }
        self.client.plan.tally.count("vanished");
        Err(Over::Left)
    }

    /// Compares what it has with fresh queries, until they are equal, and waits for the next phase.
    async fn settle(&mut self, round: u64) -> Result<(), Over> {
        let deadline = Instant::now() + CATCHING_UP;
        while self.client.compared < round {
            self.be_told_everything(deadline).await?;
            if self.client.phase() != Phase::Settle(round) {
                return Ok(());
            }
            let plan = Arc::clone(&self.client.plan);
            // It is never closed.
            let _turn = plan.comparing.acquire().await;
            let before = std::mem::take(&mut self.different);
            for at in 0..self.client.follows.len() {
                let request = self.client.follows[at].fresh();
                self.ask(request, Asked::Fresh(at)).await?;
            }
            while !self.asked.is_empty() && Instant::now() < deadline {
                self.listen(Instant::now() + Duration::from_millis(10)).await?;
            }
            if self.asked.is_empty() && self.different.is_empty() {
                self.client.compared = round;
                self.client.plan.tally.settle();
            } else if Instant::now() >= deadline {
                // Where this comparison came too late to be answered, the one before it tells what differs.
                if self.different.is_empty() {
                    self.different = before;
                }
                return Err(Over::Ended(Ended::Wrong(self.describe_difference())));
            }
        }
        self.listen(Instant::now() + Duration::from_secs(1)).await
    }

    /// Reads until all is answered and nothing more comes.
    async fn be_told_everything(&mut self, deadline: Instant) -> Result<(), Over> {
        loop {
            self.listen(Instant::now() + QUIET).await?;
            let quiet = self.asked.is_empty() && self.last_heard.elapsed() >= QUIET;
            if quiet || Instant::now() >= deadline || !matches!(self.client.phase(), Phase::Settle(_)) {
                return Ok(());
            }
        }
    }

    fn describe_difference(&self) -> String {
        let unanswered: Vec<String> = self.asked.values().map(|asked| format!("{asked:?}")).collect();
        let port = self.connection.as_ref().and_then(Connection::local_port).unwrap_or(0);
        format!(
            "on {} (client port {port}), {} bytes heard, the last {:.1} s ago: not answered [{}], different [{}]",
            self.kept,
            self.connection.as_ref().map_or(0, |connection| connection.bytes),
            self.last_heard.elapsed().as_secs_f64(),
            unanswered.join(", "),
            self.different.join("; "),
        )
    }
}
