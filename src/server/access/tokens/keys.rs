//! The keys that signed tokens are checked with.
//!
//! A key is for one algorithm, which follows from what the key is and from nothing that a token says. So a public key
//! is never taken for a secret, and a secret never for a public key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::server::config::{JwtAlgorithm, JwtConfig};

/// The largest file of keys.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most keys of one file.
const KEYS_MAX: usize = 100;
/// The most keys without a name. All of them may have to be tried, by whoever likes to send tokens.
const UNNAMED_KEYS_MAX: usize = 8;
/// The shortest secret, in bytes.
pub(crate) const SECRET_BYTES_MIN: usize = 32;
/// The sizes of RSA keys that are taken: smaller ones can be broken, larger ones the implementation refuses.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why keys cannot be used: the key of the configuration that names them, and what is wrong. Nothing of the keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {problem}")]
pub struct KeyFault {
    /// The key of the configuration.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

impl KeyFault {
    pub(crate) fn new(place: &str, problem: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            problem: problem.into(),
        }
    }
}

/// What a key is known by: its algorithm, its name and itself, digested.
pub(super) type Fingerprint = [u8; 32];

/// A key to check signatures with.
pub(super) struct Key {
    pub(super) algorithm: JwtAlgorithm,
    /// The name that tokens ask for it by.
    pub(super) kid: Option<String>,
    pub(super) material: DecodingKey,
    pub(super) fingerprint: Fingerprint,
}

impl Key {
    fn new(kid: Option<String>, material: DecodingKey, algorithm: JwtAlgorithm) -> Self {
        let mut digest = Sha256::new();
        digest.update([algorithm as u8, u8::from(kid.is_some())]);
        digest.update(Sha256::digest(kid.as_deref().unwrap_or_default().as_bytes()));
        match material.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => digest.update(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                digest.update(Sha256::digest(n));
                digest.update(e);
            }
        }
        Self {
            algorithm,
            kid,
            material,
            fingerprint: digest.finalize().into(),
        }
    }
}

/// The name of an algorithm on the wire.
pub(super) const fn wire(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// All keys of a configuration.
///
/// # Errors
/// The first that cannot be used.
pub(super) fn load(config: &JwtConfig) -> Result<Vec<Key>, KeyFault> {
    let mut keys = Vec::new();
    let is_listed = |algorithm| config.algorithms.contains(&algorithm);
    if let Some(secret) = &config.secret {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(short_secret());
        }
        if !is_listed(JwtAlgorithm::Hs256) {
            return Err(unlisted("auth.jwt.secret", JwtAlgorithm::Hs256));
        }
        keys.push(Key::new(None, DecodingKey::from_secret(bytes), JwtAlgorithm::Hs256));
    }
    if let Some(path) = &config.public_key_file {
        const PLACE: &str = "auth.jwt.publicKeyFile";
        let key = read_pem(&read_file(path, PLACE)?).map_err(|problem| of_file(PLACE, path, problem))?;
        if !is_listed(key.algorithm) {
            return Err(unlisted(PLACE, key.algorithm));
        }
        keys.push(key);
    }
    if let Some(path) = &config.jwks_file {
        const PLACE: &str = "auth.jwt.jwksFile";
        let named = read_jwks(&read_file(path, PLACE)?, &config.algorithms).map_err(|problem| of_file(PLACE, path, problem))?;
        keys.extend(named);
    }
    if keys.is_empty() {
        return Err(KeyFault::new(
            "auth.jwt",
            "expected a \"secret\", a \"publicKeyFile\" or a \"jwksFile\" with a key for one of its \"algorithms\"",
        ));
    }
    if keys.iter().filter(|key| key.kid.is_none()).count() > UNNAMED_KEYS_MAX {
        return Err(KeyFault::new(
            "auth.jwt",
            format!("expected at most {UNNAMED_KEYS_MAX} keys without a \"kid\""),
        ));
    }
    Ok(keys)
}

pub(super) fn short_secret() -> KeyFault {
    KeyFault::new("auth.jwt.secret", format!("expected at least {SECRET_BYTES_MIN} bytes"))
}

fn unlisted(place: &str, algorithm: JwtAlgorithm) -> KeyFault {
    let name = wire(algorithm);
    KeyFault::new(
        place,
        format!("this is a key for {name:?}, which \"auth.jwt.algorithms\" does not list"),
    )
}

fn of_file(place: &str, path: &Path, problem: String) -> KeyFault {
    KeyFault::new(place, format!("{}: {problem}", path.display()))
}

/// Reads a file of keys, up to a bound. `place` is who names it.
///
/// # Errors
/// What the system says, with the file.
pub(crate) fn read_file(path: &Path, place: &str) -> Result<String, KeyFault> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 <= FILE_BYTES_MAX => Ok(text),
        Ok(_) => Err(of_file(place, path, format!("larger than {FILE_BYTES_MAX} bytes"))),
        Err(error) => Err(of_file(place, path, error.to_string())),
    }
}

fn read_pem(text: &str) -> Result<Key, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("this is a private key; tokens are checked with the public one".to_owned());
    }
    if !text.contains("PUBLIC KEY-----") {
        return Err("expected a public key in PEM".to_owned());
    }
    let pem = text.as_bytes();
    let (material, algorithm) = if let Ok(material) = DecodingKey::from_ed_pem(pem) {
        (material, JwtAlgorithm::EdDsa)
    } else if let Ok(material) = DecodingKey::from_ec_pem(pem) {
        (material, JwtAlgorithm::Es256)
    } else {
        let material = DecodingKey::from_rsa_pem(pem).map_err(|_| "expected a public key of RSA, P-256 or Ed25519 in PEM".to_owned())?;
        (material, JwtAlgorithm::Rs256)
    };
    check_material(&material, algorithm)?;
    Ok(Key::new(None, material, algorithm))
}

/// What the implementation would find out only when a token comes, or not at all.
fn check_material(material: &DecodingKey, algorithm: JwtAlgorithm) -> Result<(), String> {
    let is_sound = match (algorithm, material.kind()) {
        (JwtAlgorithm::Hs256, DecodingKeyKind::SecretOrDer(secret)) => {
            return if secret.len() < SECRET_BYTES_MIN {
                Err(format!("expected secrets of at least {SECRET_BYTES_MIN} bytes"))
            } else {
                Ok(())
            };
        }
        (JwtAlgorithm::Rs256, DecodingKeyKind::SecretOrDer(der)) => {
            let bits = modulus(der).map(|modulus| modulus.len() * 8);
            return bits.ok_or_else(|| "the RSA key is malformed".to_owned()).and_then(check_rsa_bits);
        }
        (JwtAlgorithm::Rs256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            return check_rsa_bits((n.len() - zeros) * 8);
        }
        // A point that is not compressed, on the curve of ES256.
        (JwtAlgorithm::Es256, DecodingKeyKind::SecretOrDer(point)) => {
            point.len() == 65 && point[0] == 4 && is_accepted(material, algorithm)
        }
        (JwtAlgorithm::EdDsa, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32 && is_accepted(material, algorithm),
        (JwtAlgorithm::Hs256 | JwtAlgorithm::Es256 | JwtAlgorithm::EdDsa, DecodingKeyKind::RsaModulusExponent { .. }) => false,
    };
    if is_sound {
        Ok(())
    } else {
        Err(format!("expected a public key for {:?}", wire(algorithm)))
    }
}

fn check_rsa_bits(bits: usize) -> Result<(), String> {
    if RSA_BITS.contains(&bits) {
        Ok(())
    } else {
        Err(format!("expected RSA keys of {} to {} bits", RSA_BITS.start(), RSA_BITS.end()))
    }
}

/// The modulus of an RSA public key in DER: a sequence whose first element is an integer.
fn modulus(der: &[u8]) -> Option<&[u8]> {
    let sequence = der_content(der, 0x30)?;
    let integer = der_content(sequence, 0x02)?;
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    Some(&integer[zeros..])
}

/// The content of the first element, where it has this tag.
fn der_content(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (&first, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first().filter(|_| first == tag)?;
    if short < 0x80 {
        return rest.get(..usize::from(short));
    }
    let (length, content) = rest
        .split_at_checked(usize::from(short & 0x7f))
        .filter(|(length, _)| length.len() <= 4)?;
    let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    content.get(..length)
}

/// Whether the implementation takes the key, as it shows when it is given a signature that is not one.
fn is_accepted(material: &DecodingKey, algorithm: JwtAlgorithm) -> bool {
    use jsonwebtoken::errors::ErrorKind;
    let signature = "A".repeat(86);
    let refusal = jsonwebtoken::crypto::verify(&signature, b"", material, wire(algorithm));
    match refusal {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::InvalidEcdsaKey | ErrorKind::InvalidEddsaKey | ErrorKind::InvalidKeyFormat
        ),
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The keys of a set that are for signatures by one of the algorithms. A set may hold others.
fn read_jwks(text: &str, algorithms: &[JwtAlgorithm]) -> Result<Vec<Key>, String> {
    let set: KeySet = serde_json::from_str(text).map_err(|_| "expected JSON with a list \"keys\"".to_owned())?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("expected at most {KEYS_MAX} keys"));
    }
    let mut keys: Vec<Key> = Vec::new();
    for (at, key) in set.keys.into_iter().enumerate() {
        let Some(key) = read_jwk(key, algorithms).map_err(|problem| format!("keys[{at}]: {problem}"))? else {
            continue;
        };
        if key.kid.is_some() && keys.iter().any(|other| other.kid == key.kid) {
            return Err(format!("keys[{at}]: another key has the same \"kid\""));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn read_jwk(key: Value, algorithms: &[JwtAlgorithm]) -> Result<Option<Key>, String> {
    let jwk: Jwk = serde_json::from_value(key).map_err(|_| "malformed".to_owned())?;
    if jwk
        .common
        .public_key_use
        .as_ref()
        .is_some_and(|usage| *usage != PublicKeyUse::Signature)
    {
        return Ok(None);
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => (JwtAlgorithm::Hs256, KeyAlgorithm::HS256),
        AlgorithmParameters::RSA(_) => (JwtAlgorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => (JwtAlgorithm::Es256, KeyAlgorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => (JwtAlgorithm::EdDsa, KeyAlgorithm::EdDSA),
        // Other curves, and kinds of keys that have come since.
        AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_) | AlgorithmParameters::Other(_) | _ => {
            return Ok(None);
        }
    };
    if !algorithms.contains(&algorithm) || jwk.common.key_algorithm.is_some_and(|it| it != named) {
        return Ok(None);
    }
    let material = DecodingKey::from_jwk(&jwk).map_err(|_| "malformed".to_owned())?;
    check_material(&material, algorithm)?;
    let kid = jwk.common.key_id.filter(|kid| !kid.is_empty());
    Ok(Some(Key::new(kid, material, algorithm)))
}
