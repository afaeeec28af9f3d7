//! A configuration that is being put together.

use std::path::PathBuf;
use std::time::Duration;

use super::secrets::SecretSources;
use super::{
    AuditConfig, AuthConfig, BuiltInConfig, Config, JwtConfig, LogConfig, PermissionsConfig, RateLimitConfig, Storage, SyncPolicy,
};

/// A configuration that is being put together: as [`Config`], with what several keys make up still apart.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) log: LogConfig,
    pub(super) host: Option<String>,
    pub(super) durability: Durability,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) sync_interval: Option<Duration>,
    pub(super) jwt_secret: SecretSources,
    pub(super) admin_secret: SecretSources,
    /// The file turns on the rule engine.
    pub(super) asks_for_rules: bool,
}

/// The level of durability by its name.
#[derive(Clone, Copy, Default)]
pub(super) enum Durability {
    #[default]
    Sync,
    Interval,
    Memory,
}

impl Draft {
    /// The rate limits, which are on from now.
    pub(super) fn rate_limit(&mut self) -> &mut RateLimitConfig {
        self.config.rate_limit.get_or_insert_default()
    }

    /// Who may log in; from now on somebody has to.
    pub(super) fn auth(&mut self) -> &mut AuthConfig {
        self.config.auth.get_or_insert_default()
    }

    /// Signed tokens, which are accepted from now on.
    pub(super) fn jwt(&mut self) -> &mut JwtConfig {
        self.auth().jwt.get_or_insert_default()
    }

    /// Users of our own, whom there are from now on.
    pub(super) fn built_in(&mut self) -> &mut BuiltInConfig {
        self.auth().built_in.get_or_insert_default()
    }

    /// The permissions of tokens, which are looked at from now on.
    pub(super) fn permissions(&mut self) -> &mut PermissionsConfig {
        self.auth().permissions.get_or_insert_default()
    }

    /// The audit log, which is on from now.
    pub(super) fn audit(&mut self) -> &mut AuditConfig {
        self.config.audit.get_or_insert_default()
    }

    /// The whole configuration.
    pub(super) fn finish(self) -> (Config, LogConfig) {
        let dir = self.data_dir.unwrap_or_else(|| Config::DEFAULT_DATA_DIR.into());
        let interval = self.sync_interval.unwrap_or(Config::DEFAULT_SYNC_INTERVAL);
        let storage = match self.durability {
            Durability::Sync => Storage::Disk {
                dir,
                sync: SyncPolicy::EveryGroup,
            },
            Durability::Interval => Storage::Disk {
                dir,
                sync: SyncPolicy::Interval(interval),
            },
            Durability::Memory => Storage::Memory,
        };
        // Whoever asks for logins means others than this machine.
        let by_default = if self.config.auth.is_some() {
            "0.0.0.0"
        } else {
            Config::DEFAULT_HOST
        };
        let host = self.host.unwrap_or_else(|| by_default.to_owned());
        (
            Config {
                host,
                storage,
                ..self.config
            },
            self.log,
        )
    }
}
