//! Sessions on a connection, judged by an authority that does as the test says.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::json;

use super::authority::{Authority, Standing, Work};
use super::connection::{Access, Change, Followed, Judgement};
use super::deadlines::Deadlines;
use super::open::Everything;
use super::permissions::{Permissions, PermissionsConfig, rule};
use super::presence::Place;
use super::principal::{Login, Principal, TokenDigest};
use super::rights::{Rights, Scope};
use super::secret::Secret;
use crate::protocol::{ConnectionId, Envelope, ErrorCode, Operation};
use crate::server::connection::OutboxHandle;
use crate::server::handlers::Failure;
use crate::store::state::State;

/// Whose sessions end, and whose roles change, when the test says so.
struct Scripted {
    requires_login: bool,
    version: AtomicU64,
    ended: Mutex<bool>,
    principal: Mutex<Option<Arc<Principal>>>,
    permissions: Permissions,
}

impl Scripted {
    fn new(requires_login: bool) -> Arc<Self> {
        let rules = vec![
            rule(json!({ "role": "clerk", "allow": "store.*", "buckets": ["orders"] })),
            rule(json!({ "role": "reader", "allow": "*" })),
        ];
        Arc::new(Self {
            requires_login,
            version: AtomicU64::new(0),
            ended: Mutex::new(false),
            principal: Mutex::new(None),
            permissions: Permissions::new(Some(PermissionsConfig {
                rules: Some(rules),
                ..PermissionsConfig::default()
            })),
        })
    }

    fn rise(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Authority for Scripted {
    fn requires_login(&self) -> bool {
        self.requires_login
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn rights(&self, principal: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        match principal {
            Some(principal) if principal.roles == ["root"] => Arc::new(Everything),
            Some(principal) => Arc::new(self.permissions.rights(principal)),
            None => Arc::new(self.permissions.rights(&Principal::new("", ["reader"]))),
        }
    }

    fn standing(&self, login: &Login, now_ms: u64, _: bool) -> Standing {
        if *self.ended.lock() {
            Standing::Ended
        } else if login.principal.has_expired(now_ms) {
            Standing::Expired
        } else {
            let changed = self.principal.lock().clone();
            Standing::Holds(changed.unwrap_or_else(|| Arc::clone(&login.principal)))
        }
    }

    fn deadline(&self, login: &Login) -> Option<u64> {
        login.principal.expires_at
    }

    fn log_in(&self, _: Secret, _: IpAddr) -> Work<Result<Login, Failure>> {
        unreachable!("the tests log in themselves")
    }

    fn log_out(&self, _: &Login) -> Work<Result<(), Failure>> {
        unreachable!("the tests log out themselves")
    }
}

fn login(user: &str, roles: &[&str]) -> Login {
    Login {
        principal: Arc::new(Principal::new(user, roles.iter().copied())),
        token: TokenDigest::of(user),
        session: None,
        proof: None,
    }
}

/// What a request is answered by the gate: its scope, or the code and the text.
fn ask(access: &mut Access, json: &str) -> Result<Scope, (ErrorCode, String)> {
    let Ok(Envelope::Request(request)) = Envelope::parse(json) else {
        panic!("{json} is a request")
    };
    match access.judge(&request, &State::default()) {
        Ok(Judgement::Admitted { scope, .. }) => Ok(scope),
        Ok(Judgement::Asking(_)) => panic!("no program is asked"),
        Err(failure) => Err((failure.code(), failure.message().to_owned())),
    }
}

fn unauthorized(text: &str) -> Result<Scope, (ErrorCode, String)> {
    Err((ErrorCode::Unauthorized, text.to_owned()))
}

const GET: &str = r#"{"id":1,"type":"store.get","bucket":"orders","key":"k"}"#;

#[test]
fn a_stranger_may_log_in_and_ask_who_they_are_and_nothing_else() {
    let mut access = Access::of_nobody(Scripted::new(true));
    for free in ["auth.login", "auth.whoami", "auth.levitate", "identity.login", "ping"] {
        assert_eq!(
            ask(&mut access, &format!(r#"{{"id":1,"type":"{free}"}}"#)),
            Ok(Scope::Everything),
            "{free}"
        );
    }
    for closed in [
        "store.get",
        "identity.whoami",
        "server.stats",
        "quux",
        "rules.emit",
        "authlogin",
        "store.unsubscribe",
        "batch",
    ] {
        let answer = ask(&mut access, &format!(r#"{{"id":1,"type":"{closed}"}}"#));
        assert_eq!(answer, unauthorized("Authentication required"), "{closed}");
    }
}

#[tokio::test]
async fn a_session_that_has_run_out_is_told_so_once() {
    let mut access = Access::of_nobody(Scripted::new(true));
    let mut ends = login("ida", &["root"]);
    ends.principal = Arc::new(Principal {
        expires_at: Some(1_000),
        ..(*ends.principal).clone()
    });
    access.log_in(ends);
    assert_eq!(access.refresh(1_000, true), Change::Nothing, "the last millisecond counts");
    assert_eq!(ask(&mut access, GET), Ok(Scope::Everything));
    assert_eq!(access.refresh(1_001, true), Change::SessionOver);
    assert_eq!(ask(&mut access, r#"{"id":1,"type":"auth.whoami"}"#), Ok(Scope::Everything));
    assert_eq!(ask(&mut access, GET), unauthorized("Session expired"));
    assert_eq!(ask(&mut access, GET), unauthorized("Authentication required"));
    access.log_in(login("ida", &["root"]));
    assert_eq!(ask(&mut access, GET), Ok(Scope::Everything));
}

#[test]
fn rights_are_worked_out_anew_when_the_version_rises_and_not_before() {
    let authority = Scripted::new(true);
    let mut access = Access::of_nobody(Arc::clone(&authority) as Arc<dyn Authority>);
    access.log_in(login("ida", &["root"]));
    let demoted = Arc::new(Principal::new("ida", ["clerk"]));
    *authority.principal.lock() = Some(demoted);
    authority.rise();
    assert_eq!(access.refresh(5, true), Change::Rights);
    assert_eq!(access.refresh(5, true), Change::Nothing);
    assert_eq!(ask(&mut access, GET), Ok(Scope::Everything));
    let refused = ask(&mut access, r#"{"id":1,"type":"store.get","bucket":"vault","key":"k"}"#);
    assert_eq!(
        refused,
        Err((ErrorCode::Forbidden, "No permission for store.get on vault".to_owned()))
    );
    *authority.ended.lock() = true;
    assert_eq!(access.refresh(6, false), Change::SessionOver);
    assert_eq!(ask(&mut access, GET), unauthorized("Authentication required"));
}

#[test]
fn a_token_that_stands_for_another_user_by_now_is_a_change_of_users() {
    let authority = Scripted::new(true);
    let mut access = Access::of_nobody(Arc::clone(&authority) as Arc<dyn Authority>);
    access.log_in(login("ida", &["root"]));
    *authority.principal.lock() = Some(Arc::new(Principal::new("bob", ["root"])));
    authority.rise();
    assert_eq!(access.refresh(5, true), Change::User);
    assert_eq!(access.refresh(5, true), Change::Nothing);
}

#[tokio::test]
async fn a_connection_that_is_gone_leaves_no_deadline_behind() {
    let deadlines = Arc::new(Deadlines::default());
    let outbox = OutboxHandle::default();
    let place = Place::new(Arc::default(), ConnectionId::next(), Arc::clone(&outbox));
    let address = IpAddr::from([127, 0, 0, 1]);
    let mut access = Access::new(Scripted::new(true), Arc::clone(&deadlines), place, outbox, address, Some(u64::MAX));
    assert_eq!(deadlines.len(), 1, "until when somebody has to log in");
    let mut ends = login("ida", &["root"]);
    ends.principal = Arc::new(Principal {
        expires_at: Some(u64::MAX),
        ..(*ends.principal).clone()
    });
    access.log_in(ends);
    assert_eq!(deadlines.len(), 1, "until when the session lasts");
    drop(access);
    assert_eq!(deadlines.len(), 0);
}

#[test]
fn another_user_and_the_same_one_again_are_told_apart() {
    let mut access = Access::of_nobody(Scripted::new(true));
    assert_eq!(access.log_out(), Change::Nothing);
    assert_eq!(access.log_in(login("ida", &["root"])), Change::Rights);
    assert_eq!(access.log_in(login("ida", &["clerk"])), Change::Rights);
    assert_eq!(access.log_in(login("bob", &["clerk"])), Change::User);
    assert_eq!(access.log_out(), Change::SessionOver);
}

#[test]
fn whoever_need_not_log_in_is_told_that_it_would_help() {
    let mut access = Access::of_nobody(Scripted::new(false));
    assert_eq!(ask(&mut access, GET), Ok(Scope::Everything), "anonymous callers are readers here");
    let refused = ask(&mut access, r#"{"id":1,"type":"store.dropBucket","name":"orders"}"#);
    assert_eq!(refused, unauthorized("Authentication required"));
}

#[test]
fn every_step_of_a_transaction_is_judged_and_a_decoy_lends_nothing() {
    let mut access = Access::of_nobody(Scripted::new(true));
    access.log_in(login("carl", &["clerk"]));
    let transaction = |steps: &str| format!(r#"{{"id":1,"type":"store.transaction","bucket":"orders","operations":[{steps}]}}"#);
    let (mine, other) = (
        r#"{"op":"get","bucket":"orders","key":1}"#,
        r#"{"op":"get","bucket":"vault","name":"orders","key":1}"#,
    );
    assert_eq!(ask(&mut access, &transaction(mine)), Ok(Scope::Everything));
    for steps in [other.to_owned(), format!("{mine},{other}"), format!("{other},{mine}")] {
        let refused = ask(&mut access, &transaction(&steps));
        assert_eq!(
            refused,
            Err((ErrorCode::Forbidden, "No permission for store.get on vault".to_owned())),
            "{steps}"
        );
    }
    assert!(
        access.admit_step(Operation::StoreDelete, "vault").is_err(),
        "what cannot be read here is judged again there"
    );
}

#[test]
fn what_is_followed_is_judged_as_when_it_was_begun() {
    let mut access = Access::of_nobody(Scripted::new(true));
    let state = State::default();
    let follows = |access: &Access, bucket: &str| access.still_follows(Operation::StoreChanges, Followed::Bucket(bucket), &state);
    assert_eq!(follows(&access, "orders"), None);
    access.log_in(login("carl", &["clerk"]));
    assert_eq!(follows(&access, "orders"), Some(Scope::Everything));
    assert_eq!(follows(&access, "vault"), None);
    access.log_out();
    assert_eq!(follows(&access, "orders"), None);
}

#[test]
fn the_time_to_log_in_is_over_only_for_those_who_have_to_and_have_not() {
    let mut access = Access::of_nobody(Scripted::new(true));
    assert!(!access.is_overdue(u64::MAX), "connections of tests have all the time");
    access = Access::of_nobody_until(Scripted::new(true), 100);
    assert!(!access.is_overdue(99) && access.is_overdue(100));
    access.log_in(login("ida", &["root"]));
    access.log_out();
    assert!(!access.is_overdue(u64::MAX), "whoever was logged in once may stay");
    assert!(!Access::of_nobody_until(Scripted::new(false), 100).is_overdue(u64::MAX));
}
