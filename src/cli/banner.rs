//! What is printed on standard output once the server listens.

use std::net::SocketAddr;

use crate::server::config::{AuditConfig, AuthConfig, Config, Storage, SyncPolicy};

/// The banner. Its first line with `ws://` ends in the real port: scripts read it.
pub(super) fn banner(config: &Config, address: SocketAddr) -> String {
    let host = if config.host.contains(':') {
        format!("[{}]", config.host)
    } else {
        config.host.clone()
    };
    let (data, durability) = match &config.storage {
        Storage::Memory => ("nowhere".to_owned(), "memory".to_owned()),
        Storage::Disk {
            dir,
            sync: SyncPolicy::EveryGroup,
        } => (dir.display().to_string(), "sync".to_owned()),
        Storage::Disk {
            dir,
            sync: SyncPolicy::Interval(time),
        } => (dir.display().to_string(), format!("interval ({} ms)", time.as_millis())),
    };
    let lines = [
        ("URL", format!("ws://{host}:{}", address.port())),
        ("Path", config.path.clone()),
        ("Data", data),
        ("Durability", durability),
        ("Auth", config.auth.as_ref().map_or_else(|| "disabled".to_owned(), logins)),
        ("Audit", config.audit.as_ref().map_or_else(|| "disabled".to_owned(), audit)),
        (
            "Error details",
            if config.expose_error_details { "exposed" } else { "hidden" }.to_owned(),
        ),
        (
            "Origins",
            config
                .allowed_origins
                .as_ref()
                .map_or_else(|| "any".to_owned(), |origins| origins.join(", ")),
        ),
        (
            "Max conn/IP",
            config
                .max_connections_per_ip
                .map_or_else(|| "unlimited".to_owned(), |number| number.to_string()),
        ),
    ];
    let mut banner = format!("noex-server v{}\n", env!("CARGO_PKG_VERSION"));
    for (label, text) in lines {
        banner.push_str(&format!("  {:<13} {text}\n", format!("{label}:")));
    }
    banner
}

/// How people log in.
fn logins(auth: &AuthConfig) -> String {
    let ways = [
        (auth.built_in.is_some(), "built-in users"),
        (auth.jwt.is_some(), "signed tokens"),
        (!auth.tokens.is_empty(), "static tokens"),
        (!auth.required, "not required"),
    ];
    let ways = ways.into_iter().filter_map(|(is_on, name)| is_on.then_some(name));
    ways.collect::<Vec<_>>().join(", ")
}

fn audit(audit: &AuditConfig) -> String {
    match &audit.file {
        None => "enabled".to_owned(),
        Some(file) => format!("enabled, in {}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::server::config::JwtConfig;

    use super::*;

    #[test]
    fn the_banner_names_the_real_port_and_what_is_on() {
        insta::assert_snapshot!(banner(
            &Config {
                port: 0,
                ..Config::default()
            },
            ([127, 0, 0, 1], 41234).into()
        ));
    }

    #[test]
    fn the_banner_shows_what_was_configured() {
        let config = Config {
            host: "::1".to_owned(),
            path: "/live".to_owned(),
            storage: Storage::Disk {
                dir: "data".into(),
                sync: SyncPolicy::Interval(Duration::from_millis(50)),
            },
            expose_error_details: false,
            allowed_origins: Some(vec!["https://a.example".to_owned(), "null".to_owned()]),
            max_connections_per_ip: Some(8),
            auth: Some(AuthConfig {
                required: false,
                jwt: Some(JwtConfig::default()),
                ..AuthConfig::default()
            }),
            audit: Some(AuditConfig {
                file: Some("audit.jsonl".into()),
                ..AuditConfig::default()
            }),
            ..Config::default()
        };
        insta::assert_snapshot!(banner(&config, (std::net::Ipv6Addr::LOCALHOST, 8080).into()));
    }

    #[test]
    fn the_first_line_with_an_address_ends_in_the_port() {
        let banner = banner(
            &Config {
                path: "/ws://9".to_owned(),
                ..Config::default()
            },
            ([127, 0, 0, 1], 7).into(),
        );
        let line = banner.lines().find(|line| line.contains("ws://")).unwrap();
        assert!(line.ends_with("ws://127.0.0.1:7"), "{line}");
    }
}
