//! The configuration from the outside: sources in, a configuration or all its faults out.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::keys::keys;
use super::names::variable_of;
use super::*;
use crate::protocol::Operation;

fn file(value: &Value) -> Sources {
    Sources::new().file_text(Path::new("noex.json"), &value.to_string())
}

fn toml(text: &str) -> Sources {
    Sources::new().file_text(Path::new("noex.toml"), text)
}

fn variable(name: &str, text: &str) -> Sources {
    Sources::new().variables([(name, text)])
}

/// The faults, one text each.
fn faults(sources: Sources) -> Vec<String> {
    sources
        .resolve()
        .map_or_else(|error| error.faults().iter().map(Fault::to_string).collect(), |_| Vec::new())
}

fn only_fault(sources: Sources) -> String {
    let faults = faults(sources);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

/// A value other than the default for every key with a variable: its text, and the value in a file.
fn samples() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("port", "4001", json!(4001)),
        ("host", "::1", json!("::1")),
        ("path", "/live", json!("/live")),
        ("name", "desk-7", json!("desk-7")),
        ("dataDir", "/srv/noex", json!("/srv/noex")),
        ("durability", "interval", json!("interval")),
        ("durabilityIntervalMs", "7", json!(7)),
        ("maxPayloadBytes", "4096", json!(4096)),
        ("exposeErrorDetails", "false", json!(false)),
        ("allowedOrigins", "https://a.example, null", json!(["https://a.example", "null"])),
        ("idempotencyWindowMs", "90000", json!(90_000)),
        ("maxConnections", "12", json!(12)),
        ("maxConnectionsPerIp", "3", json!(3)),
        ("trustedProxies", "10.0.0.0/8, ::1", json!(["10.0.0.0/8", "::1"])),
        ("logFormat", "json", json!("json")),
        ("logLevel", "debug", json!("debug")),
    ]
}

#[test]
fn without_any_source_everything_is_at_its_default() {
    let resolved = Sources::new().resolve().unwrap();
    assert_eq!(
        resolved,
        Resolved {
            config: Config::default(),
            log: LogConfig::default(),
            warnings: Vec::new()
        }
    );
}

#[test]
fn the_defaults_are_within_their_own_bounds() {
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let port = |sources: Sources| sources.resolve().unwrap().config.port;
    let file = file(&json!({ "port": 1 }));
    let both = file.clone().variables([("NOEX_PORT", "2")]);
    assert_eq!(port(Sources::new()), 8080);
    assert_eq!(port(file), 1);
    assert_eq!(port(both.clone()), 2);
    assert_eq!(port(both.flag("--port", "port", "3")), 3);
    assert_eq!(port(Sources::new().flag("--port", "port", "3").variables([("NOEX_PORT", "2")])), 3);
}

#[test]
fn precedence_holds_key_by_key() {
    let sources = file(&json!({ "port": 1, "path": "/file", "durability": "memory" })).variables([("NOEX_DURABILITY", "interval")]);
    let config = sources.flag("--path", "path", "/flag").resolve().unwrap().config;
    let interval = SyncPolicy::Interval(Duration::from_millis(50));
    assert_eq!((config.port, config.path.as_str()), (1, "/flag"));
    assert_eq!(
        config.storage,
        Storage::Disk {
            dir: "./noex-data".into(),
            sync: interval
        }
    );
}

#[test]
fn every_single_value_has_a_variable_that_does_what_the_file_does() {
    let sampled: Vec<_> = samples().iter().map(|(key, _, _)| *key).collect();
    let with_variable: Vec<_> = keys().filter(|key| key.has_variable()).map(|key| key.name).collect();
    for key in &with_variable {
        assert!(sampled.contains(key), "no sample for {key}");
    }
    for (key, text, value) in samples() {
        // The interval shows only where it is in use.
        let base = if key == "durabilityIntervalMs" {
            json!({ "durability": "interval" })
        } else {
            json!({})
        };
        let mut members = base.clone();
        members[key] = value;
        let from_file = file(&members).resolve().unwrap();
        let from_variable = file(&base).variables([(variable_of(key), text)]).resolve().unwrap();
        let from_flag = file(&base).flag("--flag", key, text).resolve().unwrap();
        assert_eq!(from_file, from_variable, "{key}");
        assert_eq!(from_file, from_flag, "{key}");
        assert_ne!(from_file, file(&base).resolve().unwrap(), "{key} has no effect");
    }
}

#[test]
fn variables_are_named_as_the_contract_says() {
    let named: Vec<_> = keys().filter(|key| key.has_variable()).map(|key| variable_of(key.name)).collect();
    let expected = "NOEX_PORT NOEX_HOST NOEX_PATH NOEX_NAME NOEX_DATA_DIR NOEX_DURABILITY NOEX_DURABILITY_INTERVAL_MS NOEX_MAX_PAYLOAD_BYTES \
                    NOEX_EXPOSE_ERROR_DETAILS NOEX_ALLOWED_ORIGINS NOEX_IDEMPOTENCY_WINDOW_MS NOEX_MAX_CONNECTIONS NOEX_MAX_CONNECTIONS_PER_IP NOEX_TRUSTED_PROXIES \
                    NOEX_LOG_FORMAT NOEX_LOG_LEVEL";
    assert_eq!(named.join(" "), expected);
}

#[test]
fn every_number_of_the_file_reaches_its_field() {
    let numbers = keys().filter(|key| key.name.contains('.')).filter_map(|key| {
        let keys::Kind::Whole { min, max, get, .. } = key.kind else {
            return None;
        };
        Some((key.name, [min, max], get))
    });
    for (name, bounds, get) in numbers {
        for number in bounds {
            let mut written = json!({});
            if name.starts_with("auth.jwt.") {
                written["auth"]["jwt"]["secret"] = json!("0123456789abcdef0123456789abcdef");
            }
            *name.split('.').fold(&mut written, |inside, member| &mut inside[member]) = json!(number);
            let config = file(&written).resolve().unwrap().config;
            assert_eq!(get(&config), Some(number), "{name}");
        }
    }
}

#[test]
fn a_partial_object_keeps_the_defaults_of_its_missing_members() {
    let config = file(&json!({ "heartbeat": { "intervalMs": 400 }, "backpressure": {} }))
        .resolve()
        .unwrap()
        .config;
    assert_eq!(
        config.heartbeat,
        HeartbeatConfig {
            interval: Duration::from_millis(400),
            timeout: Duration::from_secs(10)
        }
    );
    assert_eq!(config.backpressure, BackpressureConfig::default());
}

#[test]
fn all_faults_are_listed_at_once_each_with_its_place() {
    let written = json!({
        "maxPayloadBites": 1000,
        "maxPayloadBytes": "big",
        "port": 70_000,
        "heartbeat": { "intervalMs": "often", "timeoutMS": 5 },
        "backpressure": 7,
        "durability": "sometimes",
        "allowedOrigins": ["https://a.example", "https://b.example/", 5],
        "maxConnectionsPerIp": 0,
        "intervalMs": 5,
        "heartbeat.timeoutMs": 5,
        "tls": { "certFile": "cert.pem" },
        "persistence": "sqlite",
        "colour": null,
        "name": "x".repeat(300),
        "buckets": { "_own": { "key": "id", "schema": { "id": { "type": "string" } } }, "orders": [], "": {} },
    });
    let sources = file(&written)
        .variables([
            ("NOEX_PORT", ""),
            ("NOEX_LOG_LEVL", "info"),
            ("NOEX_ADMIN_PORT", "1"),
            ("NOEX_HEARTBEAT_TIMEOUT_MS", "5"),
        ])
        .flag("--max-connections-per-ip", "maxConnectionsPerIp", "-3")
        .refused_flag("--db", "is no flag of this server");
    insta::assert_snapshot!(sources.resolve().unwrap_err());
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one() {
    let check = |value: Value, meant: &str| {
        let fault = only_fault(file(&value));
        assert!(fault.ends_with(&format!("did you mean {meant:?}?")), "{fault}");
    };
    check(json!({ "maxPayloadBites": 1 }), "maxPayloadBytes");
    check(json!({ "max_connections_per_ip": 1 }), "maxConnectionsPerIp");
    check(json!({ "heartbeats": {} }), "heartbeat");
    check(
        json!({ "shutdown": { "graceperiod": 1 } }),
        "shutdown.gracePeriodMs".rsplit('.').next().unwrap(),
    );
    check(json!({ "gracePeriodMs": 1 }), "shutdown.gracePeriodMs");
    check(json!({ "heartbeat": { "gracePeriodMs": 1 } }), "shutdown.gracePeriodMs");
    assert_eq!(only_fault(file(&json!({ "colour": 1 }))), "noex.json: colour: unknown key");
}

#[test]
fn a_capability_of_a_later_version_is_refused_by_that_name() {
    for key in keys::LATER {
        assert_eq!(
            only_fault(file(&json!({ *key: {} }))),
            format!("noex.json: {key}: {key:?} is not available in this version")
        );
        let name = variable_of(key);
        assert_eq!(
            only_fault(variable(&name, "1")),
            format!("{name}: {key:?} is not available in this version")
        );
    }
}

#[test]
fn a_fault_counts_also_where_another_source_wins() {
    assert_eq!(
        only_fault(file(&json!({ "port": "8080" })).flag("--port", "port", "1")),
        "noex.json: port: expected a whole number from 0 to 65535, found the text \"8080\""
    );
}

#[test]
fn numbers_are_taken_up_to_their_bounds_and_no_further() {
    for (value, is_good) in [
        (0, false),
        (255, false),
        (256, true),
        (1 << 30, true),
        ((1 << 30) + 1, false),
        (-1, false),
    ] {
        assert_eq!(file(&json!({ "maxPayloadBytes": value })).resolve().is_ok(), is_good, "{value}");
    }
    for (value, is_good) in [
        (json!(0), false),
        (json!(0.5), true),
        (json!(1), true),
        (json!(1.01), false),
        (json!("0.5"), false),
    ] {
        assert_eq!(
            file(&json!({ "backpressure": { "highWaterMark": value } })).resolve().is_ok(),
            is_good,
            "{value}"
        );
    }
    assert!(file(&json!({ "port": 8080.5 })).resolve().is_err());
    for text in ["", "0x10", "99999999999999999999999999999999999999999", "-1", "65536", "80 80", "٣"] {
        assert!(variable("NOEX_PORT", text).resolve().is_err(), "{text}");
    }
}

#[test]
fn zero_bytes_of_payload_are_refused_with_a_word_on_limits() {
    assert_eq!(
        only_fault(file(&json!({ "maxPayloadBytes": 0 }))),
        "noex.json: maxPayloadBytes: expected a whole number of bytes from 256 to 1073741824, found 0 (0 does not mean \"no limit\" here)"
    );
}

#[test]
fn toml_says_the_same_as_json_in_the_same_order() {
    let from_toml = toml(
        r#"
        port = 4000
        allowedOrigins = ["https://a.example"]
        [heartbeat]
        intervalMs = 400
        [backpressure]
        highWaterMark = 0.5
        [buckets.zebras]
        key = "id"
        [buckets.zebras.schema]
        id = { type = "string" }
        born = { type = "string", default = 2020-02-02 }
        age = { type = "number" }
        [buckets.ants]
        key = "id"
        schema = { id = { type = "string" } }
        [queries.old]
        bucket = "zebras"
        filter = { age = { "$gt" = 9 } }
        "#,
    );
    let from_json = file(&json!({
        "port": 4000,
        "allowedOrigins": ["https://a.example"],
        "heartbeat": { "intervalMs": 400 },
        "backpressure": { "highWaterMark": 0.5 },
        "buckets": {
            "zebras": {
                "key": "id",
                "schema": { "id": { "type": "string" }, "born": { "type": "string", "default": "2020-02-02" }, "age": { "type": "number" } }
            },
            "ants": { "key": "id", "schema": { "id": { "type": "string" } } }
        },
        "queries": { "old": { "bucket": "zebras", "filter": { "age": { "$gt": 9 } } } }
    }));
    let (from_toml, from_json) = (from_toml.resolve().unwrap(), from_json.resolve().unwrap());
    assert_eq!(from_toml, from_json);
    // Maps compare without regard to order, but the order of a schema is the order of its issues.
    assert_eq!(format!("{:?}", from_toml.config.buckets), format!("{:?}", from_json.config.buckets));
}

#[test]
fn a_file_that_cannot_be_understood_is_one_fault_with_its_line() {
    let text = |name: &str, text: &str| only_fault(Sources::new().file_text(Path::new(name), text));
    assert_eq!(text("a.json", "[1]"), "a.json: expected an object, found a list");
    assert!(text("a.json", "{\n\"port\": }").starts_with("a.json: no valid JSON: "));
    assert!(text("a.json", "{\n\"port\": }").contains("line 2"));
    assert!(text("a.toml", "port = 1\nhost = \n").contains("line 2"));
    assert!(text("a.toml", "port = 1\nport = 2\n").starts_with("a.toml: no valid TOML: "));
    assert_eq!(text("a.yaml", "port: 1"), "a.yaml: expected a name that ends in .json or .toml");
    let missing = only_fault(Sources::new().file(Path::new("no/such/noex.json")));
    assert!(missing.starts_with("no/such/noex.json: cannot be read: "), "{missing}");
}

#[test]
fn a_byte_order_mark_before_the_file_is_no_fault() {
    assert_eq!(
        Sources::new()
            .file_text(Path::new("A.JSON"), "\u{feff}{\"port\":5}")
            .resolve()
            .unwrap()
            .config
            .port,
        5
    );
}

#[test]
fn a_variable_that_is_nearly_ours_is_refused_and_a_stranger_is_only_named() {
    assert_eq!(
        only_fault(variable("NOEX_MAX_PAYLOAD_BITES", "1000")),
        "NOEX_MAX_PAYLOAD_BITES: unknown variable; did you mean NOEX_MAX_PAYLOAD_BYTES?"
    );
    let resolved = Sources::new()
        .variables([("NOEX_SERVICE_HOST", "10.0.0.1"), ("PORT", "bad")])
        .resolve()
        .unwrap();
    assert_eq!(resolved.config, Config::default());
    assert_eq!(resolved.warnings.len(), 1, "{:?}", resolved.warnings);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let sources = Sources::new().variables([(OsString::from("NOEX_NAME"), OsString::from_vec(vec![0xff]))]);
    assert_eq!(only_fault(sources), "NOEX_NAME: expected UTF-8 text");
}

#[test]
fn listening_openly_is_warned_about() {
    let warnings = |host: &str| file(&json!({ "host": host })).resolve().unwrap().warnings.len();
    for (host, count) in [
        ("127.0.0.1", 0),
        ("127.8.8.8", 0),
        ("::1", 0),
        ("localhost", 0),
        ("0.0.0.0", 2),
        ("::", 2),
        ("db.internal", 2),
    ] {
        assert_eq!(warnings(host), count, "{host}");
    }
    let limited = file(&json!({ "host": "0.0.0.0", "rateLimit": {} })).resolve().unwrap();
    assert_eq!(limited.warnings.len(), 1, "{:?}", limited.warnings);
}

#[test]
fn a_definition_that_could_not_be_sent_is_refused_with_its_name() {
    let fault = only_fault(file(&json!({ "queries": { "all-users": {} } })));
    assert!(fault.starts_with("noex.json: queries.all-users"), "{fault}");
    let bucket = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    let fault = only_fault(file(&json!({ "buckets": { "_users": bucket.clone() } })));
    assert_eq!(
        fault,
        "noex.json: buckets._users: names with a leading underscore are the server's own"
    );
    assert!(file(&json!({ "buckets": { "users": bucket } })).resolve().is_ok());
}

#[test]
fn a_definition_that_reaches_for_the_servers_own_buckets_is_refused() {
    let reads = json!({ "bucket": "_users" });
    let refers = json!({ "key": "id", "schema": { "id": { "type": "string" }, "user": { "type": "string", "ref": "_users" } } });
    let own = "names with a leading underscore are the server's own";
    assert_eq!(
        faults(file(&json!({ "queries": { "x": reads }, "buckets": { "a": refers } }))),
        [
            format!("noex.json: queries.x.bucket: {own}"),
            format!("noex.json: buckets.a.schema.user.ref: {own}")
        ]
    );
    let members = |value: &Value| value.as_object().cloned().expect("an object");
    let config = Config {
        queries: [("x".into(), members(&reads))].into_iter().collect(),
        buckets: [("a".into(), members(&refers))].into_iter().collect(),
        ..Config::default()
    };
    assert_eq!(config.check().unwrap_err().faults().len(), 2);
}

#[test]
fn a_bucket_whose_key_is_not_in_its_schema_is_refused_by_name() {
    let fault = faults(file(
        &json!({ "buckets": { "orders": { "key": "nope", "schema": { "id": { "type": "string" } } } } }),
    ))
    .join("\n");
    assert!(fault.contains("buckets.orders") && fault.contains("nope"), "{fault}");
}

#[test]
fn a_program_may_not_go_beyond_the_bounds_either() {
    let config = Config {
        max_payload_bytes: 0,
        path: "live".to_owned(),
        storage: Storage::Disk {
            dir: "x".into(),
            sync: SyncPolicy::Interval(Duration::ZERO),
        },
        backpressure: BackpressureConfig {
            high_water_mark: f64::NAN,
            ..BackpressureConfig::default()
        },
        allowed_origins: Some(vec!["null".to_owned(), "*".to_owned()]),
        ..Config::default()
    };
    let places: Vec<_> = config
        .check()
        .unwrap_err()
        .faults()
        .iter()
        .map(|fault| fault.place.to_string())
        .collect();
    assert_eq!(
        places,
        [
            "path",
            "durabilityIntervalMs",
            "maxPayloadBytes",
            "allowedOrigins[1]",
            "backpressure.highWaterMark"
        ]
    );
}

#[test]
fn rate_limits_are_off_until_their_object_is_there_and_then_complete() {
    let limit = |value: Value| file(&value).resolve().unwrap().config.rate_limit;
    assert_eq!(limit(json!({})), None);
    assert_eq!(limit(json!({ "rateLimit": {} })), Some(RateLimitConfig::default()));
    let partial = limit(json!({ "rateLimit": { "refused": 0, "weights": { "store.transaction": 5 } } })).unwrap();
    assert_eq!((partial.max_requests, partial.window), (200, Duration::from_secs(60)));
    assert_eq!(partial.refused, Some(0));
    assert_eq!(partial.weights.get(&Operation::StoreTransaction), Some(&5));
}

#[test]
fn weights_name_operations_and_fit_into_the_quota() {
    let check = |limit: Value, said: &str| assert_eq!(only_fault(file(&json!({ "rateLimit": limit }))), said);
    check(
        json!({ "weights": { "store-transaction": 5 } }),
        "noex.json: rateLimit.weights.store-transaction: unknown operation; did you mean \"store.transaction\"?",
    );
    check(
        json!({ "weights": { "brew": 5 } }),
        "noex.json: rateLimit.weights.brew: unknown operation",
    );
    for weight in [json!(0), json!(-1), json!(1.5), json!("5"), json!(1_000_001), json!(null)] {
        let fault = only_fault(file(&json!({ "rateLimit": { "weights": { "store.all": weight } } })));
        assert!(
            fault.starts_with("noex.json: rateLimit.weights.store.all: expected a whole number from 1 to 1000000"),
            "{fault}"
        );
    }
    check(
        json!({ "weights": { "store.all": 11 }, "maxRequests": 10 }),
        "noex.json: rateLimit.weights.store.all: expected at most 10, which is \"rateLimit.maxRequests\", found 11: it would never be allowed",
    );
    check(
        json!({ "weights": 7 }),
        "noex.json: rateLimit.weights: expected an object of whole numbers by operation, found 7",
    );
    assert!(
        file(&json!({ "rateLimit": { "weights": { "store.all": 10 }, "maxRequests": 10 } }))
            .resolve()
            .is_ok()
    );
}

#[test]
fn a_program_is_held_to_the_same_rate_limits() {
    let limit = |max_requests, weight| Config {
        rate_limit: Some(RateLimitConfig {
            max_requests,
            weights: [(Operation::StoreAll, weight)].into_iter().collect(),
            ..RateLimitConfig::default()
        }),
        ..Config::default()
    };
    assert_eq!(limit(10, 10).check(), Ok(()));
    for (max_requests, weight, place) in [
        (10, 11, "rateLimit.weights.store.all"),
        (10, 0, "rateLimit.weights.store.all"),
        (1_000_001, 1, "rateLimit.maxRequests"),
    ] {
        let error = limit(max_requests, weight).check().unwrap_err();
        assert_eq!(error.faults().len(), 1, "{error}");
        assert_eq!(error.faults()[0].place.to_string(), place);
    }
}

#[test]
fn trusted_proxies_are_addresses_or_networks() {
    assert_eq!(
        only_fault(file(&json!({ "trustedProxies": ["10.0.0.0/8", "proxy.internal"] }))),
        "noex.json: trustedProxies[1]: expected an address or a network, such as \"10.0.0.7\" or \"10.1.0.0/16\", found the text \"proxy.internal\""
    );
}
