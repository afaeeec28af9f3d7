//! Vectors that cannot be run as they are, or not by everybody, each with its family and the reason.

/// What a vector waits for.
const RULES: &str = "the rule engine";
const PROCEDURES: &str = "stored procedures";

/// Vectors that need a part of the server which is not there yet. They are run nevertheless, and must fail: one that
/// passes does not belong here any more.
pub const WAITING: &[(&str, &str, &str)] = &[
    ("audit", "the log keeps the newest entries when it is full", RULES),
    ("audit", "a stray field does not choose the resource that is recorded", RULES),
    ("identity-attacks", "no procedure reads or writes a system bucket", PROCEDURES),
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

/// Vectors that hold on servers without logins alone.
pub const NOT_AS_ADMIN: &[(&str, &str, &str)] = &[];
