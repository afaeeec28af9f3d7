//! The README is true: its examples work as typed, and its commands are those that are run for every change.

use std::path::PathBuf;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::support::matcher::{Captures, check};
use crate::support::{TestClient, TestServer};

fn text_of(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The contents of the fenced blocks of a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = Regex::new(&format!("(?ms)^```{language}\n(.*?)^```$")).expect("a pattern");
    fence.captures_iter(document).map(|found| found[1].to_owned()).collect()
}

/// One message of the protocol in the README.
enum Example {
    ToServer(String),
    FromServer(Value),
}

/// The messages of the JSON blocks, one a line. Other JSON, such as a configuration, has no `type`.
fn examples(document: &str) -> Vec<Example> {
    let lines = blocks(document, "json").join("");
    let messages = lines
        .lines()
        .filter_map(|line| Some((line, serde_json::from_str::<Value>(line).ok()?)));
    messages
        .filter_map(|(line, message)| match message["type"].as_str()? {
            "welcome" | "result" | "error" | "push" | "system" => Some(Example::FromServer(message)),
            _ => Some(Example::ToServer(line.to_owned())),
        })
        .collect()
}

/// What a message must be like: as printed, but for times, generated ids and names that the server gives out.
fn pattern_of(example: &Value, known: &Captures) -> Value {
    match example {
        Value::Number(number) if number.as_u64().is_some_and(|it| it > 1_000_000_000_000) => json!("$now"),
        Value::String(text) if known.contains_key(text) => json!(format!("$get:{text}")),
        Value::String(text) if text.starts_with("sub-") => json!(format!("$set:{text}")),
        Value::String(text) if text.starts_with("conn-") => json!("$string"),
        Value::String(text) if text.parse::<noex_server::protocol::Cursor>().is_ok() => json!(format!("$set:{text}")),
        Value::String(text) if text.len() == 36 && text.matches('-').count() == 4 => json!("$uuid"),
        Value::Array(items) => items.iter().map(|item| pattern_of(item, known)).collect(),
        Value::Object(fields) => {
            let mut pattern: Map<String, Value> = fields
                .iter()
                .map(|(name, value)| (name.clone(), pattern_of(value, known)))
                .collect();
            pattern.insert("$only".to_owned(), json!(true));
            pattern.into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => example.clone(),
    }
}

/// The part of the README with this heading, and all before it.
fn part<'a>(document: &'a str, heading: &str) -> (&'a str, &'a str) {
    let (before, behind) = document.split_once(&format!("\n## {heading}\n")).expect("the heading");
    (before, behind.split("\n## ").next().unwrap_or_default())
}

#[tokio::test]
async fn the_examples_work_as_typed() {
    let readme = text_of("README.md");
    let (without_logins, _) = part(&readme, "Who may do what");
    follow(without_logins, json!({})).await;
}

#[tokio::test]
async fn the_examples_of_access_work_as_typed() {
    let readme = text_of("README.md");
    let (_, access) = part(&readme, "Who may do what");
    let configuration = blocks(access, "json").into_iter().next().expect("a configuration");
    follow(access, serde_json::from_str(&configuration).expect("JSON")).await;
}

/// Sends and awaits the messages of a part of the README, on a server with a configuration.
async fn follow(document: &str, configuration: Value) {
    let server = TestServer::start(configuration).await;
    let mut client = TestClient::open(server.port(), "/", &[]).await.expect("a connection");
    let mut captures = Captures::new();
    let examples = examples(document);
    assert!(examples.len() >= 8, "the README shows how the protocol goes");
    for example in examples {
        match example {
            Example::ToServer(line) => {
                // Names that the server gave out are typed as they really came.
                let request = captures
                    .iter()
                    .fold(line, |line, (name, real)| line.replace(&format!("\"{name}\""), &real.to_string()));
                client.send_text(request).await.expect("the server listens");
            }
            Example::FromServer(message) => {
                let kind = message["type"].clone();
                let got = client
                    .receive(|arrived| arrived["type"] == kind)
                    .await
                    .unwrap_or_else(|why| panic!("{message}: {why}"));
                check(&pattern_of(&message, &captures), &got, &mut captures)
                    .unwrap_or_else(|why| panic!("{why}\nprinted: {message}\nreceived: {got}"));
            }
        }
    }
}

#[test]
fn its_commands_are_those_that_are_run_for_every_change() {
    let checks = text_of(".ci/run");
    let commands = blocks(&text_of("README.md"), "sh").join("");
    let commands: Vec<&str> = commands
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .collect();
    assert_eq!(commands, ["cargo run --release", "cargo test"]);
    for command in commands {
        assert!(checks.lines().any(|line| line.contains(command)), "{command} is not in .ci/run");
    }
}

/// Rust code without what the formatter decides about.
fn bare(code: &str) -> String {
    let dense: String = code.chars().filter(|letter| !letter.is_whitespace()).collect();
    dense.replace(",}", "}").replace(",)", ")")
}

#[test]
fn its_rust_is_the_rust_that_is_compiled() {
    let compiled = bare(&text_of("examples/embed.rs"));
    for block in blocks(&text_of("README.md"), "rust") {
        for paragraph in block.split("\n\n") {
            assert!(
                compiled.contains(&bare(paragraph)),
                "examples/embed.rs lacks this part of the README:\n{paragraph}"
            );
        }
    }
}

#[test]
fn a_printed_message_matches_one_with_other_times_and_names() {
    let printed =
        json!({ "id": "0f8c6f0e-6a0b-4d1a-9c55-2f6f0a1b7c33", "subscriptionId": "sub-1", "_version": 1, "at": 1_790_000_000_000_u64 });
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let now = u64::try_from(now).expect("before the year 584 million");
    let real = json!({ "id": "11111111-2222-4333-8444-555555555555", "subscriptionId": "sub-99", "_version": 1, "at": now });
    let mut captures = Captures::new();
    check(&pattern_of(&printed, &captures), &real, &mut captures).expect("they match");
    assert_eq!(captures["sub-1"], "sub-99");
    let other = json!({ "id": "11111111-2222-4333-8444-555555555555", "subscriptionId": "sub-99", "_version": 2, "at": now });
    assert!(check(&pattern_of(&printed, &captures), &other, &mut captures).is_err());
}
