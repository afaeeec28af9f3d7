//! Signed tokens: whose signature is good, and what they say.

use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::claims::{ClaimRules, Refusal};
use super::keys::{self, Fingerprint, Key, KeyFault};
use crate::server::access::Principal;
use crate::server::config::JwtConfig;

/// A token whose signature is good.
pub(super) struct Verified {
    pub(super) principal: Principal,
    /// What it was signed with.
    pub(super) key: Fingerprint,
    /// What it says, as JSON, to be judged again when the rules change. Nobody can log in with it.
    pub(super) claims: Box<str>,
}

/// Checks signed tokens.
pub(super) struct Verifier {
    keys: Vec<Key>,
    rules: ClaimRules,
}

impl Verifier {
    pub(super) fn new(config: &JwtConfig) -> Result<Self, KeyFault> {
        Ok(Self {
            keys: keys::load(config)?,
            rules: ClaimRules::from(config),
        })
    }

    /// Checks a token by those keys alone that it may have been signed with: of its algorithm, and of the name that it
    /// gives, or without a name where it gives none.
    pub(super) fn verify(&self, token: &str, now_ms: u64) -> Result<Verified, Refusal> {
        let header = decode_header(token).map_err(|_| Refusal::Invalid)?;
        // What must be understood, and is not.
        if header.crit.is_some() {
            return Err(Refusal::Invalid);
        }
        let (key, claims) = self
            .keys
            .iter()
            .filter(|key| keys::wire(key.algorithm) == header.alg && key.kid == header.kid)
            .find_map(|key| Some((key, signed_claims(token, key)?)))
            .ok_or(Refusal::Invalid)?;
        let json = serde_json::to_string(&claims).map_err(|_| Refusal::Invalid)?;
        Ok(Verified {
            principal: self.rules.principal(claims, now_ms)?,
            key: key.fingerprint,
            claims: json.into(),
        })
    }

    /// Judges a token anew that was signed with a key. None where the key is gone, or the claims will not do any more.
    pub(super) fn verify_again(&self, key: &Fingerprint, claims: &str, now_ms: u64) -> Option<Principal> {
        self.keys.iter().find(|known| known.fingerprint == *key)?;
        let claims = serde_json::from_str(claims).ok()?;
        self.rules.principal(claims, now_ms).ok()
    }
}

/// The claims where the signature is that of the key. What they say is judged by [`ClaimRules`] and by nobody else.
fn signed_claims(token: &str, key: &Key) -> Option<Map<String, Value>> {
    let mut validation = Validation::new(keys::wire(key.algorithm));
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    decode(token, &key.material, &validation).ok().map(|token| token.claims)
}
