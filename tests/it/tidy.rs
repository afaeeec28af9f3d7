//! The few rules of the house that a machine can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use noex_server::protocol::{ErrorCode, Operation, Tier};
use regex::Regex;
use serde_json::Value;

/// Codes that no vector can bring about, each with the reason.
const CODES_WITHOUT_VECTOR: &[(&str, &str)] = &[
    ("SESSION_REVOKED", "needs an embedding program that revokes a session; tested there"),
    ("INTERNAL_ERROR", "means a fault of the server, and no known input causes one"),
    (
        "STORAGE_UNAVAILABLE",
        "needs a disk that fails; tested where the disk can be made to",
    ),
];

/// Operations that no vector sends, each with the reason.
const OPERATIONS_WITHOUT_VECTOR: &[(&str, &str)] = &[];

/// What may lie at the top of the project.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "docs",
    "examples",
    "fuzz",
    "protocol",
    "rustfmt.toml",
    "src",
    "tests",
];

/// What is made there and not kept.
const MADE: &[&str] = &[".git", "noex-data", "proptest-regressions", "target"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder that end so, in a fixed order.
fn files(folder: impl AsRef<Path>, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && !MADE.contains(&name.as_str()) {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    found
}

/// The part of a source file that is not its tests, without comments. Tests stand at the end of a file.
fn code_of(text: &str) -> String {
    let tests = Regex::new(r"#\[cfg\(test\)\]\s+mod \w+ \{").expect("a pattern");
    let code = tests.find(text).map_or(text, |found| &text[..found.start()]);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The source files of a folder that are built into the server: without those that only tests use.
fn sources(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let test_module = Regex::new(r"#\[cfg\(test\)\]\s+(?:pub(?:\([a-z]+\))? )?mod (\w+);").expect("a pattern");
    let all = files(folder, "rs");
    let mut only_tests = BTreeSet::new();
    for file in &all {
        let parent = file.parent().expect("a folder");
        let stem = file.file_stem().expect("a name");
        // The modules of `mod.rs` lie beside it, those of `name.rs` in the folder `name`.
        let home = if stem == "mod" || stem == "lib" || stem == "main" {
            parent.to_owned()
        } else {
            parent.join(stem)
        };
        only_tests.extend(test_module.captures_iter(&read(file)).map(|found| home.join(&found[1])));
    }
    let is_built = |file: &PathBuf| {
        !only_tests
            .iter()
            .any(|module| file.starts_with(module) || file.with_extension("") == *module)
    };
    all.into_iter().filter(is_built).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn all_vectors() -> String {
    files(root().join("protocol/vectors"), "json").iter().map(read).collect()
}

#[test]
fn nothing_unexpected_lies_at_the_top() {
    let found: Vec<String> = fs::read_dir(root())
        .expect("the project")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !MADE.contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "has no place at the top: {found:?}");
}

#[test]
fn every_error_code_is_documented_and_stands_in_a_vector() {
    let contract = read(root().join("protocol/README.md"));
    let vectors = all_vectors();
    for code in ErrorCode::ALL.map(ErrorCode::as_str) {
        assert!(contract.contains(&format!("`{code}`")), "{code} is missing in protocol/README.md");
        let excused = CODES_WITHOUT_VECTOR.iter().any(|(it, _)| *it == code);
        assert_ne!(
            vectors.contains(&format!("\"{code}\"")),
            excused,
            "{code}: a vector or an excuse, and not both"
        );
    }
}

#[test]
fn every_operation_is_documented_and_stands_in_a_vector() {
    let contract = read(root().join("protocol/README.md"));
    let vectors = all_vectors();
    for operation in Operation::ALL.iter().map(|operation| operation.name()) {
        assert!(
            contract.contains(&format!("`{operation}`")),
            "{operation} is missing in protocol/README.md"
        );
        let excused = OPERATIONS_WITHOUT_VECTOR.iter().any(|(it, _)| *it == operation);
        assert_ne!(
            vectors.contains(&format!("\"{operation}\"")),
            excused,
            "{operation}: a vector or an excuse, and not both"
        );
    }
}

/// Each row of the table of tiers in the contract lists the operations of a tier, and all of them.
#[test]
fn the_tiers_of_the_contract_are_those_of_the_table_of_operations() {
    let contract = read(root().join("protocol/README.md"));
    for tier in [Tier::Read, Tier::Write, Tier::Admin] {
        let row = contract.lines().find(|line| line.starts_with(&format!("| {tier} | `")));
        let row = row.unwrap_or_else(|| panic!("the tier {tier} has a row"));
        let listed: BTreeSet<&str> = row.split('`').filter(|text| text.contains('.') && !text.contains(' ')).collect();
        let of_tier = Operation::ALL.iter().filter(|operation| operation.tier() == Some(tier));
        // Those of identity go by roles, and have a tier for the audit log alone.
        let names = of_tier
            .map(|operation| operation.name())
            .filter(|name| !name.starts_with("identity."));
        assert_eq!(listed, names.collect(), "{tier}");
    }
}

#[test]
fn every_close_code_is_documented() {
    let contract = read(root().join("protocol/README.md"));
    let code = Regex::new(r"=> (\d{4}),").expect("a pattern");
    let table = read(root().join("src/protocol/close_code.rs"));
    let codes: Vec<_> = code.captures_iter(&table).map(|found| found[1].to_owned()).collect();
    assert!(!codes.is_empty(), "the close codes are found in the source");
    for code in codes {
        assert!(contract.contains(&format!("| {code} |")), "{code} is missing in protocol/README.md");
    }
}

#[test]
fn every_configuration_key_is_documented() {
    let manual = read(root().join("docs/CONFIGURATION.md"));
    let key = Regex::new(r#"(?:name: |[a-z_]+!\(\s*)"([a-z]\w*(?:\.\w+)*)""#).expect("a pattern");
    let tables = files(root().join("src/server/config/keys"), "rs");
    let tables: String = tables.into_iter().map(|path| code_of(&read(path))).collect();
    let keys: BTreeSet<_> = key.captures_iter(&tables).map(|found| found[1].to_owned()).collect();
    assert!(
        keys.contains("port") && keys.contains("auth.builtIn.argon2.passes"),
        "the keys are found in the source"
    );
    for key in keys {
        assert!(manual.contains(&format!("`{key}`")), "{key} is missing in docs/CONFIGURATION.md");
    }
}

#[test]
fn every_vector_has_a_name_of_its_own() {
    for file in files(root().join("protocol/vectors"), "json") {
        let vectors: Vec<Value> = serde_json::from_str(&read(&file)).expect("a list of vectors");
        let names: BTreeSet<&str> = vectors.iter().map(|vector| vector["name"].as_str().expect("a name")).collect();
        assert_eq!(names.len(), vectors.len(), "{}: two vectors have one name", shown(&file));
    }
}

/// `protocol ← store ← server ← cli`: each may use what stands before it, and itself.
#[test]
fn layers_use_only_what_lies_below_them() {
    let layers = ["protocol", "store", "server", "cli"];
    let used = Regex::new(r"\bcrate::(protocol|store|server|cli)\b").expect("a pattern");
    for (height, layer) in layers.iter().enumerate() {
        for file in sources(root().join("src").join(layer)) {
            for found in used.captures_iter(&code_of(&read(&file))) {
                let below = layers.iter().position(|it| *it == &found[1]).expect("one of the layers") <= height;
                assert!(below, "{} uses {}", shown(&file), &found[0]);
            }
        }
    }
}

#[test]
fn only_the_server_knows_sockets_and_envelopes() {
    let sockets = Regex::new(r"\b(tokio_tungstenite|tungstenite|hyper|hyper_util|std::net|tokio::net)\b").expect("a pattern");
    let envelope = Regex::new(r"\bprotocol::(request|message|operation|close_code|codec)\b").expect("a pattern");
    for layer in ["protocol", "store"] {
        for file in sources(root().join("src").join(layer)) {
            let code = code_of(&read(&file));
            assert!(!sockets.is_match(&code), "{} knows sockets", shown(&file));
            assert!(
                layer == "protocol" || !envelope.is_match(&code),
                "{} knows the envelope",
                shown(&file)
            );
        }
    }
}

#[test]
fn the_state_of_the_store_knows_no_clock_and_no_chance() {
    let impure = Regex::new(r"\b(SystemTime|Instant|tokio|new_v4|OsRng|std::fs|std::env)\b").expect("a pattern");
    for file in sources(root().join("src/store/state")) {
        let code = code_of(&read(&file));
        assert!(
            !impure.is_match(&code),
            "{} is not pure: {:?}",
            shown(&file),
            impure.find(&code).map(|found| found.as_str())
        );
    }
}

#[test]
fn nothing_is_unwrapped_silenced_or_left_for_later() {
    let forbidden = Regex::new(r"\.unwrap\(\)|\b(?:todo|unimplemented|dbg)!|#!?\[allow\(|#\[ignore").expect("a pattern");
    for file in sources(root().join("src")) {
        let code = code_of(&read(&file));
        assert!(
            !forbidden.is_match(&code),
            "{}: {:?}",
            shown(&file),
            forbidden.find(&code).map(|found| found.as_str())
        );
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#]+)(?:#[^)]*)?\)").expect("a pattern");
    let documents = files(root(), "md");
    assert!(!documents.is_empty());
    for document in documents {
        let folder = document.parent().expect("a folder");
        for found in link.captures_iter(&read(&document)) {
            let target = &found[1];
            let outside = target.contains("://") || target.starts_with("mailto:");
            assert!(
                outside || folder.join(target).exists(),
                "{}: {target} is not there",
                shown(&document)
            );
        }
    }
}

#[test]
fn the_changelog_has_this_version() {
    let changelog = read(root().join("docs/CHANGELOG.md"));
    assert!(changelog.contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}
