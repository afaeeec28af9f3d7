//! Session tokens and the ids of what is stored: random, and nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::server::access::{Secret, TokenDigest};
use crate::server::handlers::Failure;

/// A new token: 32 random bytes as text that fits into a URL.
///
/// # Errors
/// Where the system has no randomness to give.
pub(crate) fn new_token() -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    fill(bytes.as_mut_slice())?;
    Ok(Secret::from(URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

/// A new id.
///
/// # Errors
/// Where the system has no randomness to give.
pub(crate) fn new_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

/// A number for an incarnation of a name in the store: none that a commit may have.
///
/// # Errors
/// Where the system has no randomness to give.
pub(crate) fn new_incarnation() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes) | 1 << 63)
}

pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(bytes).map_err(|error| {
        tracing::error!(%error, "the system has no randomness to give");
        Failure::internal()
    })
}

/// A digest as it is stored.
pub(crate) fn write_digest(digest: &TokenDigest) -> String {
    URL_SAFE_NO_PAD.encode(digest.bytes())
}

pub(crate) fn read_digest(text: &str) -> Option<TokenDigest> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 32]>::try_from(bytes).ok().map(TokenDigest::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_43_characters_for_urls_and_never_the_same() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), 43);
        assert!(
            one.expose()
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn digests_are_read_as_they_were_written() {
        let digest = TokenDigest::of("token");
        assert_eq!(read_digest(&write_digest(&digest)), Some(digest));
        for malformed in ["", "AAAA", &"A".repeat(44), "no base64 at all, but long enough to be some"] {
            assert_eq!(read_digest(malformed), None);
        }
    }
}
