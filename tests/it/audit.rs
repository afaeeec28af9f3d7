//! The audit log of a running server: over the wire, and in its file.

use std::fs;
use std::path::Path;

use noex_server::protocol::Tier;
use noex_server::server::config::{Argon2Config, AuditConfig, AuthConfig, BuiltInConfig, RateLimitConfig, StaticToken, Storage};
use noex_server::server::{Config, NoexServer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::TestClient;

fn known(user: &str) -> StaticToken {
    StaticToken {
        token: format!("tk-{user}").as_str().into(),
        user_id: user.to_owned(),
        roles: vec![user.to_owned()],
        metadata: serde_json::Map::new(),
        expires_at: None,
    }
}

async fn start(audit: AuditConfig, change: impl FnOnce(&mut Config)) -> NoexServer {
    let mut config = Config {
        port: 0,
        storage: Storage::Memory,
        auth: Some(AuthConfig {
            tokens: vec![known("admin"), known("writer")],
            ..AuthConfig::default()
        }),
        audit: Some(audit),
        ..Config::default()
    };
    change(&mut config);
    NoexServer::start(config).await.expect("the server starts")
}

async fn logged_in(server: &NoexServer, user: &str) -> TestClient {
    let mut client = TestClient::connect(server.local_addr().port()).await;
    client.result("auth.login", json!({ "token": format!("tk-{user}") })).await;
    client
}

/// The lines of the file, each of which must lead to the next.
fn chained(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("there is a file");
    let mut prev = "0".repeat(64);
    let check = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(value["prev"], prev, "{line}");
        prev = Sha256::digest(line.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        value
    };
    text.lines().map(check).collect()
}

#[tokio::test]
async fn what_is_answered_is_in_the_file_and_reads_as_over_the_wire() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = || AuditConfig {
        file: Some(path.clone()),
        ..AuditConfig::default()
    };
    let server = start(audit(), |_| {}).await;
    let mut admin = logged_in(&server, "admin").await;
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    admin
        .result("store.defineBucket", json!({ "name": "orders", "config": config }))
        .await;
    // The server is not asked to stop: what it has answered is there.
    let lines = chained(&path);
    assert_eq!(lines.len(), 2);
    let mut read = admin.result("audit.query", json!({ "all": true })).await["entries"].clone();
    read.as_array_mut().expect("a list").reverse();
    for (mut line, entry) in lines.into_iter().zip(read.as_array().expect("a list")) {
        line.as_object_mut().expect("an object").remove("prev");
        assert_eq!(line, *entry);
    }
    server.stop().await;
    let before = chained(&path).len();
    let server = start(audit(), |_| {}).await;
    logged_in(&server, "admin").await;
    assert_eq!(chained(&path).len(), before + 1);
    drop(server);
}

#[tokio::test]
async fn the_program_tells_whether_a_log_is_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = AuditConfig {
        file: Some(path.clone()),
        ..AuditConfig::default()
    };
    let server = start(audit, |_| {}).await;
    for _ in 0..3 {
        logged_in(&server, "admin").await;
    }
    server.stop().await;
    let verify = || {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_noex-server"));
        let output = program.arg("audit-verify").arg(&path).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, out, _) = verify();
    assert_eq!(status, Some(0));
    assert!(
        out.starts_with("The audit log is as it was written. Lines: 3, files: 1.\nLast line: "),
        "{out}"
    );
    let changed = fs::read_to_string(&path).expect("a log").replacen("admin", "nobody", 1);
    fs::write(&path, changed).expect("it is written");
    let (status, _, complaint) = verify();
    assert_eq!(status, Some(1));
    assert!(complaint.contains("line 2: does not follow from the line before it"), "{complaint}");
}

#[tokio::test]
async fn requests_of_batches_and_those_beyond_the_quota_are_recorded_one_by_one() {
    let audit = AuditConfig {
        tiers: vec![Tier::Write],
        ..AuditConfig::default()
    };
    let server = start(audit, |config| {
        config.rate_limit = Some(RateLimitConfig {
            max_requests: 4,
            window: std::time::Duration::from_secs(3600),
            ..RateLimitConfig::default()
        });
    })
    .await;
    let mut writer = logged_in(&server, "writer").await;
    let clear = |id: u32| json!({ "id": id, "type": "store.clear", "bucket": format!("b{id}") });
    let requests: Vec<Value> = (1..=5).map(clear).collect();
    let answers = writer.result("batch", json!({ "requests": requests })).await;
    assert_eq!(answers[4]["code"], "RATE_LIMITED", "{answers}");
    let mut admin = logged_in(&server, "admin").await;
    let entries = admin.result("audit.query", json!({})).await["entries"].clone();
    let each = |member: &str| {
        entries
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| entry[member].clone())
            .collect::<Vec<_>>()
    };
    // In the order in which their outcome was known: that of the last was before the store had heard of the others.
    assert_eq!(each("resource"), ["b4", "b3", "b2", "b1", "b5"]);
    assert_eq!(each("code")[3..], ["BUCKET_NOT_DEFINED", "RATE_LIMITED"]);
    assert_eq!(each("userId"), ["writer"; 5]);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_the_server_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config {
        port: 0,
        storage: Storage::Memory,
        audit: Some(AuditConfig {
            file: Some(folder.path().join("nowhere").join("audit.jsonl")),
            ..AuditConfig::default()
        }),
        ..Config::default()
    };
    let error = NoexServer::start(config).await.expect_err("it does not start");
    assert!(error.to_string().contains("audit.jsonl"), "{error}");
    assert_eq!(error.exit_status(), 3);
}

/// A server with users of its own, and a superadmin on it.
async fn with_users(audit: AuditConfig) -> (NoexServer, TestClient) {
    const SECRET: &str = "a bootstrap secret of enough length";
    let built_in = BuiltInConfig {
        admin_secret: Some(SECRET.into()),
        argon2: Argon2Config {
            memory_kib: 19_456,
            passes: 2,
            lanes: 1,
        },
        ..BuiltInConfig::default()
    };
    let auth = AuthConfig {
        built_in: Some(built_in),
        ..AuthConfig::default()
    };
    let server = start(audit, |config| config.auth = Some(auth)).await;
    let mut root = TestClient::connect(server.local_addr().port()).await;
    root.result("identity.loginWithSecret", json!({ "secret": SECRET })).await;
    (server, root)
}

/// The same, and a user who is no administrator, with their id.
async fn with_a_user(audit: AuditConfig) -> (NoexServer, TestClient, TestClient, Value) {
    let (server, mut root) = with_users(audit).await;
    let mira = json!({ "username": "mira", "password": "seven lanterns by the quay" });
    let id = root.result("identity.createUser", mira.clone()).await["id"].clone();
    let mut user = TestClient::connect(server.local_addr().port()).await;
    user.result("identity.login", mira).await;
    (server, root, user, id)
}

#[tokio::test]
async fn what_a_role_allowed_before_and_after_is_recorded_and_of_users_what_kind_of_thing_was_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = AuditConfig {
        file: Some(path.clone()),
        ..AuditConfig::default()
    };
    let (server, mut root) = with_users(audit).await;
    let reading = json!([{ "allow": ["store.get"], "buckets": ["orders"] }]);
    let writing = json!([{ "allow": ["store.*"] }]);
    let role = root
        .result("identity.createRole", json!({ "name": "clerk", "permissions": reading }))
        .await["id"]
        .clone();
    let update = json!({ "roleId": role, "permissions": writing, "description": "does it all" });
    root.result("identity.updateRole", update.clone()).await;
    root.result("identity.updateRole", json!({ "roleId": role, "description": null }))
        .await;
    let mira = json!({ "username": "mira", "password": "seven lanterns by the quay" });
    let id = root.result("identity.createUser", mira.clone()).await["id"].clone();
    let profile = json!({ "userId": id, "email": "mira@private.example", "metadata": { "team": "payroll" } });
    root.result("identity.updateUser", profile).await;
    let mut user = TestClient::connect(server.local_addr().port()).await;
    user.result("identity.login", mira).await;
    assert_eq!(user.call("identity.updateRole", update).await["code"], "FORBIDDEN");
    root.result("identity.deleteRole", json!({ "roleId": role })).await;
    let entries = root.result("audit.query", json!({ "operationPrefix": "identity." })).await["entries"].clone();
    let details_of = |operation: &str| -> Vec<Value> {
        let of_operation = entries
            .as_array()
            .expect("a list")
            .iter()
            .rev()
            .filter(|entry| entry["operation"] == operation);
        of_operation.map(|entry| entry["details"].clone()).collect()
    };
    assert_eq!(
        details_of("identity.createRole"),
        [json!({ "roleName": "clerk", "permissionsAfter": reading })]
    );
    let both = json!(["description", "permissions"]);
    assert_eq!(
        details_of("identity.updateRole"),
        [
            json!({ "changed": both, "roleName": "clerk", "permissionsBefore": reading, "permissionsAfter": writing }),
            json!({ "changed": ["description"] }),
            json!({ "changed": both }),
        ]
    );
    assert_eq!(
        details_of("identity.deleteRole"),
        [json!({ "roleName": "clerk", "permissionsBefore": writing })]
    );
    assert_eq!(details_of("identity.updateUser"), [json!({ "changed": ["email", "metadata"] })]);
    let file = fs::read_to_string(&path).expect("there is a file");
    assert!(!file.contains("private.example") && !file.contains("payroll"));
}

#[tokio::test]
async fn users_without_rights_do_not_push_out_what_administrators_have_done() {
    let audit = AuditConfig {
        max_entries: 16,
        ..AuditConfig::default()
    };
    let (_server, mut root, mut user, id) = with_a_user(audit).await;
    for n in 0..20 {
        let name = format!("name {n}");
        for (operation, fields) in [
            ("identity.createUser", json!({ "username": name, "password": "x" })),
            ("identity.assignRole", json!({ "userId": name, "roleName": "admin" })),
            ("identity.updateUser", json!({ "userId": id, "metadata": {} })),
            ("identity.grant", json!({ "subjectType": name })),
        ] {
            let answer = user.call(operation, fields).await;
            assert_eq!(answer["type"], "error", "{answer}");
        }
        user.result("identity.updateUser", json!({ "userId": id, "displayName": name }))
            .await;
    }
    let found = root
        .result("audit.query", json!({ "operation": "identity.createUser", "result": "success" }))
        .await;
    assert_eq!(found["entries"].as_array().map(Vec::len), Some(1), "{found}");
}

#[tokio::test]
async fn an_owner_changes_no_more_rights_than_their_part_of_the_log_has_room_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = AuditConfig {
        max_entries: 32,
        file: Some(path.clone()),
        file_max_bytes: 65_536,
        file_keep: 2,
        ..AuditConfig::default()
    };
    let (server, mut root, mut owner, id) = with_a_user(audit).await;
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    root.result("store.defineBucket", json!({ "name": "hers", "config": config })).await;
    let to_owner = json!({ "resourceType": "bucket", "resourceName": "hers", "newOwnerId": id });
    root.result("identity.transferOwner", to_owner).await;
    let grant = json!({ "subjectType": "user", "subjectId": id, "resourceType": "bucket", "resourceName": "hers",
        "operations": ["read"] });
    let mut granted = 0;
    let refusal = loop {
        let answer = owner.call("identity.grant", grant.clone()).await;
        if answer["type"] == "error" {
            break answer;
        }
        granted += 1;
        assert!(granted < 100);
        // What fails takes none of the room.
        let nonsense = owner.call("identity.grant", json!({ "subjectType": granted })).await;
        assert_eq!(nonsense["type"], "error");
    };
    assert!(granted >= 10, "{granted}");
    assert_eq!(refusal["code"], "RATE_LIMITED", "{refusal}");
    assert!(refusal["details"]["retryAfterMs"].as_u64() > Some(60_000), "{refusal}");
    // Whoever administers goes on, and their traces are there.
    root.result("identity.grant", grant).await;
    let found = root.result("audit.query", json!({ "operation": "store.defineBucket" })).await;
    assert_eq!(found["entries"].as_array().map(Vec::len), Some(1), "{found}");
    server.stop().await;
    let lines = chained(&path);
    let done = |operation: &str| {
        let is_it = |line: &&Value| line["operation"] == operation && line["result"] == "success";
        lines.iter().filter(is_it).count()
    };
    assert_eq!((done("identity.grant"), done("store.defineBucket")), (granted + 1, 1));
}
