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

/// What a request for an operation touches: the field that names it, and the only one that a permission is checked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Touches {
    /// The bucket that `bucket` names.
    Bucket,
    /// The bucket that `name` names.
    NamedBucket,
    /// The bucket behind the query that `query` names.
    Query,
    /// The bucket behind the query that `query` names, else the bucket that `bucket` names.
    QueryOrBucket,
    /// The bucket behind the query that `name` names.
    NamedQuery,
    /// The bucket that `config.bucket` names, for a query that is to be defined.
    NewQuery,
    /// The bucket of every one of the `operations`.
    Steps,
    /// What the caller may see of all buckets.
    Visible,
    /// The server as a whole.
    Server,
    /// Something of the connection's own, which needs a login where one is required, and no right.
    Own,
    /// The session: anybody may ask.
    Session,
    /// Users, roles and rights: the operation itself decides, by who asks.
    Identity,
}

macro_rules! tier {
    (Free) => {
        None
    };
    ($tier:ident) => {
        Some(Tier::$tier)
    };
}

macro_rules! operations {
    ($($(#[$doc:meta])+ $operation:ident = $name:literal $tier:ident $order:ident $touches:ident;)+) => {
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

            /// What the caller must be allowed to do; none where everybody may, or the operation itself decides.
            #[must_use]
            pub const fn tier(self) -> Option<Tier> {
                match self {
                    $(Self::$operation => tier!($tier),)+
                }
            }

            /// What a request for it touches.
            #[must_use]
            pub const fn touches(self) -> Touches {
                match self {
                    $(Self::$operation => Touches::$touches,)+
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
    StoreInsert = "store.insert" Write Pipelined Bucket;
    /// Stores all of some records or none.
    StoreInsertMany = "store.insertMany" Write Pipelined Bucket;
    /// Changes a record.
    StoreUpdate = "store.update" Write Pipelined Bucket;
    /// Changes all records that match.
    StoreUpdateMany = "store.updateMany" Write Pipelined Bucket;
    /// Inserts, or updates where the key is there.
    StoreUpsert = "store.upsert" Write Pipelined Bucket;
    /// Removes a record.
    StoreDelete = "store.delete" Write Pipelined Bucket;
    /// Removes all records that match.
    StoreDeleteMany = "store.deleteMany" Write Pipelined Bucket;
    /// Removes all records of a bucket.
    StoreClear = "store.clear" Write Pipelined Bucket;
    /// Does several things, all or none.
    StoreTransaction = "store.transaction" Write Pipelined Steps;
    /// Reads a record by its key.
    StoreGet = "store.get" Read Alone Bucket;
    /// Reads all records of a bucket.
    StoreAll = "store.all" Read Alone Bucket;
    /// Reads the records that match.
    StoreWhere = "store.where" Read Alone Bucket;
    /// Reads the first record that matches.
    StoreFindOne = "store.findOne" Read Alone Bucket;
    /// Counts the records that match.
    StoreCount = "store.count" Read Alone Bucket;
    /// Reads the first n records.
    StoreFirst = "store.first" Read Alone Bucket;
    /// Reads the last n records.
    StoreLast = "store.last" Read Alone Bucket;
    /// Reads a page of records.
    StorePaginate = "store.paginate" Read Alone Bucket;
    /// Adds up a field.
    StoreSum = "store.sum" Read Alone Bucket;
    /// Averages a field.
    StoreAvg = "store.avg" Read Alone Bucket;
    /// Finds the least value of a field.
    StoreMin = "store.min" Read Alone Bucket;
    /// Finds the greatest value of a field.
    StoreMax = "store.max" Read Alone Bucket;
    /// Aggregates records by the values of fields.
    StoreGroupBy = "store.groupBy" Read Alone Bucket;
    /// Runs a query once.
    StoreRunQuery = "store.runQuery" Read Alone Query;
    /// Tells how a filter or a query would be carried out.
    StoreExplain = "store.explain" Read Alone QueryOrBucket;
    /// Follows the result of a query.
    StoreSubscribe = "store.subscribe" Read Alone Query;
    /// Follows what happens to the records of a bucket.
    StoreChanges = "store.changes" Read Alone Bucket;
    /// Ends a subscription.
    StoreUnsubscribe = "store.unsubscribe" Read Alone Own;
    /// Lists the buckets.
    StoreBuckets = "store.buckets" Read Alone Visible;
    /// Tells how much is stored.
    StoreStats = "store.stats" Read Alone Visible;
    /// Defines a bucket.
    StoreDefineBucket = "store.defineBucket" Admin Alone NamedBucket;
    /// Removes a bucket with all of its records.
    StoreDropBucket = "store.dropBucket" Admin Alone NamedBucket;
    /// Adds fields or indexes to a bucket, or changes its ttl.
    StoreUpdateBucket = "store.updateBucket" Admin Alone NamedBucket;
    /// Reads the definition of a bucket.
    StoreGetBucketSchema = "store.getBucketSchema" Admin Alone NamedBucket;
    /// Defines a query.
    StoreDefineQuery = "store.defineQuery" Admin Alone NewQuery;
    /// Removes a query.
    StoreUndefineQuery = "store.undefineQuery" Admin Alone NamedQuery;
    /// Lists the queries.
    StoreListQueries = "store.listQueries" Admin Alone Visible;
    /// Tells how the server is doing.
    ServerStats = "server.stats" Admin Alone Server;
    /// Lists the connections.
    ServerConnections = "server.connections" Admin Alone Server;
    /// Carries out requests one after the other and answers them in one message. Each needs its own right.
    Batch = "batch" Free Pipelined Own;
    /// Logs in with a token.
    AuthLogin = "auth.login" Free Alone Session;
    /// Logs out.
    AuthLogout = "auth.logout" Free Alone Session;
    /// Tells who is logged in.
    AuthWhoami = "auth.whoami" Free Alone Session;
    /// Swaps the token of the connection for another one of the same user.
    AuthRefresh = "auth.refresh" Free Alone Session;
    /// Logs in with name and password.
    IdentityLogin = "identity.login" Admin Alone Session;
    /// Logs in with the secret of the configuration.
    IdentityLoginWithSecret = "identity.loginWithSecret" Admin Alone Session;
    /// Ends the session.
    IdentityLogout = "identity.logout" Admin Alone Identity;
    /// Tells who is logged in.
    IdentityWhoami = "identity.whoami" Free Alone Identity;
    /// Swaps the session's token for a new one.
    IdentityRefreshSession = "identity.refreshSession" Free Alone Identity;
    /// Makes a user.
    IdentityCreateUser = "identity.createUser" Admin Alone Identity;
    /// Describes a user.
    IdentityGetUser = "identity.getUser" Free Alone Identity;
    /// Changes the profile of a user.
    IdentityUpdateUser = "identity.updateUser" Free Alone Identity;
    /// Removes a user.
    IdentityDeleteUser = "identity.deleteUser" Admin Alone Identity;
    /// Lists the users, page by page.
    IdentityListUsers = "identity.listUsers" Free Alone Identity;
    /// Lets a user log in again.
    IdentityEnableUser = "identity.enableUser" Admin Alone Identity;
    /// Keeps a user out.
    IdentityDisableUser = "identity.disableUser" Admin Alone Identity;
    /// Changes the caller's own password.
    IdentityChangePassword = "identity.changePassword" Admin Alone Identity;
    /// Gives a user a new password.
    IdentityResetPassword = "identity.resetPassword" Admin Alone Identity;
    /// Makes a role.
    IdentityCreateRole = "identity.createRole" Admin Alone Identity;
    /// Changes what a role allows.
    IdentityUpdateRole = "identity.updateRole" Free Alone Identity;
    /// Removes a role.
    IdentityDeleteRole = "identity.deleteRole" Admin Alone Identity;
    /// Lists the roles.
    IdentityListRoles = "identity.listRoles" Free Alone Identity;
    /// Gives a user a role.
    IdentityAssignRole = "identity.assignRole" Admin Alone Identity;
    /// Takes a role from a user.
    IdentityRemoveRole = "identity.removeRole" Admin Alone Identity;
    /// Lists the roles of a user.
    IdentityGetUserRoles = "identity.getUserRoles" Free Alone Identity;
    /// Allows a user or a role something on a resource.
    IdentityGrant = "identity.grant" Admin Alone Identity;
    /// Takes that back.
    IdentityRevoke = "identity.revoke" Admin Alone Identity;
    /// Lists who may do what on a resource.
    IdentityGetAcl = "identity.getAcl" Free Alone Identity;
    /// Lists what the caller may do.
    IdentityMyAccess = "identity.myAccess" Free Alone Identity;
    /// Tells whose a resource is.
    IdentityGetOwner = "identity.getOwner" Free Alone Identity;
    /// Makes a resource somebody else's.
    IdentityTransferOwner = "identity.transferOwner" Admin Alone Identity;
    /// Reads the audit log.
    AuditQuery = "audit.query" Admin Alone Server;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Parts of the server that can be missing, each with operations of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Logins by token.
    Auth,
    /// Users and roles of our own.
    Identity,
    /// The audit log.
    Audit,
    /// The rule engine.
    Rules,
}

impl Part {
    /// The answer to a request for a part that is not configured.
    #[must_use]
    pub fn absent(self) -> (ErrorCode, &'static str) {
        match self {
            Self::Auth => (ErrorCode::UnknownOperation, "Authentication is not configured"),
            Self::Identity => (ErrorCode::UnknownOperation, "Identity management is not configured"),
            Self::Audit => (ErrorCode::UnknownOperation, "Audit log is not configured"),
            Self::Rules => (ErrorCode::RulesNotAvailable, "Rule engine is not configured"),
        }
    }

    /// The part that an operation of this name belongs to, whether there is such an operation or not. None for those
    /// of the server itself.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name.split_once('.')?.0 {
            "auth" => Some(Self::Auth),
            "identity" => Some(Self::Identity),
            "audit" => Some(Self::Audit),
            "rules" => Some(Self::Rules),
            _ => None,
        }
    }
}

/// The answer to a request whose `type` names no operation, where its part, if it has one, is configured.
#[must_use]
pub fn unknown_operation(name: &str) -> String {
    const FAMILIES: [&str; 7] = ["store", "rules", "identity", "auth", "audit", "procedures", "server"];
    match name.split_once('.') {
        Some((family, _)) if FAMILIES.contains(&family) => format!("Unknown {family} operation \"{name}\""),
        Some(_) | None => format!("Unknown operation \"{name}\""),
    }
}

/// Operations that others have and this server lacks, each with what a caller must be allowed to do to hear that: whoever
/// may not do it is told that alone.
const ABSENT: [(&str, Tier); 23] = [
    ("rules.getFact", Tier::Read),
    ("rules.queryFacts", Tier::Read),
    ("rules.getAllFacts", Tier::Read),
    ("rules.subscribe", Tier::Read),
    ("rules.unsubscribe", Tier::Read),
    ("rules.stats", Tier::Read),
    ("procedures.get", Tier::Read),
    ("rules.emit", Tier::Write),
    ("rules.setFact", Tier::Write),
    ("rules.deleteFact", Tier::Write),
    ("procedures.call", Tier::Write),
    ("rules.registerRule", Tier::Admin),
    ("rules.unregisterRule", Tier::Admin),
    ("rules.updateRule", Tier::Admin),
    ("rules.enableRule", Tier::Admin),
    ("rules.disableRule", Tier::Admin),
    ("rules.getRule", Tier::Admin),
    ("rules.getRules", Tier::Admin),
    ("rules.validateRule", Tier::Admin),
    ("procedures.register", Tier::Admin),
    ("procedures.unregister", Tier::Admin),
    ("procedures.update", Tier::Admin),
    ("procedures.list", Tier::Admin),
];

/// The tier of an operation that others have and this server lacks.
#[must_use]
pub fn tier_of_absent(name: &str) -> Option<Tier> {
    ABSENT.into_iter().find(|(absent, _)| *absent == name).map(|(_, tier)| tier)
}

/// The names of all operations of the protocol, those that this server lacks included.
pub fn known_operations() -> impl Iterator<Item = &'static str> {
    let present = Operation::ALL.iter().map(|operation| operation.name());
    present.chain(ABSENT.into_iter().map(|(name, _)| name))
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
                operation.tier() == Some(Tier::Write) || *operation == Operation::Batch,
                "{operation}"
            );
        }
    }

    #[test]
    fn what_is_unknown_is_refused_by_its_prefix() {
        let table = [
            ("store.frobnicate", "Unknown store operation \"store.frobnicate\""),
            ("store.", "Unknown store operation \"store.\""),
            ("store", "Unknown operation \"store\""),
            ("STORE.buckets", "Unknown operation \"STORE.buckets\""),
            ("auth.levitate", "Unknown auth operation \"auth.levitate\""),
            ("procedures.call", "Unknown procedures operation \"procedures.call\""),
            ("ping", "Unknown operation \"ping\""),
            ("no.such.thing", "Unknown operation \"no.such.thing\""),
        ];
        for (name, message) in table {
            assert_eq!(unknown_operation(name), message);
        }
    }

    #[test]
    fn parts_are_told_by_the_prefix() {
        let table = [
            ("rules.emit", Some(Part::Rules)),
            ("rules.nonsense", Some(Part::Rules)),
            ("identity.login", Some(Part::Identity)),
            ("auth.", Some(Part::Auth)),
            ("audit.query", Some(Part::Audit)),
            ("auth", None),
            ("store.get", None),
            ("procedures.call", None),
        ];
        for (name, part) in table {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }
}
