//! What is well formed and cannot be meant: names of nothing. They would allow less than they seem to, and where the
//! default allows the rest, bound nobody.

use serde_json::{Map, Value};

use super::grant::GrantFault;
use super::pattern;
use crate::protocol::{BucketName, known_operations};
use crate::server::config::nearest;

/// The most slips of one grant that are told. To find the nearest name costs something, and clients may ask for it.
const SLIPS_MAX: usize = 16;

/// The slips in `{ allow, buckets? }`, as they were written.
pub(super) fn of(members: &Map<String, Value>) -> Vec<GrantFault> {
    let allowed = texts(members, "allow").filter(|(_, pattern)| pattern::is_sound(pattern));
    let of_operations = allowed.filter_map(|(place, pattern)| Some(GrantFault::new(place, of_operation(pattern)?)));
    let of_buckets = texts(members, "buckets").filter_map(|(place, name)| Some(GrantFault::new(place, of_bucket(name)?)));
    of_operations.chain(of_buckets).take(SLIPS_MAX).collect()
}

/// The texts of a member, be it one or a list, each with its place.
fn texts<'m>(members: &'m Map<String, Value>, member: &'m str) -> impl Iterator<Item = (String, &'m str)> {
    let written = members.get(member);
    let single = written.and_then(Value::as_str).map(|text| (member.to_owned(), text));
    let list = written.and_then(Value::as_array).into_iter().flatten().enumerate();
    let listed = list.filter_map(move |(at, item)| Some((format!("{member}[{at}]"), item.as_str()?)));
    single.into_iter().chain(listed)
}

fn of_operation(allowed: &str) -> Option<String> {
    if allowed.is_empty() || known_operations().any(|name| pattern::matches(allowed, name)) {
        return None;
    }
    let families = known_operations().filter_map(|name| Some(format!("{}.*", name.split_once('.')?.0)));
    let candidates = known_operations().map(str::to_owned).chain(families);
    Some(match nearest(allowed, candidates) {
        Some(meant) => format!("unknown operation; did you mean {meant:?}?"),
        None => "unknown operation".to_owned(),
    })
}

fn of_bucket(name: &str) -> Option<String> {
    if BucketName::from(name).is_reserved() {
        return Some("names with a leading underscore are the server's own".to_owned());
    }
    // Whoever writes a star means a pattern.
    let message = || "names of buckets are no patterns; without \"buckets\" all are meant".to_owned();
    name.contains('*').then(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::Operation;

    fn slips(members: &Value) -> Vec<String> {
        let found = of(members.as_object().expect("an object"));
        found.iter().map(|fault| format!("{}: {}", fault.member, fault.message)).collect()
    }

    #[test]
    fn operations_that_there_are_and_those_of_later_versions_are_no_slips() {
        for operation in Operation::ALL {
            assert!(slips(&json!({ "allow": operation.name() })).is_empty(), "{operation}");
        }
        let allow = json!([
            "*",
            "store.*",
            "rules.*",
            "rules.emit",
            "procedures.*",
            "procedures.call",
            "identity.*",
            "server.*"
        ]);
        assert!(slips(&json!({ "allow": allow, "buckets": ["orders", "a_b"] })).is_empty());
    }

    #[test]
    fn names_of_nothing_are_slips_and_the_nearest_name_is_told() {
        let table = [
            (json!({ "allow": "stroe.*" }), "allow: unknown operation; did you mean \"store.*\"?"),
            (
                json!({ "allow": ["store.get", "store.fidnOne"] }),
                "allow[1]: unknown operation; did you mean \"store.findOne\"?",
            ),
            (
                json!({ "allow": ["Rules.*"] }),
                "allow[0]: unknown operation; did you mean \"rules.*\"?",
            ),
            (
                json!({ "allow": "procedures.cal" }),
                "allow: unknown operation; did you mean \"procedures.call\"?",
            ),
            (
                json!({ "allow": "store.get.*" }),
                "allow: unknown operation; did you mean \"store.get\"?",
            ),
            (json!({ "allow": "everything" }), "allow: unknown operation"),
            (
                json!({ "allow": "*", "buckets": ["a", "_users"] }),
                "buckets[1]: names with a leading underscore are the server's own",
            ),
            (
                json!({ "allow": "*", "buckets": ["orders.*"] }),
                "buckets[0]: names of buckets are no patterns; without \"buckets\" all are meant",
            ),
        ];
        for (members, expected) in table {
            assert_eq!(slips(&members), [expected]);
        }
    }
}
