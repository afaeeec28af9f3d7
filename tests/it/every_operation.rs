//! Every operation of the protocol, as every kind of caller: what each may do, and that nobody is shown what is not
//! theirs.
//!
//! No request of the tables changes anything for those that come after it, so that all share a server.

use std::collections::BTreeMap;

use noex_server::protocol::Operation;
use serde_json::{Value, json};

use crate::support::{TestClient, TestServer};

const RESULT: &str = "result";
const FORBIDDEN: &str = "FORBIDDEN";
const UNAUTHORIZED: &str = "UNAUTHORIZED";
const UNKNOWN: &str = "UNKNOWN_OPERATION";
const NOT_FOUND: &str = "NOT_FOUND";
const INVALID: &str = "VALIDATION_ERROR";
const EXISTS: &str = "ALREADY_EXISTS";
const UNDEFINED: &str = "BUCKET_NOT_DEFINED";

/// Who may do something. Those that are not named are refused.
#[derive(Clone, Copy)]
enum Who {
    Everybody,
    /// Whoever has logged in.
    Users,
    Readers,
    Writers,
    Admins,
    Superadmins,
}

/// What an operation asks of its caller.
struct Entry {
    fields: Value,
    /// What those are answered who may: a result, or a code that comes behind the check of their rights.
    answer: &'static str,
    may: Who,
    /// What the user is answered who may see own rows alone.
    own_rows: &'static str,
}

impl Entry {
    fn new(fields: Value, answer: &'static str, may: Who, own_rows: &'static str) -> Self {
        Self {
            fields,
            answer,
            may,
            own_rows,
        }
    }
}

/// The entry of an operation on data or on the server. There is no default: a new operation has to be thought about.
fn entry(operation: Operation) -> Entry {
    use Operation as O;
    let orders = |more: Value| {
        let mut fields = json!({ "bucket": "orders" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let foreign = || json!({ "id": "o-bob", "owner": "ida", "item": "x" });
    let read = |more: Value| Entry::new(orders(more), RESULT, Who::Readers, RESULT);
    let admin = |fields: Value, answer: &'static str| Entry::new(fields, answer, Who::Admins, FORBIDDEN);
    match operation {
        O::StoreInsert => Entry::new(orders(json!({ "data": foreign() })), EXISTS, Who::Writers, EXISTS),
        O::StoreInsertMany => Entry::new(orders(json!({ "data": [foreign()] })), EXISTS, Who::Writers, EXISTS),
        // A record of somebody else is not there for them: its version is 0.
        O::StoreUpdate => Entry::new(
            orders(json!({ "key": "o-bob", "data": { "item": "x" }, "expectVersion": 99 })),
            "CONFLICT",
            Who::Writers,
            "CONFLICT",
        ),
        O::StoreUpdateMany => Entry::new(
            orders(json!({ "filter": { "id": "nobody's" }, "data": { "item": "x" } })),
            RESULT,
            Who::Writers,
            RESULT,
        ),
        O::StoreUpsert => Entry::new(
            orders(json!({ "data": foreign(), "expectVersion": 99 })),
            "CONFLICT",
            Who::Writers,
            "CONFLICT",
        ),
        O::StoreDelete => Entry::new(
            orders(json!({ "key": "o-bob", "expectVersion": 99 })),
            "CONFLICT",
            Who::Writers,
            "CONFLICT",
        ),
        O::StoreDeleteMany => Entry::new(orders(json!({ "filter": { "id": "nobody's" } })), RESULT, Who::Writers, RESULT),
        O::StoreClear => Entry::new(json!({ "bucket": "cellar" }), RESULT, Who::Writers, FORBIDDEN),
        O::StoreTransaction => Entry::new(
            json!({ "operations": [{ "op": "get", "bucket": "orders", "key": "o-bob" }, { "op": "count", "bucket": "orders" }] }),
            RESULT,
            Who::Writers,
            RESULT,
        ),
        O::StoreGet => read(json!({ "key": "o-bob" })),
        O::StoreAll => read(json!({})),
        O::StoreWhere | O::StoreFindOne => read(json!({ "filter": { "n": { "$gte": 1 } } })),
        O::StoreCount => read(json!({})),
        O::StoreFirst | O::StoreLast => read(json!({ "n": 10 })),
        O::StorePaginate => read(json!({ "limit": 10 })),
        O::StoreSum | O::StoreAvg | O::StoreMin | O::StoreMax => read(json!({ "field": "n" })),
        O::StoreGroupBy => read(json!({ "field": "item", "aggregate": { "function": "sum", "field": "n" } })),
        O::StoreRunQuery | O::StoreSubscribe => Entry::new(json!({ "query": "all-orders" }), RESULT, Who::Readers, RESULT),
        // Its numbers tell of rows that are not theirs.
        O::StoreExplain => Entry::new(orders(json!({})), RESULT, Who::Readers, FORBIDDEN),
        O::StoreChanges => read(json!({ "filter": {} })),
        O::StoreUnsubscribe => Entry::new(json!({ "subscriptionId": "sub-0" }), NOT_FOUND, Who::Users, NOT_FOUND),
        O::StoreBuckets | O::StoreStats => Entry::new(json!({}), RESULT, Who::Readers, RESULT),
        O::StoreDefineBucket => admin(json!({ "name": "orders", "config": { "key": "id", "schema": {} } }), EXISTS),
        O::StoreDropBucket => admin(json!({ "name": "no-such" }), UNDEFINED),
        O::StoreUpdateBucket => admin(json!({ "name": "no-such", "updates": {} }), UNDEFINED),
        O::StoreGetBucketSchema => admin(json!({ "name": "vault" }), RESULT),
        O::StoreDefineQuery => admin(json!({ "name": "all-orders", "config": { "bucket": "orders" } }), EXISTS),
        O::StoreUndefineQuery => admin(json!({ "name": "no-such" }), "QUERY_NOT_DEFINED"),
        O::StoreListQueries => admin(json!({}), RESULT),
        O::ServerStats | O::ServerConnections => admin(json!({}), RESULT),
        O::AuditQuery => admin(json!({}), RESULT),
        // Each of its requests is judged by itself.
        O::Batch => Entry::new(
            json!({ "requests": [{ "id": 1, "type": "store.get", "bucket": "vault", "key": "v" }] }),
            RESULT,
            Who::Everybody,
            RESULT,
        ),
        O::AuthLogin | O::AuthRefresh => Entry::new(json!({}), INVALID, Who::Everybody, INVALID),
        // Last in its table, in effect: asked on a connection of its own.
        O::AuthLogout => Entry::new(json!({}), RESULT, Who::Everybody, RESULT),
        O::AuthWhoami => Entry::new(json!({}), RESULT, Who::Everybody, RESULT),
        O::IdentityLogin | O::IdentityLoginWithSecret => Entry::new(json!({}), INVALID, Who::Everybody, INVALID),
        O::IdentityLogout | O::IdentityWhoami | O::IdentityRefreshSession | O::IdentityMyAccess => {
            Entry::new(json!({}), RESULT, Who::Users, RESULT)
        }
        O::IdentityCreateUser => admin(json!({ "username": "", "password": "" }), INVALID),
        O::IdentityGetUser
        | O::IdentityUpdateUser
        | O::IdentityDeleteUser
        | O::IdentityEnableUser
        | O::IdentityDisableUser
        | O::IdentityGetUserRoles => admin(json!({ "userId": "no-such" }), NOT_FOUND),
        O::IdentityListUsers | O::IdentityListRoles => admin(json!({}), RESULT),
        O::IdentityChangePassword => Entry::new(
            json!({ "userId": "no-such", "currentPassword": "x", "newPassword": "y" }),
            FORBIDDEN,
            Who::Users,
            FORBIDDEN,
        ),
        O::IdentityResetPassword => admin(
            json!({ "userId": "no-such", "newPassword": "seven lanterns by the quay" }),
            NOT_FOUND,
        ),
        O::IdentityCreateRole => Entry::new(json!({ "name": "reader" }), EXISTS, Who::Superadmins, FORBIDDEN),
        O::IdentityUpdateRole | O::IdentityDeleteRole => Entry::new(json!({ "roleId": "no-such" }), NOT_FOUND, Who::Superadmins, FORBIDDEN),
        O::IdentityAssignRole | O::IdentityRemoveRole => admin(json!({ "userId": "no-such", "roleName": "no-such" }), NOT_FOUND),
        O::IdentityGrant => admin(
            json!({ "subjectType": "user", "subjectId": "no-such", "resourceType": "bucket", "resourceName": "orders", "operations": ["read"] }),
            NOT_FOUND,
        ),
        O::IdentityRevoke => admin(
            json!({ "subjectType": "user", "subjectId": "no-such", "resourceType": "bucket", "resourceName": "orders" }),
            NOT_FOUND,
        ),
        O::IdentityGetAcl | O::IdentityGetOwner => Entry::new(
            json!({ "resourceType": "bucket", "resourceName": "vault" }),
            RESULT,
            Who::Readers,
            FORBIDDEN,
        ),
        O::IdentityTransferOwner => Entry::new(
            json!({ "resourceType": "bucket", "resourceName": "nobody's", "newOwnerId": "no-such" }),
            NOT_FOUND,
            Who::Superadmins,
            FORBIDDEN,
        ),
    }
}

/// A kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Stranger,
    /// Logged in, with a role that means nothing.
    Nobody,
    /// Logged in, with the right to own rows of `orders`.
    OwnRows,
    Reader,
    Writer,
    Admin,
    Superadmin,
}

impl Caller {
    /// What this caller is to be answered.
    fn expected(self, entry: &Entry) -> &'static str {
        let least = match entry.may {
            Who::Everybody => Self::Stranger,
            Who::Users => Self::Nobody,
            Who::Readers => Self::Reader,
            Who::Writers => Self::Writer,
            Who::Admins => Self::Admin,
            Who::Superadmins => Self::Superadmin,
        };
        if self == Self::OwnRows {
            entry.own_rows
        } else if least <= self {
            entry.answer
        } else if self == Self::Stranger {
            UNAUTHORIZED
        } else {
            FORBIDDEN
        }
    }

    /// Whether this caller may see everything.
    fn sees_all(self) -> bool {
        self >= Self::Reader
    }
}

/// What no stranger and no user of own rows may ever be sent: parts of other records, and other buckets.
const HIDDEN: [&str; 6] = ["hidden", "o-bob", "vault", "cellar", "wage", "\"actual\":1"];

fn own_rows_rule() -> Value {
    json!({ "allow": "store.*", "buckets": ["orders"], "where": { "owner": "ida" }, "fields": ["owner", "item", "n"] })
}

fn with_data(auth: Value) -> Value {
    let text = json!({ "type": "string" });
    let orders = json!({ "id": text, "owner": text, "item": text, "wage": text, "n": { "type": "number" } });
    json!({
        "durability": "memory",
        "audit": {},
        "auth": auth,
        "buckets": {
            "orders": { "key": "id", "schema": orders, "indexes": ["owner"] },
            "vault": { "key": "id", "schema": { "id": text, "code": text } },
            "cellar": { "key": "id", "schema": { "id": text } },
        },
        "queries": { "all-orders": { "bucket": "orders" }, "all-vault": { "bucket": "vault" } },
    })
}

async fn fill(admin: &mut TestClient) {
    for (id, owner, item) in [("o-ida", "ida", "own"), ("o-bob", "bob", "hidden-item")] {
        let record = json!({ "id": id, "owner": owner, "item": item, "wage": "hidden-wage", "n": 7 });
        admin.result("store.insert", json!({ "bucket": "orders", "data": record })).await;
    }
    let record = json!({ "id": "v", "code": "hidden-code" });
    admin.result("store.insert", json!({ "bucket": "vault", "data": record })).await;
}

fn code_of(answer: &Value) -> &str {
    answer["code"].as_str().unwrap_or("result")
}

/// Asks for every operation and says what was not as expected.
async fn ask_all(caller: Caller, client: &mut TestClient, expected: impl Fn(Operation, &Entry) -> &'static str) -> Vec<String> {
    let mut wrong = Vec::new();
    for operation in Operation::ALL.iter().copied().filter(|operation| !ends_session(*operation)) {
        let entry = entry(operation);
        let answer = client.call(operation.name(), entry.fields.clone()).await;
        let (is, should) = (code_of(&answer).to_owned(), expected(operation, &entry));
        if is != should {
            wrong.push(format!("{caller:?} {operation}: {is} in the place of {should}: {answer}"));
        }
        wrong.extend(leak(caller, operation, &entry.fields, &answer));
    }
    wrong
}

/// Operations after which there is another session or none: asked for on connections of their own.
fn ends_session(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::AuthLogout | Operation::IdentityLogout | Operation::IdentityRefreshSession
    )
}

/// What of an answer the caller must not see, but for what they said themselves.
fn leak(caller: Caller, operation: Operation, asked: &Value, answer: &Value) -> Option<String> {
    if caller.sees_all() {
        return None;
    }
    let (asked, answer) = (asked.to_string(), answer.to_string());
    let shown = HIDDEN.iter().find(|part| answer.contains(**part) && !asked.contains(**part))?;
    Some(format!("{caller:?} {operation} shows {shown}: {answer}"))
}

#[tokio::test]
async fn with_tokens_every_operation_is_for_those_whom_it_is_meant_for() {
    let rule = |role: &str| json!({ "role": role, "allow": "*" });
    let mut own_rows = own_rows_rule();
    own_rows["role"] = "owner".into();
    let token = |user: &str, role: &str| json!({ "userId": user, "roles": [role] });
    let server = TestServer::start(with_data(json!({
        "tokens": {
            "token-of-nobody": token("nils", "ornament"),
            "token-of-owner": token("ida", "owner"),
            "token-of-reader": token("rita", "reader"),
            "token-of-writer": token("walt", "writer"),
            "token-of-admin": token("anna", "admin"),
        },
        "permissions": { "default": "deny", "rules": [rule("reader"), rule("writer"), rule("admin"), own_rows] },
    })))
    .await;
    let callers = BTreeMap::from([
        (Caller::Stranger, None),
        (Caller::Nobody, Some("token-of-nobody")),
        (Caller::OwnRows, Some("token-of-owner")),
        (Caller::Reader, Some("token-of-reader")),
        (Caller::Writer, Some("token-of-writer")),
        (Caller::Admin, Some("token-of-admin")),
    ]);
    let mut admin = server.connect().await;
    admin.result("auth.login", json!({ "token": "token-of-admin" })).await;
    fill(&mut admin).await;
    let mut wrong = Vec::new();
    for (caller, token) in callers {
        let mut client = server.connect().await;
        if let Some(token) = token {
            client.result("auth.login", json!({ "token": token })).await;
        }
        wrong.extend(
            ask_all(caller, &mut client, |operation, entry| {
                expected_with_tokens(caller, operation, entry)
            })
            .await,
        );
        let logout = client.call("auth.logout", json!({})).await;
        assert_eq!(code_of(&logout), "result", "{caller:?} auth.logout");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Users of our own are not configured: whoever gets that far is told so, by the tier of the operation and the rules.
fn expected_with_tokens(caller: Caller, operation: Operation, entry: &Entry) -> &'static str {
    if !operation.name().starts_with("identity.") {
        return caller.expected(entry);
    }
    let is_login = matches!(operation, Operation::IdentityLogin | Operation::IdentityLoginWithSecret);
    match caller {
        _ if is_login => UNKNOWN,
        Caller::Stranger => UNAUTHORIZED,
        Caller::Nobody | Caller::OwnRows => FORBIDDEN,
        Caller::Reader | Caller::Writer if operation.tier().is_some() => FORBIDDEN,
        Caller::Reader | Caller::Writer | Caller::Admin | Caller::Superadmin => UNKNOWN,
    }
}

const SECRET: &str = "a bootstrap secret of more than 32 bytes";
const PASSWORD: &str = "seven lanterns by the quay 31";

#[tokio::test]
async fn with_users_of_our_own_every_operation_is_for_those_whom_it_is_meant_for() {
    let server = TestServer::start(with_data(json!({
        "builtIn": { "adminSecret": SECRET, "argon2": { "memoryKib": 19_456, "passes": 2 } },
    })))
    .await;
    let mut root = server.connect().await;
    root.result("identity.loginWithSecret", json!({ "secret": SECRET })).await;
    fill(&mut root).await;
    let role = json!({ "name": "owner", "permissions": [own_rows_rule()] });
    root.result("identity.createRole", role).await;
    let callers = BTreeMap::from([
        (Caller::Stranger, None),
        (Caller::Nobody, Some(("nils", None))),
        (Caller::OwnRows, Some(("ida", Some("owner")))),
        (Caller::Reader, Some(("rita", Some("reader")))),
        (Caller::Writer, Some(("walt", Some("writer")))),
        (Caller::Admin, Some(("anna", Some("admin")))),
        (Caller::Superadmin, Some(("susan", Some("superadmin")))),
    ]);
    let mut wrong = Vec::new();
    for (caller, user) in callers {
        let mut client = server.connect().await;
        if let Some((name, role)) = user {
            let made = root
                .result("identity.createUser", json!({ "username": name, "password": PASSWORD }))
                .await;
            if let Some(role) = role {
                root.result("identity.assignRole", json!({ "userId": made["id"], "roleName": role }))
                    .await;
            }
            client
                .result("identity.login", json!({ "username": name, "password": PASSWORD }))
                .await;
        }
        wrong.extend(ask_all(caller, &mut client, |operation, entry| expected_of_users(caller, operation, entry)).await);
        for operation in ["identity.refreshSession", "identity.logout"] {
            let answer = client.call(operation, json!({})).await;
            let should = if caller == Caller::Stranger { UNAUTHORIZED } else { RESULT };
            assert_eq!(code_of(&answer), should, "{caller:?} {operation}: {answer}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// As the entry says; whoever has no right to a bucket at all may not begin a transaction on it either.
fn expected_of_users(caller: Caller, operation: Operation, entry: &Entry) -> &'static str {
    match (caller, operation) {
        // Elements are judged one by one, and these only read.
        (Caller::Reader, Operation::StoreTransaction) => RESULT,
        _ => caller.expected(entry),
    }
}
