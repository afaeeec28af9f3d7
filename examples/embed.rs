//! A store inside a program, without a server: typed records in and out, kept on disk.
//!
//! Run it twice: `cargo run --example embed`. The second run finds what the first one stored.

use noex_server::store::query::Filter;
use noex_server::store::{BucketDefinition, FieldSpec, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Serialize, Deserialize)]
struct Book {
    isbn: String,
    title: String,
    year: u16,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::builder()
        .on_disk(std::env::temp_dir().join("noex-example-embed"))
        .open()
        .await?;
    let definition = BucketDefinition::builder("isbn")
        .field("isbn", FieldSpec::string())
        .field("title", FieldSpec::string().required())
        .field("year", FieldSpec::number())
        .index("year")
        .build()?;
    match store.define_bucket("books", definition).await {
        Ok(()) => println!("first run: the bucket is new"),
        Err(StoreError::BucketAlreadyExists(_)) => println!("the bucket is there from an earlier run"),
        Err(error) => return Err(error.into()),
    }

    let books = store.bucket("books");
    books
        .upsert(&Book {
            isbn: "978-0441478125".into(),
            title: "The Left Hand of Darkness".into(),
            year: 1969,
        })
        .await?;
    books
        .upsert(&Book {
            isbn: "978-0060512750".into(),
            title: "The Dispossessed".into(),
            year: 1974,
        })
        .await?;

    let seventies = Filter::from_value(&json!({ "year": { "$between": [1970, 1979] } }))?;
    for record in books.select(&seventies)? {
        let book: Book = record.parse()?;
        println!("{} ({}), version {}", book.title, book.year, record.version());
    }

    let refused = books.insert(&json!({ "isbn": "1", "year": "MCMLXXIV" })).await;
    println!("refused: {}", refused.err().ok_or("the schema lets a text in for a year")?);
    store.close().await?;
    Ok(())
}
