//! Vectors that cannot be run as they are, or not by everybody, each with its family and the reason.

/// What vectors wait for.
const RULES: &str = "the rule engine";

/// Vectors that need a part of the server which is not there yet. They are run nevertheless, and must fail: one that
/// passes does not belong here any more.
pub const WAITING: &[(&str, &str, &str)] = &[
    ("audit", "the log keeps the newest entries when it is full", RULES),
    ("audit", "a stray field does not choose the resource that is recorded", RULES),
    (
        "identity-attacks",
        "rights on one bucket cannot be stretched to another by a decoy field",
        RULES,
    ),
    (
        "sessions",
        "a user who loses the role that opened a subscription gets nothing more from it, and keeps the others",
        RULES,
    ),
    ("sessions", "subscriptions end with the session when the connection logs out", RULES),
    ("sessions", "subscriptions of a session that expired get nothing more", RULES),
    (
        "tiers-and-permissions",
        "a decoy topic opens neither foreign events nor foreign facts",
        RULES,
    ),
];

const ONE_QUOTA: &str = "requests of one user share a quota, and logins use up that of the address";
const NO_LOGINS: &str = "says what a server without logins says";

/// Vectors that hold only where nobody is logged in. They too are run by an administrator, and must fail.
pub const NOT_AS_ADMIN: &[(&str, &str, &str)] = &[
    (
        "backpressure-and-limits",
        "connections of one address share a rate limit",
        ONE_QUOTA,
    ),
    (
        "batch",
        "a batch with nothing in it that could be judged asks for a login itself",
        "begins without a login",
    ),
    (
        "config-from-file",
        "only the configured path is served, whatever stands behind a question mark",
        "a token behind the question mark is looked at",
    ),
    (
        "idempotency",
        "as many requests are remembered as the limit says, and beyond it a write with a key is not carried out",
        "a user gets no more of them than are left to others",
    ),
    ("pipeline", "operations of what is not configured are unknown", NO_LOGINS),
    (
        "rate-limits",
        "with no requests allowed everything is refused and the connection stays",
        ONE_QUOTA,
    ),
    (
        "server-operations",
        "connections are listed in the order in which they came, with what they hold, until they are gone",
        NO_LOGINS,
    ),
    (
        "server-operations",
        "requests are counted by what became of them and timed by what they need",
        "the login counts",
    ),
    (
        "server-operations",
        "the statistics of the server have all fields of the contract, counted from its start",
        NO_LOGINS,
    ),
    ("stats", "server statistics show the connections and what is switched on", NO_LOGINS),
    (
        "trusted-proxies",
        "clients behind a trusted proxy have quotas of their own",
        ONE_QUOTA,
    ),
    ("unknown-operations", "what is not configured says so", NO_LOGINS),
];
