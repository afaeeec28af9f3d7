//! The one table of operations.

use std::fmt;

use super::error_code::ErrorCode;

/// What a caller must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Reads data and subscribes to it.
    Read,
    /// Changes data.
    Write,
    /// Changes what data there can be.
    Admin,
}

impl Tier {
    /// The name in messages and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a request may start before the earlier ones of its connection are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// A plain write: it takes its place in the order of commits when it is handed over, so any number of them
    /// may be under way, and they share commit groups.
    Pipelined,
    /// It must see what the requests before it did: it starts when they are answered.
    Alone,
}

macro_rules! operations {
    ($($(#[$doc:meta])+ $operation:ident = $name:literal $tier:ident $order:ident;)+) => {
        /// Everything that can be asked of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])+ $operation,)+
        }

        impl Operation {
            /// All operations, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$operation,)+];

            /// The operation of a name; names are compared by letter and case.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$operation),)+
                    _ => None,
                }
            }

            /// The name on the wire: the `type` of a request.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => $name,)+
                }
            }

            /// What the caller must be allowed to do.
            #[must_use]
            pub const fn tier(self) -> Tier {
                match self {
                    $(Self::$operation => Tier::$tier,)+
                }
            }

            /// Whether it waits for the requests before it.
            #[must_use]
            pub const fn order(self) -> Order {
                match self {
                    $(Self::$operation => Order::$order,)+
                }
            }
        }
    };
}

operations! {
    /// Stores a new record.
    StoreInsert = "store.insert" Write Pipelined;
    /// Stores all of some records or none.
    StoreInsertMany = "store.insertMany" Write Pipelined;
    /// Changes a record.
    StoreUpdate = "store.update" Write Pipelined;
    /// Changes all records that match.
    StoreUpdateMany = "store.updateMany" Write Pipelined;
    /// Inserts, or updates where the key is there.
    StoreUpsert = "store.upsert" Write Pipelined;
    /// Removes a record.
    StoreDelete = "store.delete" Write Pipelined;
    /// Removes all records that match.
    StoreDeleteMany = "store.deleteMany" Write Pipelined;
    /// Removes all records of a bucket.
    StoreClear = "store.clear" Write Pipelined;
    /// Does several things, all or none.
    StoreTransaction = "store.transaction" Write Pipelined;
    /// Reads a record by its key.
    StoreGet = "store.get" Read Alone;
    /// Reads all records of a bucket.
    StoreAll = "store.all" Read Alone;
    /// Reads the records that match.
    StoreWhere = "store.where" Read Alone;
    /// Reads the first record that matches.
    StoreFindOne = "store.findOne" Read Alone;
    /// Counts the records that match.
    StoreCount = "store.count" Read Alone;
    /// Reads the first n records.
    StoreFirst = "store.first" Read Alone;
    /// Reads the last n records.
    StoreLast = "store.last" Read Alone;
    /// Reads a page of records.
    StorePaginate = "store.paginate" Read Alone;
    /// Adds up a field.
    StoreSum = "store.sum" Read Alone;
    /// Averages a field.
    StoreAvg = "store.avg" Read Alone;
    /// Finds the least value of a field.
    StoreMin = "store.min" Read Alone;
    /// Finds the greatest value of a field.
    StoreMax = "store.max" Read Alone;
    /// Aggregates records by the values of fields.
    StoreGroupBy = "store.groupBy" Read Alone;
    /// Runs a query once.
    StoreRunQuery = "store.runQuery" Read Alone;
    /// Tells how a filter or a query would be carried out.
    StoreExplain = "store.explain" Read Alone;
    /// Follows the result of a query.
    StoreSubscribe = "store.subscribe" Read Alone;
    /// Follows what happens to the records of a bucket.
    StoreChanges = "store.changes" Read Alone;
    /// Ends a subscription.
    StoreUnsubscribe = "store.unsubscribe" Read Alone;
    /// Lists the buckets.
    StoreBuckets = "store.buckets" Read Alone;
    /// Tells how much is stored.
    StoreStats = "store.stats" Read Alone;
    /// Defines a bucket.
    StoreDefineBucket = "store.defineBucket" Admin Alone;
    /// Removes a bucket with all of its records.
    StoreDropBucket = "store.dropBucket" Admin Alone;
    /// Adds fields or indexes to a bucket, or changes its ttl.
    StoreUpdateBucket = "store.updateBucket" Admin Alone;
    /// Reads the definition of a bucket.
    StoreGetBucketSchema = "store.getBucketSchema" Admin Alone;
    /// Defines a query.
    StoreDefineQuery = "store.defineQuery" Admin Alone;
    /// Removes a query.
    StoreUndefineQuery = "store.undefineQuery" Admin Alone;
    /// Lists the queries.
    StoreListQueries = "store.listQueries" Admin Alone;
    /// Tells how the server is doing.
    ServerStats = "server.stats" Admin Alone;
    /// Lists the connections.
    ServerConnections = "server.connections" Admin Alone;
    /// Carries out requests one after the other and answers them in one message. Each needs its own right.
    Batch = "batch" Read Pipelined;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer to a request whose `type` names no operation of this server: by its prefix, as clients know it.
#[must_use]
pub fn unknown_operation(name: &str) -> (ErrorCode, String) {
    let family = name.split_once('.').map(|(family, _)| family);
    let known = |family: &str| (ErrorCode::UnknownOperation, format!("Unknown {family} operation \"{name}\""));
    let absent = |what: &str| (ErrorCode::UnknownOperation, format!("{what} is not configured"));
    match family {
        Some(family @ ("store" | "procedures" | "server")) => known(family),
        Some("rules") => (ErrorCode::RulesNotAvailable, "Rule engine is not configured".into()),
        Some("identity") => absent("Identity management"),
        Some("auth") => absent("Authentication"),
        Some("audit") => absent("Audit log"),
        Some(_) | None => (ErrorCode::UnknownOperation, format!("Unknown operation \"{name}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_name() {
        for operation in Operation::ALL {
            assert_eq!(Operation::parse(operation.name()), Some(*operation));
        }
        assert_eq!(Operation::parse("store.Insert"), None);
        assert_eq!(Operation::parse("insert"), None);
    }

    #[test]
    fn only_writes_of_records_are_pipelined_and_batches_whose_requests_wait_themselves() {
        for operation in Operation::ALL {
            assert_eq!(
                operation.order() == Order::Pipelined,
                operation.tier() == Tier::Write || *operation == Operation::Batch,
                "{operation}"
            );
        }
    }

    #[test]
    fn what_is_unknown_is_refused_by_its_prefix() {
        let table = [
            (
                "store.frobnicate",
                ErrorCode::UnknownOperation,
                "Unknown store operation \"store.frobnicate\"",
            ),
            ("store.", ErrorCode::UnknownOperation, "Unknown store operation \"store.\""),
            ("store", ErrorCode::UnknownOperation, "Unknown operation \"store\""),
            ("STORE.buckets", ErrorCode::UnknownOperation, "Unknown operation \"STORE.buckets\""),
            ("rules.emit", ErrorCode::RulesNotAvailable, "Rule engine is not configured"),
            ("rules.nonsense", ErrorCode::RulesNotAvailable, "Rule engine is not configured"),
            (
                "identity.login",
                ErrorCode::UnknownOperation,
                "Identity management is not configured",
            ),
            ("auth.login", ErrorCode::UnknownOperation, "Authentication is not configured"),
            ("audit.query", ErrorCode::UnknownOperation, "Audit log is not configured"),
            (
                "procedures.call",
                ErrorCode::UnknownOperation,
                "Unknown procedures operation \"procedures.call\"",
            ),
            (
                "server.reboot",
                ErrorCode::UnknownOperation,
                "Unknown server operation \"server.reboot\"",
            ),
            ("ping", ErrorCode::UnknownOperation, "Unknown operation \"ping\""),
            ("logic.define", ErrorCode::UnknownOperation, "Unknown operation \"logic.define\""),
            ("no.such.thing", ErrorCode::UnknownOperation, "Unknown operation \"no.such.thing\""),
        ];
        for (name, code, message) in table {
            assert_eq!(unknown_operation(name), (code, message.to_owned()));
        }
    }
}
