//! A chat room as a live query: whoever watches sees each message as it is posted.
//!
//! `cargo run --example live_query`

use noex_server::store::query::QueryDefinition;
use noex_server::store::state::Generated;
use noex_server::store::{BucketDefinition, FieldSpec, Store};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::builder().in_memory().open().await?;
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::number().generated(Generated::Autoincrement))
        .field("room", FieldSpec::string().required())
        .field("text", FieldSpec::string().required().max_length(500))
        .index("room")
        .build()?;
    store.define_bucket("messages", definition).await?;
    let last_three = QueryDefinition::from_value(&json!({
        "bucket": "messages", "filter": { "room": "{{ params.room }}" },
        "sort": { "id": "desc" }, "limit": 3, "fields": ["id", "text"]
    }))?;
    store.define_query("room", last_three).await?;

    let mut kitchen = store.watch("room", json!({ "room": "kitchen" })).await?;
    let messages = store.bucket("messages");
    for (room, text) in [
        ("kitchen", "Tea?"),
        ("hall", "Who is there?"),
        ("kitchen", "Yes, please."),
        ("kitchen", "Milk?"),
        ("kitchen", "No."),
    ] {
        messages.insert(&json!({ "room": room, "text": text })).await?;
        // Only what happens in the kitchen makes a new result.
        if room == "kitchen" {
            kitchen.changed().await?;
            println!("{}", kitchen.value().unwrap_or_default());
        }
    }
    store.close().await?;
    Ok(())
}
