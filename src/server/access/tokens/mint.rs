//! Making signed tokens: for first tries, for tests, and for programs that have no issuer of their own.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};

use super::keys::{KeyFault, SECRET_BYTES_MIN};
use super::{TOKEN_BYTES_MAX, keys};
use crate::server::access::Secret;
use crate::server::config::JwtConfig;
use crate::server::millis;

/// The longest that a token may be made to last: ten years.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a token lasts where nobody says otherwise.
pub(crate) const LIFETIME_DEFAULT: Duration = Duration::from_secs(3600);

/// What a token is to say.
pub(crate) struct TokenOrder {
    /// The user, not empty.
    pub(crate) user: String,
    pub(crate) roles: Vec<String>,
    pub(crate) lifetime: Duration,
    /// Further claims. They replace none of those that are made.
    pub(crate) claims: Map<String, Value>,
}

/// A token that was made.
pub(crate) struct Minted {
    pub(crate) token: Secret,
    /// The last millisecond that it holds, since 1970.
    pub(crate) expires_at: u64,
}

/// Signs tokens as a configuration takes them.
pub(crate) struct Signer {
    header: Header,
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
    user_claim: String,
    roles_claim: String,
}

impl Signer {
    /// Signs with the secret of a configuration; none where it has none.
    ///
    /// # Errors
    /// Where the secret is too short for anybody to take the tokens.
    pub(crate) fn with_secret(config: &JwtConfig) -> Result<Option<Self>, KeyFault> {
        let Some(secret) = &config.secret else { return Ok(None) };
        let secret = secret.expose().as_bytes();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(keys::short_secret());
        }
        Ok(Some(Self::new(config, Algorithm::HS256, EncodingKey::from_secret(secret))))
    }

    /// Signs with a private key in PEM: RSA in PKCS#1 or PKCS#8, P-256 and Ed25519 in PKCS#8.
    ///
    /// # Errors
    /// What is wrong with the key; nothing of it.
    pub(crate) fn with_pem(config: &JwtConfig, pem: &str) -> Result<Self, String> {
        if pem.contains("BEGIN EC PRIVATE KEY") {
            return Err("this form of a key is not read; \"openssl pkcs8 -topk8 -nocrypt\" converts it".to_owned());
        }
        if pem.contains("ENCRYPTED") {
            return Err("the key is encrypted; it has to be given without a password".to_owned());
        }
        if !pem.contains("PRIVATE KEY-----") {
            return Err("expected a private key in PEM".to_owned());
        }
        let pem = pem.as_bytes();
        let (algorithm, key) = if let Ok(key) = EncodingKey::from_ed_pem(pem) {
            (Algorithm::EdDSA, key)
        } else if let Ok(key) = EncodingKey::from_ec_pem(pem) {
            (Algorithm::ES256, key)
        } else {
            let key = EncodingKey::from_rsa_pem(pem).map_err(|_| UNUSABLE.to_owned())?;
            (Algorithm::RS256, key)
        };
        // A curve that is not ours, say, shows only when something is signed.
        jsonwebtoken::crypto::sign(b"", &key, algorithm).map_err(|_| UNUSABLE.to_owned())?;
        Ok(Self::new(config, algorithm, key))
    }

    fn new(config: &JwtConfig, algorithm: Algorithm, key: EncodingKey) -> Self {
        Self {
            header: Header::new(algorithm),
            key,
            issuer: config.issuer.clone(),
            audience: config.audience.clone().filter(|audience| audience != "*"),
            user_claim: config.user_claim.clone(),
            roles_claim: config.roles_claim.clone(),
        }
    }

    /// The same, naming the key in every token.
    pub(crate) fn naming(mut self, kid: Option<String>) -> Self {
        self.header.kid = kid;
        self
    }

    /// Makes a token.
    ///
    /// # Errors
    /// Where it would be refused for its size, or cannot be signed.
    pub(crate) fn mint(&self, order: TokenOrder, now_ms: u64) -> Result<Minted, String> {
        let issued_at = now_ms / 1000;
        // Rounded up: a token that is to last for a second lasts for one at least.
        let ends = now_ms.saturating_add(millis(order.lifetime)).div_ceil(1000);
        let mut claims = order.claims;
        let ours = [
            (self.user_claim.as_str(), Some(Value::from(order.user))),
            (self.roles_claim.as_str(), Some(Value::from(order.roles))),
            ("iss", self.issuer.clone().map(Value::from)),
            ("aud", self.audience.clone().map(Value::from)),
            ("iat", Some(Value::from(issued_at))),
            ("exp", Some(Value::from(ends))),
        ];
        for (name, value) in ours {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value);
            }
        }
        let token = encode(&self.header, &claims, &self.key).map_err(|_| "the token cannot be signed with this key".to_owned())?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!(
                "the token would be longer than {TOKEN_BYTES_MAX} bytes, which no server takes"
            ));
        }
        Ok(Minted {
            token: token.into(),
            expires_at: ends * 1000,
        })
    }
}

const UNUSABLE: &str = "expected a private key of RSA, P-256 or Ed25519 in PEM";

/// Reads how long a token is to last: whole seconds, or a number with a unit: `90s`, `15m`, `1h`, `30d`.
pub(crate) fn read_lifetime(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    lifetime_of_seconds(number.parse::<u64>().ok()?.checked_mul(factor)?)
}

/// A lifetime within the bounds.
pub(crate) fn lifetime_of_seconds(seconds: u64) -> Option<Duration> {
    (1..=LIFETIME_MAX.as_secs())
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_seconds_or_have_a_unit() {
        let seconds = |text| read_lifetime(text).map(|lifetime| lifetime.as_secs());
        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("1h"), Some(3600));
        assert_eq!(seconds("3650d"), Some(LIFETIME_MAX.as_secs()));
        for wrong in [
            "",
            "0",
            "0h",
            "h",
            "1w",
            "-1h",
            "+1h",
            "1.5h",
            " 1h",
            "1 h",
            "1H",
            "3651d",
            "99999999999999999999h",
            "18446744073709551615d",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
