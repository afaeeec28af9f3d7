//! A number for something that stays the same from one start of the server to the next.

/// FNV-1a over 64 bits: plain, and the same everywhere and for ever, which the standard hasher does not promise.
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    /// Begins with the kind of the thing.
    pub(super) fn of(kind: &str) -> Self {
        Self(Self::OFFSET).with(kind.as_bytes())
    }

    /// Takes a part in. Its length counts too, so that parts do not run into each other.
    #[must_use]
    pub(super) fn with(self, part: &[u8]) -> Self {
        let length = part.len() as u64;
        Self(
            length
                .to_le_bytes()
                .iter()
                .chain(part)
                .fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(Self::PRIME)),
        )
    }

    /// Takes a part in that not all things of the kind have.
    #[must_use]
    pub(super) fn with_any(self, part: Option<&[u8]>) -> Self {
        match part {
            None => self,
            Some(part) => self.with(part),
        }
    }

    pub(super) fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_for_ever() {
        assert_eq!(Fingerprint::of("query").with(b"all").finish(), 0x4828_1820_2316_e662);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |a: &str, b: &str| Fingerprint::of("x").with(a.as_bytes()).with(b.as_bytes()).finish();
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("", "a"), of("a", ""));
    }
}
