//! Whom a quota belongs to.

use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest, Sha256};

/// Whom a quota belongs to. Every kind is a variant, so that no two kinds can be taken for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Identity {
    /// One address.
    Address(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: whoever has one of the addresses behind them mostly has all.
    Network(u64),
    /// A user who is logged in, by a digest of the name.
    User([u8; 16]),
}

impl Identity {
    /// The identity of a user.
    pub(crate) fn of_user(user: &str) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(user.as_bytes())[..16]);
        Self::User(digest)
    }
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Address(address),
            IpAddr::V6(address) => Self::Network((u128::from(address) >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_are_one_identity() {
        let check = |one: &str, other: &str, same: bool| {
            let identity = |text: &str| Identity::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(identity(one) == identity(other), same, "{one} {other}");
        };
        check("10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1", "10.0.0.2", false);
        check("10.0.0.1", "::ffff:10.0.0.1", true);
        check("2001:db8::1", "2001:db8::ffff:1", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("::1", "0.0.0.1", false);
    }
}
