//! `noex-server token`: a signed token, so that a first try needs no other program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::server::access::tokens::keys::read_file;
use crate::server::access::tokens::mint::{LIFETIME_DEFAULT, Signer, TokenOrder, read_lifetime};
use crate::server::config::{JwtConfig, Secret, Sources};
use crate::server::wall_clock_ms;

/// The variable that holds the secret where no configuration names another one.
const SECRET_VARIABLE: &str = "NOEX_JWT_SECRET";

/// Make a signed token and print it
///
/// Signed with the secret of the configuration file or of the variable NOEX_JWT_SECRET, or with a private key. Issuer,
/// audience and the names of claims are those of the file.
#[derive(Debug, Default, clap::Args)]
pub(super) struct TokenArgs {
    /// The user that the token is for
    #[arg(long, value_name = "USER")]
    sub: String,

    /// A role of the user; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// How long the token holds: 90s, 15m, 1h, 30d [default: 1h]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    expires: Option<String>,

    /// A further claim, as JSON or else as text; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,

    /// Configuration file, .json or .toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Private key to sign with instead of the secret, in PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Name of the key, for servers that know several
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
}

/// Makes the token.
///
/// # Errors
/// What has to be given, or given otherwise. Nothing of secrets and keys.
pub(super) fn make(args: &TokenArgs, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Secret, String> {
    let jwt = jwt_config(args.config.as_deref(), variables)?;
    let order = TokenOrder {
        user: Some(args.sub.clone())
            .filter(|user| !user.is_empty())
            .ok_or("--sub: expected the name of a user")?,
        roles: args.roles.clone(),
        lifetime: match &args.expires {
            None => LIFETIME_DEFAULT,
            Some(text) => read_lifetime(text)
                .ok_or_else(|| format!("--expires: expected a time such as 90s, 15m, 1h or 30d, of ten years at most, found {text:?}"))?,
        },
        claims: further_claims(&args.claims, &jwt)?,
    };
    let signer = signer(args.key_file.as_deref(), &jwt)?.naming(args.kid.clone());
    Ok(signer.mint(order, wall_clock_ms())?.token)
}

fn signer(key_file: Option<&Path>, jwt: &JwtConfig) -> Result<Signer, String> {
    if let Some(file) = key_file {
        let pem = read_file(file, "--key-file").map_err(|fault| fault.to_string())?;
        return Signer::with_pem(jwt, &pem).map_err(|problem| format!("--key-file: {}: {problem}", file.display()));
    }
    match Signer::with_secret(jwt) {
        Ok(Some(signer)) => Ok(signer),
        Ok(None) => Err(format!(
            "there is nothing to sign with: set {SECRET_VARIABLE}, or give --config FILE with a secret, or --key-file FILE"
        )),
        Err(fault) => Err(fault.to_string()),
    }
}

/// What the configuration says of signed tokens, or what the variable says alone where it says nothing.
fn jwt_config(file: Option<&Path>, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<JwtConfig, String> {
    let variables: Vec<_> = variables.into_iter().collect();
    let mut sources = Sources::new().variables(variables.iter().cloned());
    if let Some(file) = file {
        sources = sources.file(file);
    }
    let resolved = sources.resolve().map_err(|error| error.to_string())?;
    if let Some(jwt) = resolved.config.auth.and_then(|auth| auth.jwt) {
        return Ok(jwt);
    }
    let secret = variables.iter().find(|(name, _)| name == SECRET_VARIABLE);
    let secret = secret.map(|(_, text)| text.to_str().ok_or_else(|| format!("{SECRET_VARIABLE}: expected UTF-8 text")));
    Ok(JwtConfig {
        secret: secret.transpose()?.map(Secret::from),
        ..JwtConfig::default()
    })
}

fn further_claims(written: &[String], jwt: &JwtConfig) -> Result<Map<String, Value>, String> {
    let ours = ["iat", "exp", "iss", "aud", &jwt.user_claim, &jwt.roles_claim];
    let mut claims = Map::new();
    for claim in written {
        let Some((name, value)) = claim.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("--claim: expected NAME=VALUE, found {claim:?}"));
        };
        if ours.contains(&name) {
            return Err(format!("--claim: {name:?} is set by other flags, or by the configuration"));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        claims.insert(name.to_owned(), value);
    }
    Ok(claims)
}
