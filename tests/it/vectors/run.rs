//! One vector on its way: its server, its connections, its steps.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::support::matcher::{Captures, check, fill};
use crate::support::{Ended, OpenError, Site, TestClient, TestServer};

/// The token of the administrator as whom vectors are run that know no logins.
const ADMIN_TOKEN: &str = "an-administrator-who-runs-vectors";

/// How the vectors of a family are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they are written.
    AsWritten,
    /// On a server that asks for logins, every connection logged in as an administrator.
    AsAdmin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    /// For people: what the reference server does otherwise.
    #[serde(default, rename = "corrects")]
    _corrects: String,
    #[serde(default = "no_settings")]
    pub config: Value,
    #[serde(default)]
    steps: Vec<Step>,
    pub refused: Option<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    exit: i32,
    says: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default = "first_connection")]
    on: String,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    wait_ms: Option<u64>,
    restart: Option<Restart>,
    signal: Option<String>,
    exit: Option<i32>,
    #[serde(default = "patience_ms")]
    within_ms: u64,
    open: Option<String>,
    #[serde(default)]
    close: bool,
    #[serde(default)]
    no_welcome: bool,
    welcome: Option<Value>,
    send_raw: Option<Value>,
    send_binary: Option<String>,
    send_bytes: Option<String>,
    send: Option<Value>,
    expect: Option<Value>,
    push: Option<Value>,
    push_until: Option<Value>,
    notice: Option<Value>,
    system: Option<Value>,
    quiet_ms: Option<u64>,
    no_push_ms: Option<u64>,
    closed: Option<Value>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    Stop,
    Kill,
}

fn no_settings() -> Value {
    json!({})
}

fn first_connection() -> String {
    "a".to_owned()
}

fn patience_ms() -> u64 {
    8_000
}

impl Vector {
    /// # Errors
    /// The first thing that is not as the vector says.
    pub async fn run(&self, mode: Mode) -> Result<(), String> {
        let mut config = fill(&self.config, &Captures::new());
        if mode == Mode::AsAdmin {
            config["auth"] = json!({ "tokens": { ADMIN_TOKEN: { "userId": "ada", "roles": ["admin"] } } });
        }
        let site = Site::new(config);
        match &self.refused {
            Some(refused) => run_refused(&site, refused).await,
            None => Run::start(&site, mode).await.steps(&self.steps).await,
        }
    }
}

async fn run_refused(site: &Site, refused: &Refused) -> Result<(), String> {
    let Err(refusal) = TestServer::launch(site).await else {
        return Err("the server started instead of refusing its configuration".to_owned());
    };
    if refusal.status.code() != Some(refused.exit) {
        return Err(format!("expected exit status {}, got {refusal:?}", refused.exit));
    }
    match refused.says.iter().find(|text| !refusal.stderr.contains(*text)) {
        Some(missing) => Err(format!("standard error lacks {missing:?}: {}", refusal.stderr)),
        None => Ok(()),
    }
}

/// A vector on its way: its server, its connections and what it has kept.
struct Run {
    /// Nothing only while it is being restarted.
    server: Option<TestServer>,
    site: Site,
    connections: HashMap<String, TestClient>,
    captures: Captures,
    mode: Mode,
}

impl Run {
    async fn start(site: &Site, mode: Mode) -> Self {
        let server = TestServer::serve(site).await;
        Self {
            server: Some(server),
            site: site.clone(),
            connections: HashMap::new(),
            captures: Captures::new(),
            mode,
        }
    }

    async fn steps(mut self, steps: &[Step]) -> Result<(), String> {
        for (place, step) in steps.iter().enumerate() {
            self.step(step).await.map_err(|failure| format!("step {}: {failure}", place + 1))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Some(ms) = step.wait_ms {
            // The vector asks for the time to pass: what it tests is the server's own clock.
            sleep_until(after(ms)).await;
        }
        if self.act_on_server(step).await?.is_break() || self.act_on_connection(step).await?.is_break() {
            return Ok(());
        }
        self.ensure_open(step).await?;
        self.send(step).await?;
        self.expect_messages(step).await?;
        self.expect_silence(step).await?;
        match &step.closed {
            Some(want) => self.expect_closed(step, want).await,
            None => Ok(()),
        }
    }

    fn server(&mut self) -> &mut TestServer {
        self.server.as_mut().expect("the server is only away during a restart")
    }

    async fn act_on_server(&mut self, step: &Step) -> Result<ControlFlow<()>, String> {
        if let Some(how) = step.restart {
            self.connections.clear();
            let server = self.server.take().expect("the server is only away during a restart");
            match how {
                Restart::Kill => server.kill().await,
                Restart::Stop => {
                    let status = server.stop().await;
                    assert!(status.success(), "an orderly stop ended with {status}");
                }
            }
            self.server = Some(TestServer::serve(&self.site).await);
            return Ok(ControlFlow::Break(()));
        }
        if let Some(signal) = &step.signal {
            self.server().signal(signal);
            return Ok(ControlFlow::Break(()));
        }
        if let Some(want) = step.exit {
            let status = self.server().exit(Duration::from_millis(step.within_ms)).await;
            return match status {
                Some(status) if status.code() == Some(want) => Ok(ControlFlow::Break(())),
                Some(status) => Err(format!("the server ended with {status}, expected exit status {want}")),
                None => Err(format!("the server still runs after {} ms", step.within_ms)),
            };
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn act_on_connection(&mut self, step: &Step) -> Result<ControlFlow<()>, String> {
        if let Some(want) = &step.open {
            return match (self.connect(step).await, want.as_str()) {
                (Ok(_), _) => Err("the connection was accepted".to_owned()),
                (Err(_), "refused") => Ok(ControlFlow::Break(())),
                (Err(OpenError::Status(status)), want) if status.to_string() == want => Ok(ControlFlow::Break(())),
                (Err(error), want) => Err(format!("expected HTTP status {want}, got: {error}")),
            };
        }
        if step.close {
            self.connections.remove(&step.on);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn connect(&mut self, step: &Step) -> Result<TestClient, OpenError> {
        let path = step
            .path
            .as_deref()
            .or(self.site.config()["path"].as_str())
            .unwrap_or("/")
            .to_owned();
        let headers: Vec<(String, String)> = step.headers.clone().into_iter().collect();
        TestClient::open(self.server().port(), &path, &headers).await
    }

    async fn ensure_open(&mut self, step: &Step) -> Result<(), String> {
        if self.connections.contains_key(&step.on) {
            return Ok(());
        }
        let mut client = self.connect(step).await.map_err(|error| format!("no connection: {error}"))?;
        // A connection that is to be closed at once gets no welcome.
        if !step.no_welcome && step.closed.is_none() {
            let welcome = client.receive(|message| message["type"] == "welcome").await?;
            let mut want = step.welcome.clone().unwrap_or(json!("$any"));
            if self.mode == Mode::AsAdmin {
                log_in(&mut client).await?;
                if want.get("requiresAuth").is_some() {
                    want["requiresAuth"] = json!(true);
                }
            }
            check(&want, &welcome, &mut self.captures)?;
        }
        self.connections.insert(step.on.clone(), client);
        Ok(())
    }

    fn client(&mut self, step: &Step) -> &mut TestClient {
        self.connections.get_mut(&step.on).expect("the step has opened it")
    }

    async fn send(&mut self, step: &Step) -> Result<(), String> {
        if let Some(raw) = &step.send_raw {
            let text = fill(raw, &self.captures).as_str().ok_or("send_raw takes a text")?.to_owned();
            self.client(step).send_text(text).await?;
        }
        if let Some(hex) = &step.send_binary {
            self.client(step).send_binary(bytes_of(hex)).await?;
        }
        if let Some(hex) = &step.send_bytes {
            self.client(step).send_bytes(&bytes_of(hex)).await?;
        }
        if let Some(message) = &step.send {
            let message = fill(message, &self.captures);
            self.client(step).send(&message).await?;
        }
        Ok(())
    }

    async fn expect_messages(&mut self, step: &Step) -> Result<(), String> {
        if let Some(want) = &step.expect {
            self.expect_one(step, "answer", want, |kind| !matches!(kind, "push" | "ping" | "system"))
                .await?;
        }
        if let Some(want) = &step.push {
            self.expect_one(step, "push", want, |kind| kind == "push").await?;
        }
        if let Some(want) = &step.push_until {
            self.expect_last_push(step, want).await?;
        }
        if let Some(want) = &step.notice {
            self.expect_one(step, "notice", want, |kind| matches!(kind, "push" | "system"))
                .await?;
        }
        if let Some(want) = &step.system {
            self.expect_one(step, "system message", want, |kind| matches!(kind, "system" | "ping"))
                .await?;
        }
        Ok(())
    }

    async fn expect_one(&mut self, step: &Step, what: &str, want: &Value, picks: impl Fn(&str) -> bool) -> Result<(), String> {
        let got = self
            .client(step)
            .receive(|message| picks(kind_of(message)))
            .await
            .map_err(|why| format!("no {what}: {why}"))?;
        check(want, &got, &mut self.captures).map_err(|why| format!("{what}{why}\n    in {got}"))
    }

    async fn expect_last_push(&mut self, step: &Step, want: &Value) -> Result<(), String> {
        let deadline = after(step.within_ms);
        let mut last = "there was none".to_owned();
        loop {
            let got = self
                .client(step)
                .receive_until(deadline, |message| kind_of(message) == "push")
                .await;
            let got = got.map_err(|why| format!("no push matched: {why}; the last one: {last}"))?;
            match check(want, &got, &mut self.captures) {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
    }

    async fn expect_silence(&mut self, step: &Step) -> Result<(), String> {
        if let Some(ms) = step.quiet_ms {
            match self
                .client(step)
                .listen_until(after(ms), |message| kind_of(message) != "ping")
                .await
            {
                Ok(None) => {}
                Ok(Some(ended)) => return Err(format!("expected silence, but the connection was {ended}")),
                Err(message) => return Err(format!("expected silence, got {message}")),
            }
        }
        if let Some(ms) = step.no_push_ms {
            let leaks = |message: &Value| kind_of(message) == "push" && message.get("data").is_some();
            self.client(step)
                .listen_until(after(ms), leaks)
                .await
                .map_err(|message| format!("expected no push, got {message}"))?;
        }
        Ok(())
    }

    async fn expect_closed(&mut self, step: &Step, want: &Value) -> Result<(), String> {
        let mut client = self.connections.remove(&step.on).expect("the step has opened it");
        let ended = client.end_by(after(step.within_ms)).await;
        let ended = ended.ok_or_else(|| format!("the connection is still open after {} ms", step.within_ms))?;
        if end_matches(want, &ended) {
            Ok(())
        } else {
            Err(format!("the connection was {ended}, expected {want}"))
        }
    }
}

async fn log_in(client: &mut TestClient) -> Result<(), String> {
    let request = json!({ "id": -1, "type": "auth.login", "token": ADMIN_TOKEN });
    client.send(&request).await?;
    let answer = client.receive(|message| message["id"] == -1).await?;
    if answer["type"] == "result" {
        Ok(())
    } else {
        Err(format!("the administrator cannot log in: {answer}"))
    }
}

fn end_matches(want: &Value, ended: &Ended) -> bool {
    match ended {
        Ended::Dropped(_) => want == "any" || want == "dropped",
        Ended::Closed { code, reason } => match want {
            Value::Number(_) => *want == json!(code),
            Value::Object(fields) => {
                fields.get("code").is_none_or(|it| *it == json!(code)) && fields.get("reason").is_none_or(|it| it == reason)
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => want == "any",
        },
    }
}

fn kind_of(message: &Value) -> &str {
    message["type"].as_str().unwrap_or_default()
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).expect("hexadecimal digits"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits"))
        .collect()
}

#[test]
fn an_end_of_a_connection_matches_by_code_and_reason() {
    let closed = Ended::Closed {
        code: 4001,
        reason: "heartbeat_timeout".to_owned(),
    };
    let dropped = Ended::Dropped("reset".to_owned());
    for (want, matches_closed, matches_dropped) in [
        (json!(4001), true, false),
        (json!(1000), false, false),
        (json!({ "code": 4001, "reason": "heartbeat_timeout" }), true, false),
        (json!({ "code": 4001, "reason": "other" }), false, false),
        (json!("any"), true, true),
        (json!("dropped"), false, true),
    ] {
        assert_eq!(end_matches(&want, &closed), matches_closed, "{want}");
        assert_eq!(end_matches(&want, &dropped), matches_dropped, "{want}");
    }
}

#[test]
fn a_step_with_a_misspelt_field_is_refused() {
    assert!(serde_json::from_value::<Step>(json!({ "expct": {} })).is_err());
}
