//! Why the server does not start.

use std::error::Error;
use std::io;

use super::access::KeyFault;
use super::config::ConfigError;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration is out of bounds, or a definition in it is malformed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key that tokens are to be checked with cannot be used.
    #[error("the configuration's keys cannot be used: {0}")]
    Keys(#[from] KeyFault),
    /// Users of our own are configured without a secret for the first of them, and no superadmin is stored who could log in.
    #[error(
        "--admin-secret is required when --auth is enabled: no superadmin is stored who could log in. \
         The environment variable NOEX_ADMIN_SECRET and \"auth.builtIn.adminSecretFile\" are places for it too"
    )]
    NobodyCanLogIn,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Host and port as configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be opened, is in use by another process, or is damaged.
    #[error("{0}")]
    Storage(#[source] Box<dyn Error + Send + Sync>),
    /// A bucket or a query of the configuration is refused by what is stored.
    #[error("the configuration's definitions are refused: {}", .0.join("; "))]
    Definitions(Vec<String>),
    /// Anything else: an actor that cannot be started, say.
    #[error("{0}")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl StartError {
    /// The exit status of a program that ends because of it.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Config(_) | Self::Keys(_) | Self::NobodyCanLogIn | Self::Definitions(_) => 2,
            Self::Storage(_) => 3,
            Self::Bind { .. } => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_exit_status_of_the_contract() {
        let check = |error: StartError, status: u8| assert_eq!(error.exit_status(), status, "{error}");
        check(StartError::Internal("actor".into()), 1);
        check(
            StartError::Definitions(vec!["query \"q\" reads bucket \"b\", which is not defined".to_owned()]),
            2,
        );
        check(StartError::NobodyCanLogIn, 2);
        check(StartError::Storage("in use".into()), 3);
        check(
            StartError::Bind {
                address: "127.0.0.1:80".to_owned(),
                source: io::ErrorKind::PermissionDenied.into(),
            },
            4,
        );
    }
}
