//! Forms of texts in the configuration.

use crate::server::admission::Network;

/// A form of texts.
pub(super) struct Form {
    /// What is expected, for people.
    pub(super) name: &'static str,
    /// Whether a text has it.
    pub(super) fits: fn(&str) -> bool,
}

pub(super) static HOST: Form = Form {
    name: "an address or a host name, without a port",
    fits: |text| match text.contains(':') {
        true => text.parse::<std::net::Ipv6Addr>().is_ok(),
        false => {
            !text.is_empty()
                && text
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_'))
        }
    },
};

pub(super) static PATH: Form = Form {
    name: "a path that begins with \"/\", without white space, \"?\" and \"#\"",
    fits: |text| text.starts_with('/') && text.chars().all(|letter| letter.is_ascii_graphic() && !matches!(letter, '?' | '#')),
};

pub(super) static NAME: Form = Form {
    name: "a text of 1 to 200 characters, none of them a control character",
    fits: |text| (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control),
};

pub(super) static DIRECTORY: Form = Form {
    name: "a directory",
    fits: |text| !text.is_empty() && !text.contains('\0'),
};

/// Origins are compared as they stand, so that one with a path or a wildcard would never let anybody in.
pub(super) static ORIGIN: Form = Form {
    name: "an origin such as \"https://app.example\", without a path and a final slash, or \"null\"",
    fits: |text| {
        let is_plain = |part: &str| !part.is_empty() && part.chars().all(|letter| letter.is_ascii_graphic() && !"/?#*".contains(letter));
        text == "null"
            || text
                .split_once("://")
                .is_some_and(|(scheme, host)| is_plain(scheme) && is_plain(host))
    },
};

pub(super) static NETWORK: Form = Form {
    name: "an address or a network, such as \"10.0.0.7\" or \"10.1.0.0/16\"",
    fits: |text| text.parse::<Network>().is_ok(),
};

pub(super) static FILE: Form = Form {
    name: "a file",
    fits: |text| !text.is_empty() && !text.contains('\0'),
};

pub(super) static VARIABLE: Form = Form {
    name: "the name of an environment variable",
    fits: |text| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
};

pub(super) static ROLE: Form = Form {
    name: "the name of a role, 1 to 256 bytes",
    fits: |text| (1..=256).contains(&text.len()),
};

pub(super) static CLAIM: Form = Form {
    name: "the name of a claim, 1 to 256 bytes",
    fits: |text| (1..=256).contains(&text.len()),
};

pub(super) static TEXT: Form = Form {
    name: "a text of 1 to 2048 bytes",
    fits: |text| (1..=2048).contains(&text.len()),
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: &Form, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!((form.fits)(text), "{text:?} is {}", form.name);
        }
        for text in bad {
            assert!(!(form.fits)(text), "{text:?} is not {}", form.name);
        }
    }

    #[test]
    fn forms_let_in_what_can_work_and_nothing_else() {
        check(
            &HOST,
            &["127.0.0.1", "::1", "::", "localhost", "node-1.internal"],
            &["", "a b", "127.0.0.1:80", "[::1]", "ws://x", "host/"],
        );
        check(
            &PATH,
            &["/", "/live", "/a/b%20c"],
            &["", "live", "/a b", "/live?x", "/live#x", "/é"],
        );
        check(&NAME, &["desk-7", "é"], &["", "a\nb"]);
        check(&FILE, &["key.pem", "/run/secrets/noex"], &["", "a\0b"]);
        check(&VARIABLE, &["NOEX_JWT_SECRET", "s3"], &["", "A-B", "$A", "A=B"]);
        check(&ROLE, &["clerk", "Lesende Gäste"], &["", &"x".repeat(257)]);
        check(&CLAIM, &["sub", "https://a.example/roles"], &["", &"x".repeat(257)]);
        check(&TEXT, &["*", "https://issuer.example"], &["", &"x".repeat(2049)]);
        check(&DIRECTORY, &["./noex-data", "/var/lib/noex"], &["", "a\0b"]);
        check(
            &ORIGIN,
            &["https://app.example", "http://localhost:3000", "null"],
            &[
                "",
                "app.example",
                "https://app.example/",
                "https://a.example/x",
                "*",
                "https://*.example",
                "://x",
                "https://",
            ],
        );
    }
}
