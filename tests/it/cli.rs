//! The command line: what it says, what it refuses, and with which status it ends.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Ended, Site, TestClient, TestServer};

/// How long a command that does not serve may take.
const PATIENCE: Duration = Duration::from_secs(20);

const BAD_USAGE: Option<i32> = Some(2);
const DATA_UNUSABLE: Option<i32> = Some(3);
const PORT_TAKEN: Option<i32> = Some(4);

fn noex_server(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noex-server"));
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn output_of(mut command: Command) -> Output {
    timeout(PATIENCE, command.output())
        .await
        .expect("the command ends instead of serving")
        .expect("the binary can be started")
}

/// Runs the command in an empty folder.
async fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = noex_server(folder.path());
    command.args(arguments);
    output_of(command).await
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn help_names_every_flag() {
    let output = run(&["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = said(&output.stdout);
    for flag in [
        "--port",
        "--host",
        "--config",
        "--path",
        "--name",
        "--data-dir",
        "--durability",
        "--no-error-details",
        "--allowed-origins",
        "--max-connections-per-ip",
        "--auth",
        "--admin-secret",
        "--audit",
        "--log-format",
        "--log-level",
        "--check",
        "--apply",
        "--version",
    ] {
        assert!(help.contains(flag), "{flag} is missing in:\n{help}");
    }
}

#[tokio::test]
async fn the_version_is_that_of_the_package() {
    let output = run(&["--version"]).await;
    assert_eq!(output.status.code(), Some(0));
    let version = said(&output.stdout);
    assert!(
        version.starts_with("noex-server ") && version.contains(env!("CARGO_PKG_VERSION")),
        "{version}"
    );
}

#[tokio::test]
async fn what_cannot_be_understood_ends_with_status_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["--port", "many"],
        &["--port", "70000"],
        &["--durability", "sometimes"],
        &["--config", "not-there.json"],
        &["stray"],
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), BAD_USAGE, "{arguments:?}: {}", said(&output.stderr));
        assert!(!output.stderr.is_empty(), "{arguments:?} is refused without a word");
    }
}

#[tokio::test]
async fn a_configuration_is_checked_without_being_served() {
    let site = Site::new(json!({ "buckets": { "people": { "key": "id", "schema": { "id": { "type": "string" } } } } }));
    let mut command = site.command();
    command.arg("--check");
    let output = output_of(command).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    assert!(!site.data_dir().exists(), "a check leaves no data directory behind");

    let site = Site::new(json!({ "maxPayloadBytes": -1, "heartbeat": { "interval": 5 } }));
    let mut command = site.command();
    command.arg("--check");
    let output = output_of(command).await;
    assert_eq!(output.status.code(), BAD_USAGE);
    let errors = said(&output.stderr);
    assert!(
        errors.contains("maxPayloadBytes") && errors.contains("heartbeat"),
        "both faults are named: {errors}"
    );
    assert!(errors.contains("intervalMs"), "the key that was meant is named: {errors}");
}

#[tokio::test]
async fn what_this_version_cannot_do_yet_is_refused_by_name() {
    let site = Site::new(json!({ "auth": { "required": true, "tokens": {} } }));
    let refusal = TestServer::launch(&site)
        .await
        .err()
        .expect("a server without its guard must not start");
    assert_eq!(refusal.status.code(), BAD_USAGE);
    assert!(refusal.stderr.contains("auth"), "{}", refusal.stderr);
}

#[tokio::test]
async fn a_file_that_is_no_json_is_refused_with_its_name() {
    let site = Site::new(json!({}));
    std::fs::write(site.config_file(), "{ \"port\": ").expect("the file can be written");
    let refusal = TestServer::launch(&site).await.err().expect("half a configuration is none");
    assert_eq!(refusal.status.code(), BAD_USAGE);
    assert!(refusal.stderr.contains("config.json"), "{}", refusal.stderr);
}

#[tokio::test]
async fn a_toml_file_holds_the_same_keys() {
    let site = Site::new(json!({}));
    let file = site.config_file().with_extension("toml");
    std::fs::write(&file, "maxPayloadBytes = -1\n[heartbeat]\nintervalMs = 5\ntimeoutMs = \"long\"\n").expect("the file can be written");
    let folder = file.parent().expect("the folder of the site").to_owned();
    let mut command = noex_server(&folder);
    command.arg("--check").arg("--config").arg(&file);
    let output = output_of(command).await;
    assert_eq!(output.status.code(), BAD_USAGE);
    let errors = said(&output.stderr);
    assert!(errors.contains("maxPayloadBytes") && errors.contains("timeoutMs"), "{errors}");
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let site = Site::new(json!({ "path": "/file" }));
    for (variable, flag, decides) in [
        (None, None, "/file"),
        (Some("/variable"), None, "/variable"),
        (Some("/variable"), Some("/flag"), "/flag"),
    ] {
        let mut command = site.command();
        if let Some(path) = variable {
            command.env("NOEX_PATH", path);
        }
        if let Some(path) = flag {
            command.args(["--path", path]);
        }
        let server = TestServer::launch_command(command, &site).await.expect("the server starts");
        for path in ["/file", "/variable", "/flag"] {
            let opened = TestClient::open(server.port(), path, &[]).await.is_ok();
            assert_eq!(opened, path == decides, "{path} where {decides} decides");
        }
        assert!(server.stop().await.success());
    }
}

#[tokio::test]
async fn the_banner_names_the_version_and_the_address() {
    let server = TestServer::start(json!({})).await;
    assert!(
        server.banner().contains(&format!("ws://127.0.0.1:{}", server.port())),
        "{}",
        server.banner()
    );
    assert_ne!(server.port(), 0);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused_and_names_the_directory() {
    let first = TestServer::start(json!({})).await;
    let refusal = TestServer::launch(first.site())
        .await
        .err()
        .expect("two processes must not write the same files");
    assert_eq!(refusal.status.code(), DATA_UNUSABLE);
    let directory = first.site().data_dir();
    assert!(refusal.stderr.contains(&directory.display().to_string()), "{}", refusal.stderr);
    // The first one is none the worse for it.
    let mut client = first.connect().await;
    assert_eq!(client.result("store.buckets", json!({})).await["count"], 0);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let site = Site::new(json!({}));
    std::fs::write(site.data_dir(), "a file is in the way").expect("the file can be written");
    let refusal = TestServer::launch(&site).await.err().expect("there is nowhere to keep data");
    assert_eq!(refusal.status.code(), DATA_UNUSABLE);
    assert!(
        refusal.stderr.contains(&site.data_dir().display().to_string()),
        "{}",
        refusal.stderr
    );
    assert_eq!(
        std::fs::read_to_string(site.data_dir()).expect("the file is still there"),
        "a file is in the way"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = run(&["--port", &port, "--durability", "memory"]).await;
    assert_eq!(output.status.code(), PORT_TAKEN, "{}", said(&output.stderr));
    assert!(said(&output.stderr).contains(&port), "{}", said(&output.stderr));
}

#[tokio::test]
async fn memory_leaves_nothing_on_the_disk() {
    let server = TestServer::start(json!({ "durability": "memory" })).await;
    let mut client = server.connect().await;
    client
        .result(
            "store.defineBucket",
            json!({ "name": "t", "config": { "key": "id", "schema": { "id": { "type": "string" } } } }),
        )
        .await;
    client.result("store.insert", json!({ "bucket": "t", "data": { "id": "a" } })).await;
    let site = server.site().clone();
    assert!(server.stop().await.success());
    assert!(!site.data_dir().exists());
}

#[tokio::test]
async fn an_interrupt_stops_the_server_in_order() {
    let mut server = TestServer::start(json!({ "shutdown": { "gracePeriodMs": 100 } })).await;
    let mut client = server.connect().await;
    server.signal("INT");
    let ended = client.end_by(tokio::time::Instant::now() + PATIENCE).await;
    assert_eq!(
        ended,
        Some(Ended::Closed {
            code: 1001,
            reason: "server_shutdown".to_owned()
        })
    );
    assert_eq!(server.exit(PATIENCE).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_anybody() {
    let mut server = TestServer::start(json!({ "shutdown": { "gracePeriodMs": 600_000 } })).await;
    let mut client = server.connect().await;
    server.signal("TERM");
    client
        .receive(|message| message["event"] == "shutdown")
        .await
        .expect("a notice of the shutdown");
    server.signal("TERM");
    assert_eq!(server.exit(PATIENCE).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test]
async fn a_changed_definition_in_the_file_is_applied_only_when_asked() {
    let people = |fields: serde_json::Value| json!({ "buckets": { "people": { "key": "id", "schema": fields } } });
    let site = Site::new(people(json!({ "id": { "type": "string" } })));
    assert!(TestServer::serve(&site).await.stop().await.success());
    let wider = people(json!({ "id": { "type": "string" }, "mail": { "type": "string", "unique": true } }));
    std::fs::write(site.config_file(), wider.to_string()).expect("the file can be written");

    let server = TestServer::serve(&site).await;
    assert!(!has_mail(&server).await, "what is stored stays");
    assert!(server.stderr().contains("people"), "the difference is logged: {}", server.stderr());
    assert!(server.stop().await.success());

    let mut command = site.command();
    command.arg("--apply");
    let server = TestServer::launch_command(command, &site).await.expect("the server starts");
    assert!(has_mail(&server).await, "what is configured is applied");
}

async fn has_mail(server: &TestServer) -> bool {
    let mut client = server.connect().await;
    let described = client.result("store.getBucketSchema", json!({ "name": "people" })).await;
    described["config"]["schema"].get("mail").is_some()
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_secret_in_a_flag_is_warned_about_and_one_in_the_environment_is_not_and_neither_is_shown() {
    let by_flag = run(&["--check", "--auth", "--admin-secret", SECRET]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = noex_server(folder.path());
    command.args(["--check", "--auth"]).env("NOEX_ADMIN_SECRET", SECRET);
    let by_variable = output_of(command).await;
    for (output, warns) in [(by_flag, true), (by_variable, false)] {
        let log = said(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{log}");
        assert_eq!(log.contains("--admin-secret"), warns, "{log}");
        assert!(!log.contains(SECRET), "{log}");
    }
}

#[tokio::test]
async fn a_short_secret_is_refused_without_being_shown() {
    for arguments in [
        &["--auth", "--admin-secret", "open-sesame"][..],
        &["--check", "--auth", "--admin-secret=open-sesame"],
        &["--admin-secret", SECRET],
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), BAD_USAGE);
        let log = said(&output.stderr);
        assert!(
            log.contains("--admin-secret: ") && !log.contains("open-sesame") && !log.contains(SECRET),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_check_reads_the_files_with_keys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let jwt = json!({ "algorithms": ["ES256"], "publicKeyFile": "key.pem" });
    std::fs::write(folder.path().join("noex.json"), json!({ "auth": { "jwt": jwt } }).to_string()).expect("a file");
    for (key, says) in [(None, "key.pem"), (Some("no key"), "auth.jwt.publicKeyFile")] {
        if let Some(key) = key {
            std::fs::write(folder.path().join("key.pem"), key).expect("a file");
        }
        let mut command = noex_server(folder.path());
        command.args(["--check", "--config", "noex.json"]);
        let output = output_of(command).await;
        assert_eq!(output.status.code(), BAD_USAGE);
        assert!(said(&output.stderr).contains(says), "{}", said(&output.stderr));
    }
}

#[tokio::test]
async fn by_flags_alone_the_server_keeps_users_and_records_what_they_do() {
    let site = Site::new(json!({}));
    let mut command = site.command();
    command.args(["--auth", "--audit"]).env("NOEX_ADMIN_SECRET", SECRET);
    let server = TestServer::launch_command(command, &site).await.expect("it listens");
    let mut client = server.connect().await;
    client.result("identity.loginWithSecret", json!({ "secret": SECRET })).await;
    let recorded = client
        .result("audit.query", json!({ "operation": "identity.loginWithSecret" }))
        .await;
    assert_eq!(recorded["entries"][0]["result"], "success", "{recorded}");
    assert!(!recorded.to_string().contains(SECRET) && !server.stderr().contains(SECRET));
}
