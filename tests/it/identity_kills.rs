//! A kill in the middle of changes to users, roles and rights: what was acknowledged holds, and nothing is half done.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Site, TestClient, TestServer};

const SECRET: &str = "a bootstrap secret of more than 32 bytes";
const PASSWORD: &str = "seven lanterns by the quay 31";

/// How often the server is killed in the middle of its work.
const ROUNDS: usize = 12;
/// Connections that change things at once, each things of its own.
const DESKS: usize = 3;
/// Changes that are acknowledged before the server is killed.
const CHANGES: usize = 40;

/// What one desk has brought about of its user, its role and its bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Things {
    /// Whether the user holds the role.
    holds: bool,
    /// Whether the role allows to write as well.
    writes: bool,
    is_enabled: bool,
    /// Whether the bucket is there, and then whether the user may read it.
    bucket: Option<bool>,
}

/// One change after the other, again and again, so that each of them is what a kill interrupts.
const TURN: [fn(&mut Things); 8] = [
    |things| things.bucket = Some(false),
    |things| things.holds = true,
    |things| things.bucket = Some(true),
    |things| things.writes = !things.writes,
    |things| things.is_enabled = false,
    |things| things.holds = false,
    |things| things.is_enabled = true,
    |things| things.bucket = None,
];

struct Desk {
    number: usize,
    user: String,
    role: String,
    done: usize,
    /// As acknowledged.
    things: Things,
}

impl Desk {
    async fn open(number: usize, root: &mut TestClient) -> Self {
        let user = json!({ "username": format!("user-{number}"), "password": PASSWORD });
        let user = root.result("identity.createUser", user).await;
        let role = json!({ "name": format!("role-{number}"), "permissions": [{ "allow": ["store.get"], "buckets": ["b"] }] });
        let role = root.result("identity.createRole", role).await;
        let id = |made: &Value| made["id"].as_str().expect("an id").to_owned();
        Self {
            number,
            user: id(&user),
            role: id(&role),
            done: 0,
            things: Things {
                is_enabled: true,
                ..Things::default()
            },
        }
    }

    fn bucket(&self) -> String {
        format!("bucket-{}", self.number)
    }

    fn after(&self) -> Things {
        let mut after = self.things.clone();
        TURN[self.done % TURN.len()](&mut after);
        after
    }

    /// The request that makes what is next of what is now.
    fn request(&self) -> (&'static str, Value) {
        let after = self.after();
        let member = json!({ "userId": self.user, "roleName": format!("role-{}", self.number) });
        let reader = json!({ "subjectType": "user", "subjectId": self.user, "resourceType": "bucket",
            "resourceName": self.bucket(), "operations": ["read"] });
        match self.done % TURN.len() {
            0 => (
                "store.defineBucket",
                json!({ "name": self.bucket(), "config": { "key": "id", "schema": { "id": { "type": "string" } } } }),
            ),
            1 => ("identity.assignRole", member),
            2 => ("identity.grant", reader),
            3 => {
                let allow = if after.writes {
                    json!(["store.get", "store.insert"])
                } else {
                    json!(["store.get"])
                };
                (
                    "identity.updateRole",
                    json!({ "roleId": self.role, "permissions": [{ "allow": allow, "buckets": ["b"] }] }),
                )
            }
            4 => ("identity.disableUser", json!({ "userId": self.user })),
            5 => ("identity.removeRole", member),
            6 => ("identity.enableUser", json!({ "userId": self.user })),
            _ => ("store.dropBucket", json!({ "name": self.bucket() })),
        }
    }

    /// Changes one thing after the other until the server is gone, and tells of each that is acknowledged.
    async fn work(mut self, mut client: TestClient, acknowledged: mpsc::UnboundedSender<()>) -> Self {
        loop {
            let (operation, fields) = self.request();
            if client.request(operation, fields).await.is_err() {
                return self;
            }
            let Ok(answer) = client.next().await else { return self };
            assert_eq!(answer["type"], "result", "{answer}");
            self.things = self.after();
            self.done += 1;
            let _ = acknowledged.send(());
        }
    }

    /// What is there now: what was acknowledged, or also the change that was on the way.
    async fn check(&mut self, root: &mut TestClient) {
        let found = self.found(root).await;
        if found != self.things {
            assert_eq!(
                found,
                self.after(),
                "desk {} after {} changes: {:?}",
                self.number,
                self.done,
                self.things
            );
            self.things = found;
            self.done += 1;
        }
    }

    async fn found(&self, root: &mut TestClient) -> Things {
        let user = root.result("identity.getUser", json!({ "userId": self.user })).await;
        let roles = root.result("identity.getUserRoles", json!({ "userId": self.user })).await;
        let role = format!("role-{}", self.number);
        let defined = root.result("identity.listRoles", json!({})).await;
        let defined = defined["roles"].as_array().expect("a list");
        let permissions = &defined.iter().find(|it| it["name"] == role).expect("the role is there")["permissions"];
        let buckets = root.result("store.buckets", json!({})).await;
        let is_there = buckets["names"].as_array().expect("a list").contains(&json!(self.bucket()));
        let resource = json!({ "resourceType": "bucket", "resourceName": self.bucket() });
        let bucket = if is_there {
            let owner = root.result("identity.getOwner", resource.clone()).await;
            assert_eq!(
                owner["owner"]["username"],
                json!("__superadmin__"),
                "{} has the owner who defined it",
                self.bucket()
            );
            let acl = root.result("identity.getAcl", resource).await;
            let entries = acl["entries"].as_array().expect("a list");
            Some(entries.iter().any(|entry| entry["subjectId"] == json!(self.user)))
        } else {
            // Also nothing that would come to life with another bucket of that name.
            let access = root.result("identity.getOwner", resource).await;
            assert_eq!(access["owner"], Value::Null, "{} is not there and has an owner", self.bucket());
            None
        };
        Things {
            holds: roles["roles"].as_array().expect("a list").iter().any(|it| it["name"] == role),
            writes: permissions[0]["allow"].as_array().expect("a list").len() == 2,
            is_enabled: user["enabled"].as_bool().expect("a boolean"),
            bucket,
        }
    }
}

async fn root(server: &TestServer) -> TestClient {
    let mut client = server.connect().await;
    client.result("identity.loginWithSecret", json!({ "secret": SECRET })).await;
    client
}

#[tokio::test]
async fn acknowledged_changes_of_users_and_rights_survive_a_kill_and_none_is_half_done() {
    let site = Site::new(json!({ "auth": { "builtIn": {
        "adminSecret": SECRET, "keepBootstrapSecret": true, "argon2": { "memoryKib": 19_456, "passes": 2 },
    } } }));
    let mut server = TestServer::serve(&site).await;
    let mut client = root(&server).await;
    let mut desks = Vec::new();
    for number in 0..DESKS {
        desks.push(Desk::open(number, &mut client).await);
    }
    for round in 0..ROUNDS {
        let (acknowledged, mut changes) = mpsc::unbounded_channel();
        let mut working = Vec::new();
        for desk in desks {
            working.push(tokio::spawn(desk.work(root(&server).await, acknowledged.clone())));
        }
        // Orders are carried out one after the other: in the middle of one of them.
        for _ in 0..CHANGES + round {
            changes.recv().await.expect("the desks are at work");
        }
        server.kill().await;
        desks = join_all(working).await.into_iter().map(|desk| desk.expect("it ends")).collect();
        server = TestServer::serve(&site).await;
        let mut client = root(&server).await;
        for desk in &mut desks {
            desk.check(&mut client).await;
        }
    }
}
