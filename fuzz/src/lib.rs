//! What the targets share: JSON made of the fuzzer's bytes that is likely to mean something, and a store that is new
//! for every input.
//!
//! Names and values come from small pools, so that keys collide, filters match and definitions refer to each other.
//! Now and then something else stands in the place of what belongs there.

use std::cell::LazyCell;
use std::future::Future;

use arbitrary::Unstructured;
use noex_server::store::Store;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

/// The time that all stores show at first.
pub const NOW: u64 = 1_790_000_000_000;

pub const BUCKETS: &[&str] = &["t", "u", "v"];
pub const FIELDS: &[&str] = &["id", "a", "b", "n", "o", "ü"];
pub const QUERIES: &[&str] = &["q", "r"];

const TEXTS: &[&str] = &[
    "",
    "a",
    "ab",
    "abc",
    "B",
    "x\"y\\z\n",
    "😀",
    "\u{FF5E}",
    "\u{10FFFF}",
    "id",
    "{{ params.p }}",
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "a@b.c",
    "https://a.b/",
    "12h",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const PATTERNS: &[&str] = &[
    "^a",
    "a|b",
    "[a-z]+$",
    "\\d{2,}",
    "(",
    "(?=a)",
    "(a*)*",
    "\\u{1F600}",
    "a{1000}{1000}",
    "[^\\w-]",
    "\\p{L}",
    ".",
];

const OPERATORS: &[&str] = &[
    "$eq",
    "$neq",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$in",
    "$nin",
    "$contains",
    "$startsWith",
    "$endsWith",
    "$exists",
    "$between",
    "$regex",
];

/// Decisions, taken from the fuzzer's bytes. Where these end, everything is the first of its kind.
pub struct Source<'a>(Unstructured<'a>);

impl<'a> Source<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.int_in_range(0..=end - 1).unwrap_or(0)
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn list<T>(&mut self, longest: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(longest + 1)).map(|_| item(self)).collect()
    }

    fn text(&mut self) -> Value {
        self.pick(TEXTS).into()
    }

    fn number(&mut self) -> Value {
        match self.below(10) {
            0 => i64::MIN.into(),
            1 => i64::MAX.into(),
            2 => u64::MAX.into(),
            3 => 0.5.into(),
            4 => f64::MAX.into(),
            5 => (-1.5e-300).into(),
            6 => 1e19.into(),
            7 => (NOW as f64).into(),
            _ => (self.below(6) as i64 - 2).into(),
        }
    }

    /// Any value.
    pub fn value(&mut self, depth: usize) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => self.once_in(2).into(),
            2..=4 => self.number(),
            5..=7 => self.text(),
            8 if depth > 0 => self.list(3, |source| source.value(depth - 1)).into(),
            9 if depth > 0 => self.object(depth - 1).into(),
            _ => json!([]),
        }
    }

    fn object(&mut self, depth: usize) -> Map<String, Value> {
        self.list(3, |source| (source.pick(FIELDS).to_owned(), source.value(depth)))
            .into_iter()
            .collect()
    }

    /// What `right` makes, or, now and then, any value.
    fn mostly(&mut self, right: impl FnOnce(&mut Self) -> Value) -> Value {
        if self.once_in(16) { self.value(2) } else { right(self) }
    }

    /// A record, or what is to be changed in one.
    pub fn record(&mut self) -> Map<String, Value> {
        let mut record = Map::new();
        for field in FIELDS {
            if !self.once_in(3) {
                record.insert((*field).to_owned(), self.value(2));
            }
        }
        record
    }

    /// A filter.
    pub fn filter(&mut self, depth: usize) -> Map<String, Value> {
        let mut filter = Map::new();
        for _ in 0..self.below(4) {
            let (name, value) = if depth > 0 && self.once_in(3) {
                let name = self.pick(&["$or", "$and", "$not"]);
                (
                    name,
                    self.mostly(|source| source.list(3, |source| Value::Object(source.filter(depth - 1))).into()),
                )
            } else {
                (self.pick(FIELDS), self.condition())
            };
            filter.insert(name.to_owned(), value);
        }
        filter
    }

    fn condition(&mut self) -> Value {
        if self.once_in(2) {
            return self.value(1);
        }
        let tests = self.list(2, |source| {
            let operator = source.pick(OPERATORS);
            let operand = source.mostly(|source| match operator {
                "$in" | "$nin" => source.list(4, |source| source.value(0)).into(),
                "$between" => json!([source.value(0), source.value(0)]),
                "$exists" => source.once_in(2).into(),
                "$contains" | "$startsWith" | "$endsWith" => source.text(),
                _ => source.value(0),
            });
            (operator.to_owned(), operand)
        });
        Value::Object(tests.into_iter().collect())
    }

    /// The definition of a field.
    pub fn field(&mut self, depth: usize) -> Value {
        let mut field = Map::new();
        let kind = self.pick(&["string", "number", "boolean", "object", "array", "date", "text"]);
        field.insert("type".to_owned(), self.mostly(|_| kind.into()));
        for _ in 0..self.below(4) {
            let option = self.pick(&[
                "required",
                "default",
                "generated",
                "unique",
                "enum",
                "min",
                "max",
                "minLength",
                "maxLength",
                "pattern",
                "format",
                "properties",
                "items",
                "ref",
                "onDelete",
            ]);
            let value = self.mostly(|source| match option {
                "required" | "unique" => source.once_in(2).into(),
                "generated" => source.pick(&["uuid", "cuid", "autoincrement", "timestamp"]).into(),
                "enum" => source.list(4, |source| source.value(1)).into(),
                "min" | "max" | "minLength" | "maxLength" => source.number(),
                "pattern" => source.pick(PATTERNS).into(),
                "format" => source.pick(&["email", "url", "iso-date"]).into(),
                "properties" if depth > 0 => source.schema(depth - 1),
                "items" if depth > 0 => source.field(depth - 1),
                "ref" => source.pick(BUCKETS).into(),
                "onDelete" => source.pick(&["restrict", "cascade", "set_null"]).into(),
                _ => source.value(1),
            });
            field.insert(option.to_owned(), value);
        }
        Value::Object(field)
    }

    fn schema(&mut self, depth: usize) -> Value {
        let fields = self.list(4, |source| (source.pick(FIELDS).to_owned(), source.field(depth)));
        Value::Object(fields.into_iter().collect())
    }

    fn indexes(&mut self) -> Value {
        self.list(3, |source| {
            source.mostly(|source| match source.below(3) {
                0 => source.pick(FIELDS).into(),
                1 => source.list(3, |source| source.pick(FIELDS)).into(),
                _ => json!({ "fields": source.list(3, |source| source.pick(FIELDS)), "unique": source.once_in(2) }),
            })
        })
        .into()
    }

    fn lifetime(&mut self) -> Value {
        self.mostly(|source| source.pick(&["1s", "1m", "12h", "0.001s", "1d", "-1s", "x"]).into())
    }

    /// The definition of a bucket.
    pub fn bucket(&mut self) -> Map<String, Value> {
        let mut schema = self.schema(2);
        let key = if self.once_in(8) { self.pick(FIELDS) } else { "id" };
        if let Value::Object(fields) = &mut schema
            && !fields.contains_key(key)
            && !self.once_in(16)
        {
            let kind = self.pick(&["string", "number"]);
            fields.insert(key.to_owned(), json!({ "type": kind }));
        }
        let mut config = Map::new();
        config.insert("key".to_owned(), self.mostly(|_| key.into()));
        config.insert("schema".to_owned(), schema);
        for _ in 0..self.below(3) {
            let option = self.pick(&["indexes", "ttl", "maxSize", "etsType", "persistent", "stray"]);
            let value = self.mostly(|source| match option {
                "indexes" => source.indexes(),
                "ttl" => source.lifetime(),
                "maxSize" => (1 + source.below(4)).into(),
                "etsType" => source.pick(&["set", "ordered_set"]).into(),
                _ => source.once_in(2).into(),
            });
            config.insert(option.to_owned(), value);
        }
        config
    }

    /// Updates of a bucket.
    pub fn updates(&mut self) -> Map<String, Value> {
        let mut updates = Map::new();
        for _ in 0..1 + self.below(2) {
            let (name, value) = match self.below(3) {
                0 => ("addFields", self.schema(1)),
                1 => ("addIndexes", self.indexes()),
                _ if self.once_in(2) => ("ttl", Value::Null),
                _ => ("ttl", self.lifetime()),
            };
            updates.insert(name.to_owned(), self.mostly(|_| value));
        }
        updates
    }

    /// The definition of a query over a bucket.
    pub fn query(&mut self, bucket: &str) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("bucket".to_owned(), self.mostly(|_| bucket.into()));
        for _ in 0..self.below(4) {
            let option = self.pick(&["filter", "filter", "sort", "offset", "limit", "fields", "aggregate", "stray"]);
            let value = self.mostly(|source| match option {
                "filter" => source.filter(2).into(),
                "sort" => {
                    let fields = source.list(2, |source| (source.pick(FIELDS).to_owned(), source.pick(&["asc", "desc"]).into()));
                    Value::Object(fields.into_iter().collect())
                }
                "offset" | "limit" => source.below(5).into(),
                "fields" => source.list(4, |source| source.pick(FIELDS)).into(),
                "aggregate" => {
                    let mut aggregate = Map::new();
                    let function = source.pick(&["count", "sum", "avg", "min", "max"]);
                    aggregate.insert("function".to_owned(), function.into());
                    if function != "count" {
                        aggregate.insert("field".to_owned(), source.pick(FIELDS).into());
                    }
                    if source.once_in(2) {
                        aggregate.insert("groupBy".to_owned(), source.list(2, |source| source.pick(FIELDS)).into());
                    }
                    aggregate.into()
                }
                _ => source.value(1),
            });
            config.insert(option.to_owned(), value);
        }
        config
    }

    /// The parameters of a query.
    pub fn params(&mut self) -> Value {
        self.mostly(|source| json!({ "p": source.value(1) }))
    }
}

/// An empty store.
pub async fn new_store(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Store {
    let opened = Store::builder().in_memory().clock(clock).open().await;
    opened.expect("a store in memory opens")
}

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        let builder = &mut Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().expect("a runtime starts")
    });
}

/// Runs a future to its end. Time stands still while anything can happen, and leaps where nothing can.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Lets everything happen that can happen by itself.
pub async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}

/// The JSON objects of an input that is text, one on each line; nothing where it is none.
#[must_use]
pub fn lines(data: &[u8]) -> Option<impl Iterator<Item = Map<String, Value>>> {
    let text = std::str::from_utf8(data).ok().filter(|text| text.starts_with('{'))?;
    Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()))
}
