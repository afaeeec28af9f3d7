//! Texts that must not be seen.

use std::fmt;

/// A text that is shown nowhere: neither in logs nor in errors nor by `Debug`. Wiped when it is dropped, and compared
/// in a time that does not depend on where two of them differ.
#[derive(Clone)]
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// The text, to be handed on to what needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl PartialEq for Secret {
    /// Compares digests, so that not even the length shows in the time.
    fn eq(&self, other: &Self) -> bool {
        use sha2::{Digest, Sha256};
        use subtle::ConstantTimeEq;
        let digest = |secret: &Self| Sha256::digest(secret.expose().as_bytes());
        digest(self).ct_eq(&digest(other)).into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_equal_by_their_text_and_do_not_show_it() {
        let secret = Secret::from("hunter2");
        assert_eq!(secret, Secret::from("hunter2"));
        assert_ne!(secret, Secret::from("hunter3"));
        assert_ne!(secret, Secret::from("hunter22"));
        assert_eq!(format!("{secret:?}"), "…");
    }
}
