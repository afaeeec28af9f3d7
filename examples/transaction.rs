//! Money moves from one account to another, whole or not at all, and never twice.
//!
//! `cargo run --example transaction`

use noex_server::store::state::{Generated, OnDelete};
use noex_server::store::{BucketDefinition, FieldSpec, Store, StoreError, Transaction};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Account {
    balance: i64,
}

/// Reads both accounts, then writes both, provided that nobody has written to them in between.
async fn transfer(store: &Store, from: &str, to: &str, amount: i64) -> Result<(), Box<dyn std::error::Error>> {
    let accounts = store.bucket("accounts");
    let source = accounts.get(from)?.ok_or("no such account")?;
    let target = accounts.get(to)?.ok_or("no such account")?;
    let left = source.parse::<Account>()?.balance - amount;
    let more = target.parse::<Account>()?.balance + amount;
    let transaction = Transaction::new()
        .update_version("accounts", from, source.version(), &json!({ "balance": left }))?
        .update_version("accounts", to, target.version(), &json!({ "balance": more }))?
        .insert("transfers", &json!({ "from": from, "to": to, "amount": amount }))?;
    store.transact(transaction).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::builder().in_memory().open().await?;
    let accounts = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field("balance", FieldSpec::number().min(0))
        .build()?;
    store.define_bucket("accounts", accounts).await?;
    let transfers = BucketDefinition::builder("id")
        .field("id", FieldSpec::string().generated(Generated::Uuid))
        .field("from", FieldSpec::string().references("accounts", OnDelete::Restrict))
        .field("to", FieldSpec::string().references("accounts", OnDelete::Restrict))
        .build()?;
    store.define_bucket("transfers", transfers).await?;
    store
        .bucket("accounts")
        .insert_many(&[json!({ "id": "ann", "balance": 100 }), json!({ "id": "bob", "balance": 0 })])
        .await?;

    transfer(&store, "ann", "bob", 30).await?;
    println!("after the first transfer: {:?}", store.bucket("accounts").all()?);

    // The schema forbids debts: nothing of this transfer happens, not even its entry.
    let refused = transfer(&store, "ann", "bob", 500).await;
    println!("refused: {}", refused.err().ok_or("an account went below zero")?);

    let stale = store
        .bucket("accounts")
        .update_version("ann", 1, &json!({ "balance": 1_000_000 }))
        .await;
    println!("stale: {}", matches!(stale, Err(StoreError::VersionConflict { .. })));
    println!("transfers: {}", store.bucket("transfers").all()?.len());
    store.close().await?;
    Ok(())
}
