//! From the configuration to a store that has what the configuration names.
//!
//! What is stored wins: clients may have changed it since it was configured. With `apply` the configuration wins as
//! far as an update can take it.

use serde_json::{Map, Value, json};

use super::StartError;
use super::config::{Config, Storage, SyncPolicy};
use crate::protocol::{BucketName, ErrorCode, QueryName, join_issues};
use crate::store::query::QueryDefinition;
use crate::store::state::QueryKind;
use crate::store::{BucketDefinition, OpenError, Store, StoreError};

/// Opens the store where the configuration says.
///
/// # Errors
/// [`StartError::Storage`] where the directory cannot be used, [`StartError::Internal`] where nothing can be started.
pub(super) async fn open_store(config: &Config) -> Result<Store, StartError> {
    let builder = Store::builder().name(config.name.as_str()).limits(config.store_limits.clone());
    let builder = match &config.storage {
        Storage::Memory => builder.in_memory(),
        Storage::Disk {
            dir,
            sync: SyncPolicy::EveryGroup,
        } => builder.on_disk(dir),
        Storage::Disk {
            dir,
            sync: SyncPolicy::Interval(interval),
        } => builder.on_disk_with_interval(dir, *interval),
    };
    builder.open().await.map_err(|error| match error {
        OpenError::Storage(_) | OpenError::Definition { .. } => StartError::Storage(error.into()),
        OpenError::Start(_) => StartError::Internal(error.into()),
    })
}

/// Defines the configured buckets and queries that are not there.
///
/// # Errors
/// [`StartError::Definitions`] with all that the store refuses, [`StartError::Storage`] where it cannot store.
pub(super) async fn apply_definitions(store: &Store, config: &Config) -> Result<(), StartError> {
    let mut refused = Vec::new();
    for (name, definition) in &config.buckets {
        if let Err(problem) = apply_bucket(store, name, definition, config.apply).await {
            refused.push(problem.within(&format!("bucket \"{name}\""))?);
        }
    }
    for (name, definition) in &config.queries {
        if let Err(problem) = apply_query(store, name, definition, config.apply).await {
            refused.push(problem.within(&format!("query \"{name}\""))?);
        }
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(StartError::Definitions(refused))
    }
}

/// Why a definition is not applied.
enum Problem {
    /// The store refuses it, or cannot store it.
    Store(StoreError),
    /// It asks for what no update can do.
    Refused(String),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Problem {
    /// What is said of it, with the definition's name; an error where the definition is not to blame.
    fn within(self, what: &str) -> Result<String, StartError> {
        match self {
            Self::Store(error) if matches!(error.code(), ErrorCode::StorageUnavailable | ErrorCode::InternalError) => {
                Err(StartError::Storage(error.into()))
            }
            Self::Store(error) => Ok(format!("{what}: {error}")),
            Self::Refused(problem) => Ok(format!("{what}: {problem}")),
        }
    }
}

async fn apply_bucket(store: &Store, name: &BucketName, wanted: &Map<String, Value>, apply: bool) -> Result<(), Problem> {
    let stored = store
        .snapshot()
        .bucket(name.as_str())
        .ok()
        .map(|bucket| bucket.definition().config().clone());
    let Some(stored) = stored else {
        let definition = BucketDefinition::parse(wanted).map_err(|issues| Problem::Refused(join_issues(&issues)))?;
        return Ok(store.define_bucket(name, definition).await?);
    };
    let difference = Difference::between(&stored, wanted);
    if difference.is_empty() {
        return Ok(());
    }
    if !apply {
        let differences = difference.describe();
        tracing::warn!(bucket = %name, differences, "the stored definition differs from the configured one, and stays");
        return Ok(());
    }
    if !difference.changed.is_empty() {
        return Err(Problem::Refused(format!(
            "cannot be changed once it is defined: {}",
            difference.changed.join(", ")
        )));
    }
    if !difference.surplus.is_empty() {
        let surplus = difference.surplus.join(", ");
        tracing::warn!(bucket = %name, surplus, "the stored definition has more than the configured one; it stays");
    }
    if !difference.updates.is_empty() {
        store.update_bucket(name, difference.updates).await?;
        tracing::info!(bucket = %name, "the stored definition was updated to the configured one");
    }
    Ok(())
}

async fn apply_query(store: &Store, name: &QueryName, wanted: &Map<String, Value>, apply: bool) -> Result<(), Problem> {
    let definition = QueryDefinition::parse(wanted).map_err(|issues| Problem::Refused(join_issues(&issues)))?;
    let snapshot = store.snapshot();
    let stored = match snapshot.query(name.as_str()).map(|entry| &entry.kind) {
        Err(_) => return Ok(store.define_query(name, definition).await?),
        Ok(QueryKind::Declarative(stored)) => Some(stored.config()),
        // Defined by the program that embeds the server.
        Ok(QueryKind::Programmatic(_)) => None,
    };
    match stored {
        Some(stored) if stored == wanted => Ok(()),
        _ if !apply => {
            tracing::warn!(query = %name, "the stored definition differs from the configured one, and stays");
            Ok(())
        }
        None => Err(Problem::Refused("is computed by the program and cannot be replaced".to_owned())),
        Some(_) => {
            // What the new one needs is checked first: between the two there is no query of that name.
            snapshot.bucket(definition.bucket().as_str())?;
            store.undefine_query(name).await?;
            store.define_query(name, definition).await?;
            tracing::info!(query = %name, "the stored definition was updated to the configured one");
            Ok(())
        }
    }
}

/// What stands between a stored bucket definition and the configured one.
#[derive(Debug, Default, PartialEq)]
struct Difference {
    /// What `store.updateBucket` can do about it.
    updates: Map<String, Value>,
    /// What no update can do: members that say something else.
    changed: Vec<String>,
    /// Fields and indexes that only the stored one has.
    surplus: Vec<String>,
}

impl Difference {
    fn between(stored: &Map<String, Value>, wanted: &Map<String, Value>) -> Self {
        let mut difference = Self::default();
        difference.compare_fields(stored.get("schema"), wanted.get("schema"));
        difference.compare_indexes(stored.get("indexes"), wanted.get("indexes"));
        difference.compare_members(stored, wanted);
        difference
    }

    fn compare_fields(&mut self, stored: Option<&Value>, wanted: Option<&Value>) {
        let none = Map::new();
        let fields = |schema: Option<&'_ Value>| schema.and_then(Value::as_object).unwrap_or(&none).clone();
        let (stored, wanted) = (fields(stored), fields(wanted));
        let mut added = Map::new();
        for (name, field) in &wanted {
            match stored.get(name) {
                None => drop(added.insert(name.clone(), field.clone())),
                Some(other) if other != field => self.changed.push(format!("field \"{name}\"")),
                Some(_) => {}
            }
        }
        self.surplus.extend(
            stored
                .keys()
                .filter(|name| !wanted.contains_key(*name))
                .map(|name| format!("field \"{name}\"")),
        );
        if !added.is_empty() {
            self.updates.insert("addFields".to_owned(), Value::Object(added));
        }
    }

    fn compare_indexes(&mut self, stored: Option<&Value>, wanted: Option<&Value>) {
        let none = Vec::new();
        let list = |indexes: Option<&'_ Value>| indexes.and_then(Value::as_array).unwrap_or(&none).clone();
        let (stored, wanted) = (list(stored), list(wanted));
        let added: Vec<Value> = wanted.iter().filter(|index| !stored.contains(index)).cloned().collect();
        self.surplus.extend(
            stored
                .iter()
                .filter(|index| !wanted.contains(index))
                .map(|index| format!("index {index}")),
        );
        if !added.is_empty() {
            self.updates.insert("addIndexes".to_owned(), Value::Array(added));
        }
    }

    fn compare_members(&mut self, stored: &Map<String, Value>, wanted: &Map<String, Value>) {
        if stored.get("ttl") != wanted.get("ttl") {
            self.updates
                .insert("ttl".to_owned(), wanted.get("ttl").cloned().unwrap_or(Value::Null));
        }
        for (name, default) in [
            ("key", json!("id")),
            ("etsType", json!("set")),
            ("persistent", json!(true)),
            ("maxSize", Value::Null),
        ] {
            if stored.get(name).unwrap_or(&default) != wanted.get(name).unwrap_or(&default) {
                self.changed.push(format!("\"{name}\""));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.changed.is_empty() && self.surplus.is_empty()
    }

    /// All differences in a few words.
    fn describe(&self) -> String {
        let added = self.updates.iter().map(|(update, value)| format!("{update}: {value}"));
        let changed = self.changed.iter().map(|what| format!("{what} differs"));
        let surplus = self.surplus.iter().map(|what| format!("{what} is only stored"));
        added.chain(changed).chain(surplus).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn bucket() -> Map<String, Value> {
        object(json!({ "key": "id", "schema": { "id": { "type": "string" }, "age": { "type": "number" } }, "indexes": ["age"] }))
    }

    /// Applies a configuration to a store that has `bucket()` under the name "people", and gives what is stored then.
    async fn applied(wanted: Value, apply: bool) -> Result<Map<String, Value>, StartError> {
        let store = Store::builder().in_memory().open().await.expect("a store in memory opens");
        let before = Config {
            buckets: [("people".into(), bucket())].into_iter().collect(),
            ..Config::default()
        };
        apply_definitions(&store, &before).await?;
        let after = Config {
            buckets: [("people".into(), object(wanted))].into_iter().collect(),
            apply,
            ..Config::default()
        };
        apply_definitions(&store, &after).await?;
        let snapshot = store.snapshot();
        Ok(snapshot.bucket("people").expect("it is defined").definition().config().clone())
    }

    #[tokio::test]
    async fn what_is_stored_wins() {
        let wanted = json!({ "key": "age", "schema": { "age": { "type": "string" } } });
        assert_eq!(applied(wanted, false).await.expect("a difference is no error"), bucket());
    }

    #[tokio::test]
    async fn with_apply_fields_and_indexes_are_added_and_the_ttl_is_set() {
        let mut wanted = bucket();
        wanted["schema"]["mail"] = json!({ "type": "string" });
        wanted["indexes"] = json!(["age", "mail"]);
        wanted.insert("ttl".to_owned(), json!(1000));
        assert_eq!(
            applied(Value::Object(wanted.clone()), true).await.expect("an update can do it"),
            wanted
        );
    }

    #[tokio::test]
    async fn with_apply_what_is_only_stored_stays() {
        let wanted = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
        assert_eq!(applied(wanted, true).await.expect("nothing is taken away"), bucket());
    }

    #[tokio::test]
    async fn with_apply_what_no_update_can_do_is_refused_and_named() {
        let wanted = json!({ "key": "age", "schema": { "id": { "type": "string" }, "age": { "type": "string" } }, "maxSize": 5 });
        let error = applied(wanted, true).await.expect_err("it cannot be done").to_string();
        for part in ["people", "field \"age\"", "\"key\"", "\"maxSize\""] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[tokio::test]
    async fn queries_are_defined_once_and_replaced_only_with_apply() {
        let store = Store::builder().in_memory().open().await.expect("a store in memory opens");
        let define = async |query: Value, apply: bool| {
            let config = Config {
                buckets: [("people".into(), bucket())].into_iter().collect(),
                queries: [("q".into(), object(query))].into_iter().collect(),
                apply,
                ..Config::default()
            };
            apply_definitions(&store, &config).await?;
            match &store.snapshot().query("q").expect("it is defined").kind {
                QueryKind::Declarative(definition) => Ok(Value::Object(definition.config().clone())),
                QueryKind::Programmatic(_) => panic!("it is declarative"),
            }
        };
        let (old, new) = (json!({ "bucket": "people" }), json!({ "bucket": "people", "limit": 3 }));
        let check = |stored: Result<Value, StartError>, expected: &Value| assert_eq!(&stored.expect("no error"), expected);
        check(define(old.clone(), false).await, &old);
        check(define(new.clone(), false).await, &old);
        check(define(new.clone(), true).await, &new);
        let error = define(json!({ "bucket": "nobody" }), true)
            .await
            .expect_err("its bucket is not there")
            .to_string();
        assert!(error.contains("nobody"), "{error}");
        check(define(new.clone(), false).await, &new);
    }
}
