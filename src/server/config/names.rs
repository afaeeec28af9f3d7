//! Names of keys: their spelling in the environment, and the one that was probably meant.

/// The prefix of every environment variable of the server.
pub(super) const VARIABLE_PREFIX: &str = "NOEX_";

/// The environment variable of a key: `maxPayloadBytes` gives `NOEX_MAX_PAYLOAD_BYTES`.
pub(super) fn variable_of(key: &str) -> String {
    let mut name = VARIABLE_PREFIX.to_owned();
    for letter in key.chars() {
        match letter {
            '.' => name.push('_'),
            _ if letter.is_ascii_uppercase() => name.extend(['_', letter]),
            _ => name.push(letter.to_ascii_uppercase()),
        }
    }
    name
}

/// The candidate that the written name is probably a slip of.
pub(crate) fn nearest<T: AsRef<str>>(written: &str, candidates: impl IntoIterator<Item = T>) -> Option<T> {
    let written = folded(written);
    // A third of the letters may be wrong; more than that is another word.
    let tolerance = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, &folded(candidate.as_ref())), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A name without what people mix up: case, and how words are joined.
fn folded(name: &str) -> String {
    name.chars()
        .filter(|letter| !matches!(letter, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let names = ["port", "path", "maxPayloadBytes", "maxConnections", "maxConnectionsPerIp"];
        let check = |written, expected| assert_eq!(nearest(written, names), expected, "{written}");
        check("maxPayloadBites", Some("maxPayloadBytes"));
        check("max_payload_bytes", Some("maxPayloadBytes"));
        check("MAX-CONNECTIONS", Some("maxConnections"));
        check("maxConnectionPerIp", Some("maxConnectionsPerIp"));
        check("prot", Some("port"));
        check("pth", Some("path"));
        check("colour", None);
        check("", None);
    }

    #[test]
    fn a_key_is_upper_snake_case_in_the_environment() {
        assert_eq!(variable_of("port"), "NOEX_PORT");
        assert_eq!(variable_of("maxConnectionsPerIp"), "NOEX_MAX_CONNECTIONS_PER_IP");
        assert_eq!(variable_of("heartbeat.intervalMs"), "NOEX_HEARTBEAT_INTERVAL_MS");
    }
}
