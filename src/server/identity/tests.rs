//! Logins, sessions and rights on a store, with the time in the test's hands.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::authority::IdentityAuthority;
use super::order::{AclAddress, Change, NewRole, NewUser, Order, Profile, Setting};
use super::plan::Caller;
use super::rights::UserRights;
use super::tables::Table;
use super::{Arrival, Identity, Issued, Resource, ResourceKind, Subject, VIRTUAL_SUPERADMIN, names, new_id};
use crate::protocol::{ConnectionId, ErrorCode, Operation, Tier};
use crate::server::access::{Asked, Authority, Login, Presence, Scope, Secret, Standing, Target};
use crate::server::config::{Argon2Config, AuthConfig, BuiltInConfig, LoginRateLimitConfig};
use crate::server::handlers::Failure;
use crate::store::{BucketDefinition, FieldSpec, Store};

const SECRET: &str = "a bootstrap secret of enough length";
const PASSWORD: &str = "seven lanterns by the quay";
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// Users of our own on a store in memory.
struct Desk {
    identity: Arc<Identity>,
    authority: IdentityAuthority,
    store: Store,
    config: AuthConfig,
    clock: Arc<AtomicU64>,
}

impl Desk {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(change: impl FnOnce(&mut BuiltInConfig)) -> Self {
        let store = Store::builder().in_memory().open().await.expect("a store in memory opens");
        Self::open_on(store, change).await
    }

    async fn open_on(store: Store, change: impl FnOnce(&mut BuiltInConfig)) -> Self {
        let mut built_in = BuiltInConfig {
            admin_secret: Some(SECRET.into()),
            argon2: Argon2Config {
                memory_kib: 19_456,
                passes: 2,
                lanes: 1,
            },
            login_rate_limit: LoginRateLimitConfig {
                max_attempts: 3,
                window: Duration::from_secs(60),
            },
            ..BuiltInConfig::default()
        };
        change(&mut built_in);
        let config = AuthConfig {
            built_in: Some(built_in),
            ..AuthConfig::default()
        };
        Self::start(store, config, Arc::new(AtomicU64::new(1_000_000))).await
    }

    async fn start(store: Store, config: AuthConfig, clock: Arc<AtomicU64>) -> Self {
        let time = Arc::clone(&clock);
        let clock_of = Arc::new(move || time.load(Ordering::SeqCst));
        let started = Identity::start(&config, &store, &Arc::<Presence>::default(), clock_of).await;
        let identity = started.expect("it starts").expect("there are users of our own");
        Self {
            authority: IdentityAuthority::new(Arc::clone(&identity)),
            identity,
            store,
            config,
            clock,
        }
    }

    /// The same after a restart of the server.
    async fn restarted(self) -> Self {
        let Self { store, config, clock, .. } = self;
        Self::start(store, config, clock).await
    }

    /// The same after the store was closed and opened again.
    async fn reopened(self, open: &impl AsyncFn() -> Store) -> Self {
        let Self {
            identity,
            authority,
            store,
            config,
            clock,
        } = self;
        drop((identity, authority));
        store.close().await.expect("it closes");
        drop(store);
        Self::start(open().await, config, clock).await
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    async fn by(&self, by: &str, change: Change) -> Result<(), Failure> {
        let order = Order {
            by: by.into(),
            connection: None,
            change,
        };
        self.identity.carry_out(order).await.map(drop)
    }

    async fn by_root(&self, change: Change) {
        self.by(VIRTUAL_SUPERADMIN, change).await.expect("a superadmin may");
    }

    /// Makes a user with roles; the id.
    async fn user(&self, name: &str, roles: &[&str]) -> Arc<str> {
        let hash = self.identity.hash(PASSWORD.into()).await.expect("there is room");
        self.user_with_hash(name, hash, roles).await
    }

    /// The same without the work of a hash: nobody logs in as them.
    async fn locked_user(&self, name: &str, roles: &[&str]) -> Arc<str> {
        self.user_with_hash(name, "$".into(), roles).await
    }

    async fn user_with_hash(&self, name: &str, hash: Secret, roles: &[&str]) -> Arc<str> {
        let id: Arc<str> = new_id().expect("there is randomness").into();
        let user = NewUser {
            id: Arc::clone(&id),
            name: name.to_owned(),
            hash,
            is_enabled: true,
            profile: nothing(),
        };
        self.by_root(Change::CreateUser(user)).await;
        for role in roles {
            self.by_root(assign(&id, role)).await;
        }
        id
    }

    async fn role(&self, name: &str, permissions: Value) {
        let role = NewRole {
            id: new_id().expect("there is randomness").into(),
            name: name.to_owned(),
            description: None,
            permissions: permissions.as_array().expect("a list").clone(),
        };
        self.by_root(Change::CreateRole(role)).await;
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<Issued, Failure> {
        self.identity.log_in(name, password.into(), from(HOME)).await
    }

    async fn root(&self) -> Result<Issued, Failure> {
        self.identity.log_in_with_secret(SECRET.into(), from(HOME)).await
    }

    fn standing(&self, login: &Login) -> Standing {
        self.authority.standing(login, self.now(), false)
    }

    fn holds(&self, login: &Login) -> bool {
        matches!(self.standing(login), Standing::Holds(_))
    }

    async fn by_token(&self, token: &Secret) -> Result<Login, Failure> {
        self.authority.log_in(token.clone(), HOME).await
    }

    fn may(&self, user: &str, operation: Operation, bucket: &str) -> bool {
        let directory = self.identity.directory();
        let scope = UserRights::of(&directory, user).scope(&directory, operation.into(), &Target::Bucket(bucket));
        scope == Some(Scope::Everything)
    }

    /// All that is stored of users and rights, as text.
    fn stored(&self) -> String {
        let records = Table::ALL.map(|table| self.store.bucket(table.name()).all().expect("it is defined"));
        let texts = records
            .iter()
            .flatten()
            .map(|record| String::from_utf8_lossy(record.json()).into_owned());
        texts.collect()
    }
}

fn from(address: IpAddr) -> Arrival {
    Arrival {
        address,
        connection: ConnectionId::next(),
    }
}

fn nothing() -> Profile {
    Profile {
        display_name: Setting::Keep,
        email: Setting::Keep,
        metadata: Setting::Keep,
    }
}

fn assign(user: &Arc<str>, role: &str) -> Change {
    Change::AssignRole {
        user: Arc::clone(user),
        role: role.to_owned(),
    }
}

fn unassign(user: &Arc<str>, role: &str) -> Change {
    Change::RemoveRole {
        user: Arc::clone(user),
        role: role.to_owned(),
    }
}

fn enable(user: &Arc<str>, enabled: bool) -> Change {
    Change::SetEnabled {
        user: Arc::clone(user),
        enabled,
    }
}

fn bucket(name: &str) -> Resource {
    Resource::new(ResourceKind::Bucket, name)
}

fn plain_bucket() -> BucketDefinition {
    let definition = BucketDefinition::builder("id").field("id", FieldSpec::string());
    definition.build().expect("it is well formed")
}

fn grant(user: &Arc<str>, resource: Resource, right: Tier) -> Change {
    let subject = Subject::User(Arc::clone(user));
    Change::Grant {
        entry: AclAddress { subject, resource },
        rights: vec![right],
    }
}

fn define(name: &str) -> Change {
    Change::Define {
        operation: crate::store::Operation::DefineBucket {
            name: name.into(),
            definition: Arc::new(plain_bucket()),
        },
        resource: bucket(name),
        incarnation: super::new_incarnation().expect("there is randomness"),
    }
}

fn define_query(name: &str, of: &str) -> Change {
    let definition = crate::store::query::QueryDefinition::parse(json!({ "bucket": of }).as_object().expect("an object"));
    Change::Define {
        operation: crate::store::Operation::DefineQuery {
            name: name.into(),
            definition: Arc::new(definition.expect("it is well formed")),
        },
        resource: Resource::new(ResourceKind::Query, name),
        incarnation: super::new_incarnation().expect("there is randomness"),
    }
}

fn remove(name: &str) -> Change {
    Change::Remove {
        operation: crate::store::Operation::DropBucket { name: name.into() },
        resource: bucket(name),
    }
}

fn code<T>(outcome: Result<T, Failure>) -> ErrorCode {
    outcome.err().expect("it is refused").code()
}

fn text<T>(outcome: Result<T, Failure>) -> String {
    outcome.err().expect("it is refused").message().to_owned()
}

#[tokio::test]
async fn the_admin_secret_counts_until_a_superadmin_has_logged_in_with_a_password() {
    let desk = Desk::open().await;
    assert_eq!(
        text(desk.identity.log_in_with_secret("a wrong secret".into(), from(HOME)).await),
        "Invalid secret"
    );
    assert!(desk.root().await.is_ok());
    let suse = desk.user("suse", &[]).await;
    assert!(desk.log_in("suse", PASSWORD).await.is_ok());
    desk.by_root(assign(&suse, "superadmin")).await;
    assert!(desk.root().await.is_ok(), "they have not logged in as one yet");
    assert!(desk.log_in("suse", PASSWORD).await.is_ok());
    assert_eq!(code(desk.root().await), ErrorCode::Forbidden);
    let desk = desk.restarted().await;
    assert_eq!(code(desk.root().await), ErrorCode::Forbidden);
}

#[tokio::test]
async fn the_admin_secret_counts_again_while_nobody_is_left_who_has_shown_a_password_as_a_superadmin() {
    let desk = Desk::open().await;
    let suse = desk.user("suse", &["superadmin"]).await;
    let begun = desk.root().await.expect("it is the secret");
    assert!(desk.log_in("suse", PASSWORD).await.is_ok());
    assert_eq!(code(desk.root().await), ErrorCode::Forbidden);
    assert!(desk.holds(&begun.login), "a session that has begun goes on");
    desk.locked_user("tess", &["superadmin"]).await;
    desk.by_root(enable(&suse, false)).await;
    assert!(desk.root().await.is_ok());
    desk.by_root(enable(&suse, true)).await;
    assert_eq!(code(desk.root().await), ErrorCode::Forbidden);
    let revoked = desk.authority.revoke(&[VIRTUAL_SUPERADMIN]).await;
    assert!(revoked.is_ok() && !desk.holds(&begun.login), "the embedding program ends it");
}

#[tokio::test]
async fn without_an_admin_secret_a_superadmin_must_be_stored_who_could_log_in() {
    let starts = async |desk: &Desk| {
        let mut config = desk.config.clone();
        config.built_in.as_mut().expect("it is there").admin_secret = None;
        let clock = Arc::new(|| 1_000_000);
        match Identity::start(&config, &desk.store, &Arc::<Presence>::default(), clock).await {
            Ok(_) => true,
            Err(crate::server::StartError::NobodyCanLogIn) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let desk = Desk::open().await;
    assert!(!starts(&desk).await, "nobody is there");
    desk.user("mira", &["admin"]).await;
    assert!(!starts(&desk).await, "she cannot make a superadmin");
    desk.locked_user("lost", &["superadmin"]).await;
    assert!(!starts(&desk).await, "no password fits");
    let suse = desk.user("suse", &["superadmin"]).await;
    assert!(starts(&desk).await);
    desk.by_root(Change::SetEnabled {
        user: suse,
        enabled: false,
    })
    .await;
    assert!(!starts(&desk).await, "she is locked out");
}

#[tokio::test]
async fn the_admin_secret_may_be_kept() {
    let desk = Desk::open_with(|config| config.keep_bootstrap_secret = true).await;
    desk.user("suse", &["superadmin"]).await;
    assert!(desk.log_in("suse", PASSWORD).await.is_ok());
    assert!(desk.root().await.is_ok());
}

#[tokio::test]
async fn neither_tokens_nor_passwords_are_stored_or_shown() {
    let desk = Desk::open().await;
    desk.user("mira", &["reader"]).await;
    let issued = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let stored = desk.stored();
    for secret in [issued.token.expose(), PASSWORD, SECRET] {
        assert!(!stored.contains(secret));
        assert!(!format!("{:?}{:?}", desk.identity.directory(), issued.login).contains(secret));
    }
    assert!(stored.contains("$argon2id$"));
    assert!(!format!("{:?}", desk.identity.directory()).contains("$argon2id$"));
    assert!(
        !issued
            .token
            .expose()
            .contains(&*issued.login.session.clone().expect("it is stored"))
    );
}

#[tokio::test]
async fn unknown_users_wrong_passwords_and_disabled_accounts_sound_alike_without_the_password() {
    let desk = Desk::open().await;
    let otto = desk.user("otto", &[]).await;
    desk.by_root(enable(&otto, false)).await;
    assert_eq!(text(desk.log_in("nobody", "a wrong guess").await), "Invalid credentials");
    assert_eq!(text(desk.log_in("otto", "a wrong guess").await), "Invalid credentials");
    assert_eq!(text(desk.log_in("otto", PASSWORD).await), "Account is disabled");
    desk.by_root(enable(&otto, true)).await;
    assert!(desk.log_in("OTTO", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn attempts_are_counted_for_logins_and_changes_of_passwords_together() {
    let desk = Desk::open().await;
    desk.user("mira", &[]).await;
    let login = desk.log_in("mira", PASSWORD).await.expect("it is the password").login;
    let guess = || {
        desk.identity
            .change_password(&login, "a wrong guess".into(), "whatever it is".into(), from(HOME))
    };
    assert_eq!(text(guess().await), "Current password is incorrect");
    assert_eq!(text(desk.log_in("mira", "a wrong guess").await), "Invalid credentials");
    assert_eq!(text(guess().await), "Current password is incorrect");
    assert_eq!(code(guess().await), ErrorCode::RateLimited);
    assert_eq!(code(desk.log_in("Mira", PASSWORD).await), ErrorCode::RateLimited);
    desk.pass(60_001);
    assert!(desk.log_in("mira", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn guesses_side_by_side_are_counted_before_they_are_checked() {
    let desk = Desk::open().await;
    desk.user("mira", &[]).await;
    let guesses = (0..6).map(|_| desk.log_in("mira", "a wrong guess"));
    let outcomes = futures_util::future::join_all(guesses).await;
    let limited = outcomes.into_iter().filter(|outcome| {
        let refusal = outcome.as_ref().err().expect("it is wrong");
        refusal.code() == ErrorCode::RateLimited
    });
    assert_eq!(limited.count(), 3);
}

#[tokio::test]
async fn hashes_of_the_reference_server_are_upgraded_with_the_login() {
    let desk = Desk::open().await;
    let legacy = "$scrypt$16384$8$1$AAECAwQFBgcICQoLDA0ODw==$JbN2hANm9NOw4h5BRHZnbjzQ6Jr0QwNWojTOC2WgIbViM+ewsk8HvJNAGV8ZyQodp1YlFO0HYqba48J/9bB9Yg==";
    let user = desk.user_with_hash("mira", legacy.into(), &[]).await;
    assert!(desk.log_in("mira", "correct horse").await.is_ok());
    let hash = |desk: &Desk| desk.identity.directory().user(&user).expect("it is there").password.clone();
    assert!(hash(&desk).expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    let desk = desk.restarted().await;
    assert!(hash(&desk).expose().starts_with("$argon2id$"));
    assert!(desk.log_in("mira", "correct horse").await.is_ok());
}

#[tokio::test]
async fn without_any_configuration_a_password_takes_64_mib_and_three_passes() {
    let desk = Desk::open_with(|config| config.argon2 = BuiltInConfig::default().argon2).await;
    let user = desk.user("mira", &[]).await;
    let hash = desk.identity.directory().user(&user).expect("it is there").password.clone();
    let parts: Vec<&str> = hash.expose().split('$').collect();
    let ["", algorithm, version, costs, salt, tag] = parts[..] else {
        panic!("a hash has five parts")
    };
    assert_eq!((algorithm, version, costs), ("argon2id", "v=19", "m=65536,t=3,p=1"));
    assert_eq!((salt.len(), tag.len()), (22, 43), "16 and 32 bytes");
    assert!(desk.log_in("mira", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_session_ends_with_its_time_used_or_not_refreshed_or_not() {
    let desk = Desk::open_with(|config| {
        config.session_ttl = Duration::from_millis(1_000);
        config.session_idle = Duration::from_millis(400);
    })
    .await;
    let login = desk.root().await.expect("it is the secret").login;
    for _ in 0..3 {
        desk.pass(300);
        let standing = desk.authority.standing(&login, desk.now(), true);
        assert!(matches!(standing, Standing::Holds(_)));
    }
    let issued = desk.identity.rotate(&login, from(HOME)).await.expect("it holds");
    assert_eq!(issued.expires_at, 1_001_000);
    assert_eq!(desk.authority.deadline(&issued.login), Some(1_001_001));
    desk.pass(100);
    assert!(desk.holds(&issued.login), "the last millisecond counts");
    desk.pass(1);
    assert!(matches!(desk.standing(&issued.login), Standing::Expired));
    assert_eq!(text(desk.by_token(&issued.token).await), "Invalid token");
    assert_eq!(
        text(desk.identity.rotate(&issued.login, from(HOME)).await),
        "Invalid or expired session"
    );
}

#[tokio::test]
async fn a_session_ends_when_no_connection_uses_it() {
    let desk = Desk::open_with(|config| config.session_idle = Duration::from_millis(400)).await;
    let issued = desk.root().await.expect("it is the secret");
    let other = desk.by_token(&issued.token).await.expect("it holds");
    desk.pass(400);
    let _ = desk.authority.standing(&other, desk.now(), true);
    desk.pass(400);
    assert!(desk.holds(&issued.login), "the other connection has used it");
    assert_eq!(desk.authority.deadline(&issued.login), Some(desk.now() + 1));
    let desk = desk.restarted().await;
    desk.pass(400);
    assert!(desk.holds(&issued.login), "counted from the restart");
    desk.pass(1);
    assert!(matches!(desk.standing(&issued.login), Standing::Expired));
}

#[tokio::test]
async fn one_session_too_many_ends_the_oldest_and_those_that_are_over_make_room_first() {
    let desk = Desk::open_with(|config| {
        config.max_sessions_per_user = 2;
        config.session_idle = Duration::from_millis(400);
    })
    .await;
    let first = desk.root().await.expect("it is the secret");
    desk.pass(300);
    let second = desk.root().await.expect("it is the secret");
    let third = desk.root().await.expect("it is the secret");
    assert!(matches!(desk.standing(&first.login), Standing::Ended));
    assert!(desk.holds(&second.login) && desk.holds(&third.login));
    desk.pass(300);
    let _ = desk.authority.standing(&third.login, desk.now(), true);
    desk.pass(200);
    assert!(desk.root().await.is_ok());
    assert!(desk.holds(&third.login), "the second one was over");
    assert_eq!(desk.store.bucket("_sessions").all().expect("it is defined").len(), 2);
}

#[tokio::test]
async fn sessions_that_are_over_are_removed_some_time_later() {
    let desk = Desk::open_with(|config| config.session_ttl = Duration::from_millis(500)).await;
    let login = desk.root().await.expect("it is the secret").login;
    desk.pass(60_500);
    desk.by("", Change::PurgeSessions).await.expect("nobody asks who");
    assert!(
        desk.identity
            .directory()
            .session(login.session.as_deref().expect("it is stored"))
            .is_some()
    );
    desk.pass(1);
    desk.by("", Change::PurgeSessions).await.expect("nobody asks who");
    assert_eq!(desk.identity.directory().sessions().count(), 0);
    assert!(desk.store.bucket("_sessions").all().expect("it is defined").is_empty());
    assert!(matches!(desk.standing(&login), Standing::Expired));
}

#[tokio::test]
async fn another_token_takes_the_place_of_the_former_one_everywhere() {
    let desk = Desk::open().await;
    let issued = desk.root().await.expect("it is the secret");
    let other = desk.by_token(&issued.token).await.expect("it holds");
    let again = desk.identity.rotate(&issued.login, from(HOME)).await.expect("it holds");
    assert!(desk.holds(&again.login));
    assert!(matches!(desk.standing(&other), Standing::Ended));
    assert_eq!(text(desk.by_token(&issued.token).await), "Invalid token");
    assert!(desk.by_token(&again.token).await.is_ok());
    assert_eq!(
        code(desk.identity.rotate(&other, from(HOME)).await),
        ErrorCode::Unauthorized,
        "a former token gets no other one"
    );
}

#[tokio::test]
async fn a_former_token_is_worth_nothing_also_where_nobody_waits_for_the_new_one() {
    let desk = Desk::open().await;
    let issued = desk.root().await.expect("it is the secret");
    let waiting = desk.identity.rotate(&issued.login, from(HOME));
    // Begun, and given up before it is done.
    assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
    // Whatever follows is carried out after it.
    desk.by("", Change::PurgeSessions).await.expect("nobody asks who");
    assert!(matches!(desk.standing(&issued.login), Standing::Ended));
}

#[tokio::test]
async fn a_changed_password_ends_all_sessions_but_one_which_gets_another_token() {
    let desk = Desk::open().await;
    desk.user("mira", &[]).await;
    let thief = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let own = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let changed = desk
        .identity
        .change_password(&own.login, PASSWORD.into(), "nine herons over the lock".into(), from(HOME))
        .await
        .expect("it is the password");
    assert!(desk.holds(&changed.login));
    for dead in [&thief, &own] {
        assert!(matches!(desk.standing(&dead.login), Standing::Ended));
        assert_eq!(text(desk.by_token(&dead.token).await), "Invalid token");
    }
    assert_eq!(text(desk.log_in("mira", PASSWORD).await), "Invalid credentials");
    assert!(desk.log_in("mira", "nine herons over the lock").await.is_ok());
}

#[tokio::test]
async fn a_password_is_not_changed_for_a_session_that_somebody_else_has_taken_over_meanwhile() {
    let desk = Desk::open().await;
    let mira = desk.user("mira", &[]).await;
    let own = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let thief = desk.by_token(&own.token).await.expect("it was stolen");
    let proven = desk.identity.directory().user(&mira).expect("it is there").password.clone();
    let change = |session: &Login| {
        Change::ReplacePassword(super::order::NewPassword {
            proven: proven.clone(),
            hash: "$".into(),
            session: session.session.clone().expect("it is stored"),
            old: session.token,
            new: crate::server::access::TokenDigest::of("new"),
        })
    };
    // While the password is looked at, the thief has another token given to them.
    let taken = desk.identity.rotate(&thief, from(HOME)).await.expect("it holds");
    assert_eq!(text(desk.by(&mira, change(&own.login)).await), "Invalid or expired session");
    assert_eq!(desk.identity.directory().user(&mira).expect("it is there").password, proven);
    // Whoever knows the password logs in again, and then it ends all others.
    let again = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    desk.by(&mira, change(&again.login)).await.expect("it holds");
    assert!(!desk.holds(&taken.login));
    assert_eq!(text(desk.by_token(&taken.token).await), "Invalid token");
}

#[tokio::test]
async fn a_refusal_to_one_does_not_end_the_session_of_another_who_is_being_given_a_token() {
    let desk = Desk::open().await;
    let issued = desk.root().await.expect("it is the secret");
    let other = desk.by_token(&issued.token).await.expect("it holds");
    let mut first = Box::pin(desk.identity.rotate(&issued.login, from(HOME)));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(desk.identity.rotate(&other, from(HOME)).await.is_err());
    assert!(desk.holds(&issued.login), "the first one was not told yet");
    assert!(first.await.is_ok());
    assert!(!desk.holds(&issued.login));
}

#[tokio::test]
async fn logins_side_by_side_all_succeed_while_the_hash_is_upgraded() {
    let desk = Desk::open().await;
    let legacy = "$scrypt$16384$8$1$AAECAwQFBgcICQoLDA0ODw==$JbN2hANm9NOw4h5BRHZnbjzQ6Jr0QwNWojTOC2WgIbViM+ewsk8HvJNAGV8ZyQodp1YlFO0HYqba48J/9bB9Yg==";
    desk.user_with_hash("mira", legacy.into(), &[]).await;
    let outcomes = futures_util::future::join_all((0..3).map(|_| desk.log_in("mira", "correct horse"))).await;
    for outcome in outcomes {
        assert!(outcome.is_ok(), "{}", text(outcome));
    }
}

#[tokio::test]
async fn a_password_that_was_reset_while_it_was_checked_opens_nothing() {
    let desk = Desk::open().await;
    let mira = desk.user("mira", &[]).await;
    let proven = desk.identity.directory().user(&mira).expect("it is there").password.clone();
    desk.by_root(Change::ResetPassword {
        user: Arc::clone(&mira),
        hash: "$".into(),
    })
    .await;
    let session = super::order::NewSession {
        id: "s".into(),
        token: crate::server::access::TokenDigest::of("t"),
        address: String::new(),
    };
    let proof = super::order::Proof {
        hash: proven,
        rehashed: None,
    };
    let outcome = desk.by(&mira, Change::OpenSession { session, proof }).await;
    assert_eq!(text(outcome), "Invalid credentials");
}

#[tokio::test]
async fn disabled_deleted_and_reset_users_have_no_session_any_more() {
    let desk = Desk::open().await;
    for name in ["disabled", "deleted", "reset"] {
        let user = desk.user(name, &["writer"]).await;
        let issued = desk.log_in(name, PASSWORD).await.expect("it is the password");
        let user_of = || Arc::clone(&user);
        desk.by_root(match name {
            "disabled" => enable(&user, false),
            "deleted" => Change::DeleteUser { user: user_of() },
            _ => Change::ResetPassword {
                user: user_of(),
                hash: "$".into(),
            },
        })
        .await;
        assert!(matches!(desk.standing(&issued.login), Standing::Ended), "{name}");
        assert_eq!(text(desk.by_token(&issued.token).await), "Invalid token", "{name}");
        if name != "reset" {
            let directory = desk.identity.directory();
            assert!(
                Caller::of(&directory, &user).is_err(),
                "{name} can do nothing on a connection that is open"
            );
        }
    }
}

#[tokio::test]
async fn an_administrator_rises_to_nothing_and_touches_no_account_above() {
    let desk = Desk::open().await;
    let abel = desk.locked_user("abel", &["admin"]).await;
    let anna = desk.locked_user("anna", &["admin"]).await;
    let suse = desk.locked_user("suse", &["superadmin"]).await;
    let otto = desk.locked_user("otto", &[]).await;
    desk.role("root-like", json!([{ "allow": "*" }])).await;
    desk.role("role-maker", json!([{ "allow": ["identity.createRole"] }])).await;
    let reset = |user: &Arc<str>| Change::ResetPassword {
        user: Arc::clone(user),
        hash: "$".into(),
    };
    for forbidden in [
        assign(&abel, "superadmin"),
        assign(&otto, "superadmin"),
        assign(&otto, "admin"),
        assign(&otto, "root-like"),
        assign(&otto, "role-maker"),
        assign(&suse, "reader"),
        unassign(&suse, "superadmin"),
        unassign(&anna, "admin"),
        reset(&suse),
        reset(&anna),
        enable(&suse, false),
        enable(&anna, false),
        Change::DeleteUser { user: Arc::clone(&suse) },
        Change::UpdateUser {
            user: Arc::clone(&suse),
            profile: nothing(),
        },
    ] {
        let shown = format!("{forbidden:?}");
        assert_eq!(code(desk.by(&abel, forbidden).await), ErrorCode::Forbidden, "{shown}");
    }
    for allowed in [
        assign(&otto, "writer"),
        reset(&otto),
        enable(&otto, false),
        enable(&otto, true),
        unassign(&otto, "writer"),
    ] {
        desk.by(&abel, allowed).await.expect("an administrator may");
    }
}

#[tokio::test]
async fn helpers_with_a_part_of_the_rights_give_no_others_and_take_over_nobody() {
    let desk = Desk::open().await;
    let helps =
        json!([{ "allow": ["identity.assignRole", "identity.resetPassword", "identity.updateUser", "identity.grant", "store.get"] }]);
    desk.role("helper", helps).await;
    desk.role("looker", json!([{ "allow": ["store.get"], "buckets": ["orders"] }]))
        .await;
    let hans = desk.locked_user("hans", &["helper"]).await;
    let otto = desk.locked_user("otto", &[]).await;
    let walt = desk.locked_user("walt", &["writer"]).await;
    let rich = desk.locked_user("rich", &[]).await;
    desk.by_root(grant(&rich, bucket("vault"), Tier::Read)).await;
    desk.by(&hans, assign(&otto, "looker")).await.expect("less than the own rights");
    let reset = |user: &Arc<str>| Change::ResetPassword {
        user: Arc::clone(user),
        hash: "$".into(),
    };
    let metadata = Profile {
        metadata: Setting::Set(json!({ "team": "payroll" }).as_object().cloned().unwrap_or_default()),
        ..nothing()
    };
    let describe = |user: &Arc<str>| Change::UpdateUser {
        user: Arc::clone(user),
        profile: metadata.clone(),
    };
    for forbidden in [
        assign(&otto, "reader"),
        assign(&otto, "writer"),
        assign(&hans, "admin"),
        reset(&walt),
        reset(&rich),
        describe(&otto),
        describe(&hans),
        grant(&hans, bucket("orders"), Tier::Read),
        enable(&otto, false),
    ] {
        let shown = format!("{forbidden:?}");
        assert_eq!(code(desk.by(&hans, forbidden).await), ErrorCode::Forbidden, "{shown}");
    }
    desk.by(&hans, reset(&otto)).await.expect("they have no other rights");
}

/// What somebody sees of a bucket: the filter of their rule for rows.
fn rows(desk: &Desk, user: &str) -> Value {
    let directory = desk.identity.directory();
    match UserRights::of(&directory, user).scope(&directory, Operation::StoreGet.into(), &Target::Bucket("b")) {
        Some(Scope::Guarded(guard)) => serde_json::from_slice::<Value>(guard.key()).expect("it is JSON")[0].clone(),
        Some(Scope::Everything) => json!("everything"),
        None => Value::Null,
    }
}

#[tokio::test]
async fn a_role_that_allows_nothing_shows_no_other_rows_to_whom_a_helper_gives_it() {
    for (operator, widens_by_removal) in [("$in", false), ("$nin", true)] {
        let desk = Desk::open().await;
        let helps = json!([{ "allow": ["identity.assignRole", "identity.removeRole", "identity.createUser"] }]);
        desk.role("helper", helps).await;
        let by_role =
            json!([{ "allow": ["store.get", "store.all"], "buckets": ["b"], "where": { "team": { operator: "{{ session.roles }}" } } }]);
        desk.role("byrole", by_role).await;
        desk.role("sales", json!([])).await;
        let hans = desk.locked_user("hans", &["helper", "byrole"]).await;
        let puppet = desk.locked_user("puppet", &[]).await;
        if widens_by_removal {
            desk.by_root(assign(&hans, "sales")).await;
            desk.by_root(assign(&puppet, "sales")).await;
        }
        let own = rows(&desk, &hans);
        let raise = if widens_by_removal { unassign } else { assign };
        assert_eq!(
            code(desk.by(&hans, raise(&hans, "sales")).await),
            ErrorCode::Forbidden,
            "{operator}"
        );
        if widens_by_removal {
            desk.by(&hans, unassign(&puppet, "sales")).await.expect("it shows nothing to them");
        } else {
            desk.by(&hans, assign(&puppet, "sales")).await.expect("it shows nothing to them");
        }
        assert_eq!(
            code(desk.by(&hans, assign(&puppet, "byrole")).await),
            ErrorCode::Forbidden,
            "{operator}"
        );
        assert_eq!((rows(&desk, &hans), rows(&desk, &puppet)), (own, Value::Null), "{operator}");
        // Whoever is not bound by the rule gives what it shows.
        let anna = desk.locked_user("anna", &["admin"]).await;
        for change in [assign(&puppet, "byrole"), unassign(&puppet, "byrole")] {
            desk.by(&anna, change).await.expect("an administrator sees all rows");
        }
    }
}

#[tokio::test]
async fn a_rule_about_ones_own_rows_is_given_only_by_who_sees_those_of_others() {
    let desk = Desk::open().await;
    desk.role("helper", json!([{ "allow": ["identity.assignRole", "identity.resetPassword"] }]))
        .await;
    let own = json!([{ "allow": ["store.get"], "buckets": ["b"], "where": { "owner": "{{ session.userId }}" } }]);
    desk.role("clerk", own).await;
    let hans = desk.locked_user("hans", &["helper", "clerk"]).await;
    let otto = desk.locked_user("otto", &[]).await;
    let reset = Change::ResetPassword {
        user: Arc::clone(&otto),
        hash: "$".into(),
    };
    desk.by(&hans, reset).await.expect("they have no rights");
    assert_eq!(code(desk.by(&hans, assign(&otto, "clerk")).await), ErrorCode::Forbidden);
    let anna = desk.locked_user("anna", &["admin"]).await;
    desk.by(&anna, assign(&otto, "clerk")).await.expect("they see all rows");
}

#[tokio::test]
async fn an_administrator_who_is_bound_to_rows_shows_nobody_others_by_way_of_metadata() {
    let desk = Desk::open().await;
    let admin = desk.identity.directory().role_named("admin").map(|role| Arc::clone(&role.id));
    let rows_of_team = json!({ "allow": ["store.get"], "buckets": ["b"], "where": { "team": "{{ session.metadata.team }}" } });
    desk.role("clerk", json!([rows_of_team])).await;
    desk.by_root(Change::UpdateRole {
        role: admin.expect("it is there"),
        description: Setting::Keep,
        permissions: Some(vec![rows_of_team, json!({ "allow": "identity.*" })]),
    })
    .await;
    let of_team = |user: &Arc<str>, team: &str| Change::UpdateUser {
        user: Arc::clone(user),
        profile: Profile {
            metadata: Setting::Set(json!({ "team": team }).as_object().cloned().unwrap_or_default()),
            ..nothing()
        },
    };
    let anna = desk.locked_user("anna", &["admin"]).await;
    let puppet = desk.locked_user("puppet", &[]).await;
    desk.by_root(of_team(&anna, "desk")).await;
    assert_eq!(code(desk.by(&anna, of_team(&anna, "payroll")).await), ErrorCode::Forbidden);
    desk.by(&anna, of_team(&puppet, "payroll")).await.expect("it shows nothing to them");
    assert_eq!(code(desk.by(&anna, assign(&puppet, "clerk")).await), ErrorCode::Forbidden);
    desk.by(&anna, of_team(&puppet, "desk")).await.expect("it shows nothing to them");
    desk.by(&anna, assign(&puppet, "clerk")).await.expect("the same rows");
    assert_eq!(code(desk.by(&anna, of_team(&puppet, "payroll")).await), ErrorCode::Forbidden);
    assert_eq!(rows(&desk, &puppet), json!({ "team": "desk" }));
}

#[tokio::test]
async fn a_grant_that_means_more_alone_is_not_had_by_who_holds_its_words_among_others() {
    let desk = Desk::open().await;
    let helps = json!({ "allow": ["identity.assignRole", "identity.resetPassword"] });
    for (name, held, more) in [
        (
            "writers",
            json!({ "allow": ["store.transaction", "store.get"], "buckets": ["a"] }),
            json!({ "allow": ["store.transaction"], "buckets": ["a"] }),
        ),
        (
            "managers",
            json!({ "allow": "*", "buckets": ["a"] }),
            json!({ "allow": ["identity.*"], "buckets": ["a"] }),
        ),
        (
            "listers",
            json!({ "allow": "*", "topics": ["t"] }),
            json!({ "allow": ["identity.listUsers"], "topics": ["t"] }),
        ),
    ] {
        let helper = format!("helper of {name}");
        desk.role(&helper, json!([helps, held])).await;
        desk.role(name, json!([more])).await;
        let hans = desk.locked_user(&format!("hans of {name}"), &[&helper]).await;
        let mona = desk.locked_user(&format!("mona of {name}"), &[name]).await;
        let forbidden = desk.by(&hans, assign(&hans, name)).await;
        assert_eq!(code(forbidden), ErrorCode::Forbidden, "{name}");
        let reset = Change::ResetPassword {
            user: mona,
            hash: "$".into(),
        };
        assert_eq!(code(desk.by(&hans, reset).await), ErrorCode::Forbidden, "{name}");
    }
    // Who may do each step may do them together.
    let steps = json!({ "allow": ["store.transaction", "store.get", "store.insert", "store.update", "store.delete", "store.where", "store.findOne", "store.count"] });
    desk.role("all steps", json!([helps, steps])).await;
    desk.role("transactions", json!([{ "allow": "store.transaction", "buckets": ["a"] }]))
        .await;
    let hans = desk.locked_user("hans", &["all steps"]).await;
    desk.by(&hans, assign(&hans, "transactions"))
        .await
        .expect("nothing is gained by it");
}

#[tokio::test]
async fn a_role_for_everything_in_some_buckets_deals_with_no_users() {
    let desk = Desk::open().await;
    desk.role("bounded", json!([{ "allow": ["*"], "buckets": ["orders"] }])).await;
    desk.role("topical", json!([{ "allow": ["*"], "topics": ["orders.*"] }])).await;
    desk.role("said", json!([{ "allow": ["*", "identity.listUsers"], "buckets": ["orders"] }]))
        .await;
    for (role, may_list) in [("bounded", false), ("topical", false), ("said", true)] {
        let user = desk.locked_user(role, &[role]).await;
        let directory = desk.identity.directory();
        let rights = UserRights::of(&directory, &user);
        assert!(desk.may(&user, Operation::StoreDropBucket, "orders"), "{role}");
        assert!(!rights.may(&directory, Operation::IdentityCreateUser), "{role}");
        assert_eq!(rights.may(&directory, Operation::IdentityListUsers), may_list, "{role}");
    }
}

#[tokio::test]
async fn the_last_superadmin_stays() {
    let desk = Desk::open().await;
    let suse = desk.locked_user("suse", &["superadmin"]).await;
    let tess = desk.locked_user("tess", &["superadmin"]).await;
    desk.by_root(enable(&tess, false)).await;
    for last in [
        enable(&suse, false),
        unassign(&suse, "superadmin"),
        Change::DeleteUser { user: Arc::clone(&suse) },
    ] {
        assert_eq!(code(desk.by(VIRTUAL_SUPERADMIN, last).await), ErrorCode::Conflict);
    }
    desk.by_root(unassign(&tess, "superadmin")).await;
    desk.by_root(assign(&tess, "superadmin")).await;
    desk.by_root(enable(&tess, true)).await;
    desk.by_root(unassign(&suse, "superadmin")).await;
}

#[tokio::test]
async fn an_owner_and_a_delegate_say_who_may_what_on_theirs_and_on_nothing_else() {
    let desk = Desk::open().await;
    desk.role("definer", json!([{ "allow": "store.defineBucket" }])).await;
    let [olga, dora, nora] = [
        desk.locked_user("olga", &["definer"]).await,
        desk.locked_user("dora", &[]).await,
        desk.locked_user("nora", &[]).await,
    ];
    desk.by(&olga, define("ledger")).await.expect("it is new");
    assert!(desk.may(&olga, Operation::StoreDropBucket, "ledger"));
    assert!(!desk.may(&olga, Operation::StoreGet, "orders"));
    desk.by(&olga, grant(&dora, bucket("ledger"), Tier::Admin))
        .await
        .expect("it is theirs");
    desk.by(&dora, grant(&nora, bucket("ledger"), Tier::Write))
        .await
        .expect("they hold it");
    assert!(desk.may(&nora, Operation::StoreGet, "ledger"), "whoever may write may read");
    assert!(!desk.may(&nora, Operation::StoreDropBucket, "ledger"));
    assert_eq!(
        code(desk.by(&nora, grant(&nora, bucket("ledger"), Tier::Admin)).await),
        ErrorCode::Forbidden
    );
    assert_eq!(
        code(desk.by(&dora, grant(&dora, bucket("orders"), Tier::Read)).await),
        ErrorCode::Forbidden
    );
    desk.by(&olga, remove("ledger")).await.expect("it is there");
    for user in [&olga, &dora, &nora] {
        assert!(!desk.may(user, Operation::StoreGet, "ledger"));
    }
    assert!(desk.store.bucket("_acl").all().expect("it is defined").is_empty());
    assert!(desk.store.bucket("_resource_owners").all().expect("it is defined").is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_not_dropped_keeps_its_owner() {
    let desk = Desk::open().await;
    let olga = desk.locked_user("olga", &[]).await;
    desk.by_root(grant(&olga, bucket("none"), Tier::Admin)).await;
    assert_eq!(code(desk.by(&olga, remove("none")).await), ErrorCode::BucketNotDefined);
    assert!(desk.may(&olga, Operation::StoreGet, "none"));
}

#[tokio::test]
async fn a_bucket_that_is_somebody_elses_by_now_is_not_removed_by_its_former_owner() {
    let desk = Desk::open().await;
    desk.role("definer", json!([{ "allow": ["store.defineBucket"] }])).await;
    let olga = desk.locked_user("olga", &["definer"]).await;
    let nora = desk.locked_user("nora", &["definer"]).await;
    desk.by(&olga, define("ledger")).await.expect("it is new");
    // Twice let in, as long as it was theirs.
    desk.by(&olga, remove("ledger")).await.expect("it is theirs");
    desk.by(&nora, define("ledger")).await.expect("it is new");
    let late = desk.by(&olga, remove("ledger")).await;
    assert_eq!(text(late), "No access to store.dropBucket on ledger");
    assert!(desk.store.bucket("ledger").all().is_ok());
    desk.by_root(unassign(&nora, "definer")).await;
    assert_eq!(code(desk.by(&nora, define("other")).await), ErrorCode::Forbidden);
    desk.by_root(Change::DeleteUser { user: Arc::clone(&nora) }).await;
    assert_eq!(code(desk.by(&nora, remove("ledger")).await), ErrorCode::Unauthorized);
    assert!(desk.store.bucket("ledger").all().is_ok());
}

#[tokio::test]
async fn a_query_that_is_removed_is_judged_by_the_bucket_behind_it() {
    let desk = Desk::open().await;
    let olga = desk.locked_user("olga", &[]).await;
    desk.by_root(define("ledger")).await;
    desk.by_root(grant(&olga, bucket("ledger"), Tier::Admin)).await;
    let resource = Resource::new(ResourceKind::Query, "lines");
    let define_lines = define_query("lines", "ledger");
    let remove_lines = Change::Remove {
        operation: crate::store::Operation::UndefineQuery { name: "lines".into() },
        resource,
    };
    desk.by(&olga, define_lines.clone()).await.expect("they may");
    let abel = desk.locked_user("abel", &["admin"]).await;
    desk.by(&abel, enable(&olga, false))
        .await
        .expect("a query is nothing that they lack");
    desk.by(&abel, enable(&olga, true))
        .await
        .expect("a query is nothing that they lack");
    desk.by(&olga, remove_lines.clone()).await.expect("they may");
    desk.by_root(define_lines).await;
    let walt = desk.locked_user("walt", &["writer"]).await;
    assert_eq!(code(desk.by(&walt, remove_lines).await), ErrorCode::Forbidden);
}

#[tokio::test]
async fn whoever_defines_a_bucket_inherits_no_rights_of_others_on_a_former_one() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &[]).await;
    let abel = desk.locked_user("abel", &["admin"]).await;
    desk.by_root(define("ledger")).await;
    desk.by_root(grant(&nora, bucket("ledger"), Tier::Admin)).await;
    // As if the rights could not be removed with it.
    desk.store.drop_bucket("ledger").await.expect("it is there");
    desk.by(&abel, define("ledger")).await.expect("it is new");
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
    let desk = desk.restarted().await;
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
}

#[tokio::test]
async fn what_could_not_be_defined_belongs_to_nobody_and_what_was_granted_beforehand_stays() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &["admin"]).await;
    let lines = Resource::new(ResourceKind::Query, "lines");
    desk.by_root(grant(&nora, lines.clone(), Tier::Read)).await;
    let refused = desk.by(&nora, define_query("lines", "no-such")).await;
    assert_eq!(code(refused), ErrorCode::BucketNotDefined);
    let directory = desk.identity.directory();
    assert!(directory.owner(lines.kind, &lines.name).is_none());
    assert_eq!(directory.acl_on(&lines).len(), 1);
}

#[tokio::test]
async fn whoever_defines_what_is_there_already_does_not_become_its_owner() {
    let desk = Desk::open().await;
    let [nora, olga] = [
        desk.locked_user("nora", &["admin"]).await,
        desk.locked_user("olga", &["admin"]).await,
    ];
    desk.by(&nora, define("ledger")).await.expect("it is new");
    assert_eq!(code(desk.by(&olga, define("ledger")).await), ErrorCode::AlreadyExists);
    let directory = desk.identity.directory();
    let owner = directory.owner(ResourceKind::Bucket, "ledger").expect("it has one");
    assert_eq!(owner.user, nora);
}

#[tokio::test]
async fn whoever_was_about_to_define_a_bucket_when_the_server_was_killed_does_not_own_the_next_of_its_name() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &[]).await;
    let owner = json!({ "id": "bucket:ledger", "userId": nora, "resourceType": "bucket", "resourceName": "ledger" });
    desk.store
        .bucket(Table::Owners.name())
        .insert(&owner)
        .await
        .expect("the schema allows it");
    let desk = desk.restarted().await;
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is new");
    let desk = desk.restarted().await;
    assert!(desk.identity.directory().owner(ResourceKind::Bucket, "ledger").is_none());
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
}

#[tokio::test]
async fn rights_on_a_bucket_do_not_hold_for_another_one_that_got_its_name_while_nobody_looked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = async || Store::builder().on_disk(folder.path()).open().await.expect("it opens");
    let mut desk = Desk::open_on(open().await, |_| {}).await;
    desk.role("definer", json!([{ "allow": "store.*" }])).await;
    let olga = desk.locked_user("olga", &["definer"]).await;
    let nora = desk.locked_user("nora", &[]).await;
    for name in ["kept", "replaced"] {
        desk.by(&olga, define(name)).await.expect("it is new");
        desk.by(&olga, grant(&nora, bucket(name), Tier::Read)).await.expect("it is theirs");
    }
    desk.by(&olga, define_query("lines", "kept")).await.expect("it is new");
    desk.by_root(grant(&nora, bucket("planned"), Tier::Read)).await;
    desk.by_root(unassign(&olga, "definer")).await;
    let owns = |desk: &Desk, kind, name: &str| desk.identity.directory().owner(kind, name).is_some();
    let check = |desk: &Desk, replaced: bool, planned: bool| {
        for (name, expected) in [("kept", true), ("replaced", replaced)] {
            assert_eq!(desk.may(&nora, Operation::StoreGet, name), expected, "{name}");
            assert_eq!(desk.may(&olga, Operation::StoreDropBucket, name), expected, "{name}");
        }
        assert_eq!(desk.may(&nora, Operation::StoreGet, "planned"), planned);
        assert_eq!(owns(desk, ResourceKind::Query, "lines"), replaced);
    };
    // Neither a restart nor what is done with a bucket makes another one of it.
    desk.store.bucket("kept").insert(&json!({ "id": "1" })).await.expect("it is new");
    desk.store.bucket("kept").clear().await.expect("it is there");
    let added = json!({ "addFields": { "more": { "type": "string" } } })
        .as_object()
        .cloned()
        .unwrap_or_default();
    desk.store.update_bucket("kept", added).await.expect("it is there");
    desk = desk.reopened(&open).await;
    check(&desk, true, true);
    // The program works on its store without the server.
    let definition = desk
        .store
        .snapshot()
        .bucket("replaced")
        .expect("it is there")
        .definition()
        .as_ref()
        .clone();
    let lines = crate::store::query::QueryDefinition::parse(json!({ "bucket": "kept" }).as_object().expect("an object"));
    desk.store.drop_bucket("replaced").await.expect("it is there");
    desk.store.define_bucket("replaced", definition).await.expect("it is gone");
    desk.store.undefine_query("lines").await.expect("it is there");
    desk.store
        .define_query("lines", lines.expect("it is well formed"))
        .await
        .expect("it is gone");
    desk.store.define_bucket("planned", plain_bucket()).await.expect("it is new");
    desk = desk.reopened(&open).await;
    check(&desk, false, true);
    desk.store.drop_bucket("planned").await.expect("it is there");
    desk.store.define_bucket("planned", plain_bucket()).await.expect("it is gone");
    desk = desk.reopened(&open).await;
    check(&desk, false, false);
}

#[tokio::test]
async fn whoever_was_about_to_define_a_bucket_does_not_own_one_that_the_configuration_defines_after_the_kill() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &[]).await;
    let owner = json!({ "id": "1", "userId": nora, "resourceType": "bucket", "resourceName": "ledger", "incarnation": 1_u64 << 63 });
    desk.store
        .bucket(Table::Owners.name())
        .insert(&owner)
        .await
        .expect("the schema allows it");
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is new");
    let desk = desk.restarted().await;
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
    assert!(desk.store.bucket(Table::Owners.name()).all().expect("it is defined").is_empty());
}

#[tokio::test]
async fn rights_from_before_incarnations_were_kept_are_about_what_is_there_at_the_start() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &[]).await;
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is new");
    for name in ["ledger", "gone"] {
        let owner = json!({ "id": name, "userId": nora, "resourceType": "bucket", "resourceName": name });
        let entry = json!({ "id": name, "subjectType": "user", "subjectId": nora, "resourceType": "bucket", "resourceName": name, "operations": ["read"], "bound": true });
        for (table, record) in [(Table::Owners, owner), (Table::Acl, entry)] {
            desk.store.bucket(table.name()).insert(&record).await.expect("the schema allows it");
        }
    }
    let desk = desk.restarted().await;
    assert!(desk.may(&nora, Operation::StoreDropBucket, "ledger"));
    let directory = desk.identity.directory();
    assert_eq!(
        (directory.owners().count(), directory.acl().count()),
        (1, 1),
        "those on what is gone are removed"
    );
    desk.store.drop_bucket("ledger").await.expect("it is there");
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is gone");
    let desk = desk.restarted().await;
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
}

#[tokio::test]
async fn rows_of_others_are_not_to_be_had_by_way_of_their_account() {
    let desk = Desk::open().await;
    let rows = json!([{ "allow": ["store.get"], "where": { "team": "{{ session.metadata.team }}" } }]);
    desk.role("clerk", rows).await;
    desk.role("helper", json!([{ "allow": ["identity.resetPassword"] }])).await;
    let [hans, mira, mona] = [
        desk.locked_user("hans", &["helper", "clerk"]).await,
        desk.locked_user("mira", &["clerk"]).await,
        desk.locked_user("mona", &["clerk"]).await,
    ];
    for (user, team) in [(&hans, "a"), (&mira, "b"), (&mona, "a")] {
        desk.by_root(Change::UpdateUser {
            user: Arc::clone(user),
            profile: Profile {
                metadata: Setting::Set(json!({ "team": team }).as_object().cloned().unwrap_or_default()),
                ..nothing()
            },
        })
        .await;
    }
    let reset = |user: &Arc<str>| Change::ResetPassword {
        user: Arc::clone(user),
        hash: "$".into(),
    };
    assert_eq!(code(desk.by(&hans, reset(&mira)).await), ErrorCode::Forbidden);
    desk.by(&hans, reset(&mona)).await.expect("they see the same rows");
}

#[tokio::test]
async fn what_was_stored_under_other_keys_can_be_taken_away() {
    let desk = Desk::open().await;
    let mira = desk.locked_user("mira", &[]).await;
    let admin = desk.identity.directory().role_named("admin").map(|role| Arc::clone(&role.id));
    let put = async |table: &str, record: Value| {
        desk.store.bucket(table).insert(&record).await.expect("the schema allows it");
    };
    for id in ["1", "2"] {
        put("_user_roles", json!({ "id": id, "userId": mira, "roleId": admin })).await;
        put(
            "_acl",
            json!({ "id": id, "subjectType": "user", "subjectId": mira, "resourceType": "bucket", "resourceName": "b", "operations": ["read"] }),
        )
        .await;
    }
    put(
        "_resource_owners",
        json!({ "id": "1", "userId": mira, "resourceType": "topic", "resourceName": "t" }),
    )
    .await;
    let desk = desk.restarted().await;
    assert!(desk.may(&mira, Operation::StoreDropBucket, "b"));
    desk.by_root(unassign(&mira, "admin")).await;
    assert!(!desk.may(&mira, Operation::StoreDropBucket, "b"));
    assert!(desk.may(&mira, Operation::StoreGet, "b"));
    let revoke = Change::Revoke {
        entry: AclAddress {
            subject: Subject::User(Arc::clone(&mira)),
            resource: bucket("b"),
        },
        rights: None,
    };
    desk.by_root(revoke).await;
    let desk = desk.restarted().await;
    assert!(!desk.may(&mira, Operation::StoreGet, "b"), "neither now nor later");
    desk.by_root(Change::DeleteUser { user: Arc::clone(&mira) }).await;
    for table in ["_user_roles", "_acl", "_resource_owners"] {
        assert!(desk.store.bucket(table).all().expect("it is defined").is_empty(), "{table}");
    }
}

#[tokio::test]
async fn rights_on_what_a_crash_has_left_behind_do_not_come_to_life_again() {
    let desk = Desk::open().await;
    let nora = desk.locked_user("nora", &[]).await;
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is new");
    desk.by_root(grant(&nora, bucket("ledger"), Tier::Read)).await;
    desk.by_root(grant(&nora, bucket("planned"), Tier::Read)).await;
    // As if the process had been killed before the rights were removed.
    desk.store.drop_bucket("ledger").await.expect("it is there");
    let desk = desk.restarted().await;
    desk.store.define_bucket("ledger", plain_bucket()).await.expect("it is new");
    assert!(!desk.may(&nora, Operation::StoreGet, "ledger"));
    assert!(desk.may(&nora, Operation::StoreGet, "planned"), "it never was there");
    desk.store.define_bucket("planned", plain_bucket()).await.expect("it is new");
    let desk = desk.restarted().await;
    desk.store.drop_bucket("planned").await.expect("it is there");
    let desk = desk.restarted().await;
    assert!(!desk.may(&nora, Operation::StoreGet, "planned"));
}

#[tokio::test]
async fn what_makes_no_sense_in_the_store_grants_nothing_and_harms_nobody() {
    let desk = Desk::open().await;
    let mira = desk.locked_user("mira", &["reader"]).await;
    let put = async |table: &str, record: Value| {
        desk.store.bucket(table).insert(&record).await.expect("the schema allows it");
    };
    put(
        "_roles",
        json!({ "id": "bad", "name": "bad", "system": false, "permissions": [{ "allow": 5 }, null, { "allow": "store.clear" }] }),
    )
    .await;
    put("_user_roles", json!({ "id": "1", "userId": mira, "roleId": "bad" })).await;
    put("_user_roles", json!({ "id": "2", "userId": "ghost", "roleId": "gone" })).await;
    let acl = |id: &str, kind: &str, operation: &str| json!({ "id": id, "subjectType": kind, "subjectId": mira, "resourceType": "bucket", "resourceName": "b", "operations": [operation] });
    put("_acl", acl("1", "user", "everything")).await;
    put("_acl", acl("2", "group", "admin")).await;
    put(
        "_resource_owners",
        json!({ "id": "1", "userId": mira, "resourceType": "planet", "resourceName": "b" }),
    )
    .await;
    put(
        "_sessions",
        json!({ "id": "1", "userId": mira, "tokenHash": "short", "loggedInAt": 1, "expiresAt": 9e15 }),
    )
    .await;
    put(
        "_users",
        json!({ "id": "x", "username": "MIRA", "usernameKey": "other", "passwordHash": "x", "enabled": true }),
    )
    .await;
    let desk = desk.restarted().await;
    assert!(desk.may(&mira, Operation::StoreGet, "b"));
    assert!(desk.may(&mira, Operation::StoreClear, "b"), "what makes sense counts");
    assert!(!desk.may(&mira, Operation::StoreInsert, "b"));
    assert!(!desk.may(&mira, Operation::StoreDropBucket, "b"));
    let directory = desk.identity.directory();
    assert!(directory.user("x").is_none());
    assert_eq!(directory.sessions().count(), 0);
    assert_eq!(directory.user_named("mira").map(|user| Arc::clone(&user.id)), Some(mira));
}

#[tokio::test]
async fn stored_permissions_that_could_not_be_given_any_more_allow_nothing_and_those_of_later_versions_what_is_known() {
    let desk = Desk::open().await;
    let mira = desk.user("mira", &[]).await;
    let permissions = json!([
        { "allow": ["store.insert", "store.de*"] },
        { "allow": "store.update", "where": { "owner": { "$neq": "{{ session.userId" } } },
        { "allow": ["store.teleport", "store.count"], "buckets": ["b", "_users"] },
    ]);
    let role = json!({ "id": "old", "name": "old", "system": false, "permissions": permissions });
    let holds = json!({ "id": "1", "userId": mira, "roleId": "old" });
    for (table, record) in [("_roles", role), ("_user_roles", holds)] {
        desk.store.bucket(table).insert(&record).await.expect("the schema allows it");
    }
    let desk = desk.restarted().await;
    assert!(desk.may(&mira, Operation::StoreCount, "b"));
    for operation in [Operation::StoreInsert, Operation::StoreDelete, Operation::StoreUpdate] {
        assert!(!desk.may(&mira, operation, "b"), "{operation}");
    }
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = async || Store::builder().on_disk(folder.path()).open().await.expect("it opens");
    let desk = Desk::open_on(open().await, |_| {}).await;
    desk.role("clerk", json!([{ "allow": ["store.get"], "buckets": ["orders"] }])).await;
    let mira = desk.user("mira", &["clerk", "reader"]).await;
    desk.by_root(grant(&mira, bucket("vault"), Tier::Write)).await;
    let reader = desk
        .identity
        .directory()
        .role_named("reader")
        .map(|role| Arc::clone(&role.id))
        .expect("it is there");
    let permissions = vec![json!({ "allow": ["store.count"] })];
    desk.by_root(Change::UpdateRole {
        role: reader,
        description: Setting::Clear,
        permissions: Some(permissions),
    })
    .await;
    let issued = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let described = |desk: &Desk| {
        let directory = desk.identity.directory();
        let users: Vec<Value> = directory.users().map(|user| user.info()).collect();
        let roles: Vec<Value> = directory.roles().iter().map(|role| role.info()).collect();
        let acl: Vec<String> = directory
            .acl()
            .map(|entry| format!("{:?}{:?}", entry.subject, entry.rights))
            .collect();
        (users, roles, acl, directory.role_names(&mira))
    };
    let before = described(&desk);
    let Desk {
        identity,
        store,
        authority,
        ..
    } = desk;
    drop((identity, authority));
    store.close().await.expect("it closes");
    drop(store);
    let desk = Desk::open_on(open().await, |_| {}).await;
    assert_eq!(described(&desk), before);
    assert!(desk.by_token(&issued.token).await.is_ok());
    assert!(desk.may(&mira, Operation::StoreCount, "orders"), "what was edited stays edited");
    assert!(!desk.may(&mira, Operation::StoreAll, "orders"));
    assert!(desk.may(&mira, Operation::StoreInsert, "vault"));
    assert!(desk.log_in("mira", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn rights_follow_roles_at_once_and_only_such_changes_raise_the_version() {
    let desk = Desk::open().await;
    let mira = desk.user("mira", &[]).await;
    let login = desk.log_in("mira", PASSWORD).await.expect("it is the password").login;
    let version = desk.authority.version();
    assert!(desk.root().await.is_ok());
    assert_eq!(desk.authority.version(), version, "a login is nobody else's concern");
    desk.by_root(assign(&mira, "reader")).await;
    assert!(desk.authority.version() > version);
    let Standing::Holds(principal) = desk.standing(&login) else {
        panic!("it holds");
    };
    assert_eq!(principal.roles, ["reader"]);
    let rights = desk.authority.rights(Some(&principal));
    assert!(rights.judge(Asked::named("store.get"), &Target::Bucket("orders")).is_ok());
    for (asked, target, refusal) in [
        ("store.insert", Target::Bucket("orders"), "No access to store.insert on orders"),
        ("no.such", Target::Server, "No access to no.such on *"),
        (
            "store.get",
            Target::Bucket("_users"),
            "Cannot access system bucket \"_users\" directly",
        ),
    ] {
        assert_eq!(rights.judge(Asked::named(asked), &target), Err(refusal.to_owned()));
    }
    let root = desk.authority.rights(Some(&Arc::new(crate::server::access::Principal::new(
        VIRTUAL_SUPERADMIN,
        ["superadmin"],
    ))));
    assert!(root.judge(Asked::named("store.get"), &Target::Bucket("_users")).is_err());
    // A query that the embedding program has defined, or somebody when there were no users of our own.
    for name in ["store.runQuery", "store.subscribe", "store.explain", "store.undefineQuery"] {
        let peek = Target::Query {
            name: "peek",
            bucket: Some("_users"),
        };
        assert!(root.judge(Asked::named(name), &peek).is_err(), "{name}");
    }
    assert!(root.judge_step(Operation::StoreGet, "_users").is_err());
    assert!(
        desk.authority
            .rights(None)
            .judge(Asked::named("identity.whoami"), &Target::Server)
            .is_err()
    );
}

#[tokio::test]
async fn the_embedding_program_ends_the_sessions_of_a_user() {
    let desk = Desk::open().await;
    desk.user("mira", &[]).await;
    let issued = desk.log_in("mira", PASSWORD).await.expect("it is the password");
    let id = issued.login.principal.user_id.clone();
    assert_eq!(desk.authority.revoke(&[id]).await.ok(), Some(0));
    assert!(matches!(desk.standing(&issued.login), Standing::Ended));
    assert_eq!(text(desk.by_token(&issued.token).await), "Invalid token");
}

#[tokio::test]
async fn names_are_taken_whatever_their_case() {
    let desk = Desk::open().await;
    desk.locked_user("Mira", &[]).await;
    let again = NewUser {
        id: "other".into(),
        name: "mIRA".to_owned(),
        hash: "$".into(),
        is_enabled: true,
        profile: nothing(),
    };
    assert_eq!(
        code(desk.by(VIRTUAL_SUPERADMIN, Change::CreateUser(again)).await),
        ErrorCode::AlreadyExists
    );
    assert!(names::check_user_name("__superadmin__").is_err());
}

#[tokio::test]
async fn only_so_many_changes_wait() {
    let desk = Desk::open().await;
    // All are handed over before the first of them is looked at.
    let orders = (0..super::ORDERS_MAX + 5).map(|_| desk.by("", Change::PurgeSessions));
    let outcomes = futures_util::future::join_all(orders).await;
    let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 5);
    assert!(refused.iter().all(|failure| failure.code() == ErrorCode::Backpressure));
}

#[tokio::test]
async fn there_are_only_so_many_roles() {
    let desk = Desk::open().await;
    let have = desk.identity.directory().role_count();
    for n in have..1_000 {
        desk.role(&format!("role-{n}"), json!([])).await;
    }
    let role = NewRole {
        id: "one-more".into(),
        name: "one more".to_owned(),
        description: None,
        permissions: Vec::new(),
    };
    assert_eq!(
        code(desk.by(VIRTUAL_SUPERADMIN, Change::CreateRole(role)).await),
        ErrorCode::ValidationError
    );
}

#[tokio::test]
async fn a_user_has_only_so_many_entries_and_so_has_a_resource() {
    let desk = Desk::open().await;
    let mira = desk.locked_user("mira", &[]).await;
    let otto = desk.locked_user("otto", &[]).await;
    for n in 0..1_000 {
        desk.by_root(grant(&mira, bucket(&format!("b{n}")), Tier::Read)).await;
    }
    let one_more = grant(&mira, bucket("one more"), Tier::Read);
    assert_eq!(code(desk.by(VIRTUAL_SUPERADMIN, one_more).await), ErrorCode::ValidationError);
    desk.by_root(grant(&mira, bucket("b0"), Tier::Write)).await;
    desk.by_root(grant(&otto, bucket("one more"), Tier::Read)).await;
    for n in 1..1_000 {
        let user = desk.locked_user(&format!("user-{n}"), &[]).await;
        desk.by_root(grant(&user, bucket("one more"), Tier::Read)).await;
    }
    let last = desk.locked_user("last", &[]).await;
    let one_more = grant(&last, bucket("one more"), Tier::Read);
    assert_eq!(code(desk.by(VIRTUAL_SUPERADMIN, one_more).await), ErrorCode::ValidationError);
}
