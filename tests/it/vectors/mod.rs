//! Runs the protocol vectors. Their format is in `protocol/vectors/README.md`.

mod lists;
mod run;

use std::path::PathBuf;

use futures_util::{StreamExt, stream};

use self::lists::{NOT_AS_ADMIN, WAITING};
use self::run::{Mode, Vector};

/// How many vectors of a family run at once. They mostly wait.
const AT_ONCE: usize = 4;

/// One test for each family, so that families run in parallel and each can be run alone. Those that know no logins are
/// run once more by an administrator.
macro_rules! families {
    (without_logins { $($test:ident = $file:literal),* $(,)? } with_logins { $($own:ident = $own_file:literal),* $(,)? }) => {
        const FAMILIES: &[&str] = &[$($file,)* $($own_file),*];
        const WITHOUT_LOGINS: &[&str] = &[$($file),*];

        $(
            #[tokio::test]
            async fn $test() {
                run_family($file, Mode::AsWritten).await;
            }
        )*
        $(
            #[tokio::test]
            async fn $own() {
                run_family($own_file, Mode::AsWritten).await;
            }
        )*

        mod as_admin {
            use super::{Mode, run_family};

            $(
                #[tokio::test]
                async fn $test() {
                    run_family($file, Mode::AsAdmin).await;
                }
            )*
        }
    };
}

families! {
    without_logins {
        admin = "admin",
        aggregates = "aggregates",
        backpressure_and_limits = "backpressure-and-limits",
        batch = "batch",
        bulk_operations = "bulk-operations",
        change_feeds = "change-feeds",
        compound_indexes = "compound-indexes",
        config_from_file = "config-from-file",
        crud = "crud",
        declarative_queries = "declarative-queries",
        deltas = "deltas",
        durability = "durability",
        envelope = "envelope",
        filters = "filters",
        generated_fields = "generated-fields",
        group_by = "group-by",
        heartbeat = "heartbeat",
        idempotency = "idempotency",
        pagination = "pagination",
        payload_and_frames = "payload-and-frames",
        pipeline = "pipeline",
        rate_limits = "rate-limits",
        reads = "reads",
        refs = "refs",
        reserved_names = "reserved-names",
        resume = "resume",
        run_query_and_explain = "run-query-and-explain",
        schema_validation = "schema-validation",
        server_operations = "server-operations",
        shutdown = "shutdown",
        stats = "stats",
        store_statistics = "store-statistics",
        subscription_notices = "subscription-notices",
        subscriptions = "subscriptions",
        transactions = "transactions",
        trusted_proxies = "trusted-proxies",
        ttl_and_eviction = "ttl-and-eviction",
        unique_and_indexes = "unique-and-indexes",
        unknown_operations = "unknown-operations",
        version_preconditions = "version-preconditions",
        welcome = "welcome",
    }
    with_logins {
        audit = "audit",
        auth_jwt = "auth-jwt",
        auth_refresh = "auth-refresh",
        auth_tokens = "auth-tokens",
        identity_access = "identity-access",
        identity_acl_ownership = "identity-acl-ownership",
        identity_attacks = "identity-attacks",
        identity_guard_rails = "identity-guard-rails",
        identity_roles = "identity-roles",
        identity_sessions = "identity-sessions",
        identity_subscriptions = "identity-subscriptions",
        identity_users = "identity-users",
        login_deadline = "login-deadline",
        login_gate = "login-gate",
        row_rules = "row-rules",
        sessions = "sessions",
        tiers_and_permissions = "tiers-and-permissions",
        upgrade_tokens = "upgrade-tokens",
    }
}

#[test]
fn every_vector_file_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder of the vectors")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut families = FAMILIES.to_vec();
    families.sort_unstable();
    assert_eq!(files, families);
}

#[test]
fn the_lists_name_vectors_that_there_are() {
    let names: Vec<(&str, Vec<String>)> = FAMILIES
        .iter()
        .map(|family| (*family, vectors_of(family).into_iter().map(|vector| vector.name).collect()))
        .collect();
    let is_there = |family: &str, name: &str| {
        let mut of_family = names.iter().filter(|(it, _)| *it == family);
        of_family.any(|(_, names)| names.iter().any(|it| it == name))
    };
    for (family, name, _) in WAITING {
        assert!(is_there(family, name), "{family}: {name}");
    }
    for (family, name, _) in NOT_AS_ADMIN {
        assert!(WITHOUT_LOGINS.contains(family), "{family} is not run by an administrator");
        assert!(is_there(family, name), "{family}: {name}");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("protocol/vectors")
}

fn vectors_of(family: &str) -> Vec<Vector> {
    let text = std::fs::read_to_string(folder().join(family).with_extension("json")).expect("the vectors of the family");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{family}.json: {error}"))
}

/// Whether a list of vectors, each with its family and a reason, names one.
fn names(list: &[(&str, &str, &str)], family: &str, vector: &Vector) -> bool {
    list.iter().any(|(of, name, _)| *of == family && *name == vector.name)
}

async fn run_family(family: &str, mode: Mode) {
    let mut vectors = vectors_of(family);
    let must_fail = match mode {
        Mode::AsWritten => WAITING,
        Mode::AsAdmin => NOT_AS_ADMIN,
    };
    if mode == Mode::AsAdmin {
        vectors.retain(|vector| vector.refused.is_none());
    }
    let failures: Vec<String> = stream::iter(&vectors)
        .map(|vector| async move {
            let outcome = vector.run(mode).await;
            match (outcome, names(must_fail, family, vector)) {
                (Ok(()), false) | (Err(_), true) => Ok(()),
                (Ok(()), true) => Err("passes: take it from the list".to_owned()),
                (Err(failure), false) => Err(failure),
            }
            .map_err(|failure| format!("{}\n    {failure}", vector.name))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|outcome| async move { outcome.err() })
        .collect()
        .await;
    assert!(
        failures.is_empty(),
        "{} of {} vectors of {family} failed:\n\n{}\n",
        failures.len(),
        vectors.len(),
        failures.join("\n\n")
    );
}
