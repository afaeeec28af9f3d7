//! The one table of WebSocket close codes.

/// Why the server closes a connection. Released codes are never renamed or reused.
///
/// | code | reason | the client should |
/// |---|---|---|
/// | 1000 | `normal_closure` | do nothing: both sides are done |
/// | 1001 | `server_shutdown` | connect again after a pause, and subscribe again |
/// | 1002 | | be mended: its frames break the WebSocket protocol |
/// | 1003 | `binary_not_supported` | be mended: messages are text; not connect again by itself |
/// | 1007 | | be mended: its text is not UTF-8 |
/// | 1008 | `too_many_refused` | be mended: too many of its messages were malformed; connect again after a long pause |
/// | 1009 | | send smaller messages: `maxPayloadBytes` is the limit |
/// | 4001 | `heartbeat_timeout` | connect again at once, and answer every `ping` |
/// | 4002 | `session_revoked` | log in anew, by hand; not connect again by itself |
/// | 4003 | `too_many_connections` | close other connections first; not connect again by itself |
/// | 4004 | `too_slow` | connect again, and read faster or subscribe to less |
/// | 4005 | `login_timeout` | log in within `connectionLimits.unauthenticatedTimeoutMs` of connecting |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Both sides are done.
    Normal,
    /// The server stops.
    GoingAway,
    /// Frames that break the WebSocket protocol.
    Protocol,
    /// A binary message.
    BinaryNotSupported,
    /// A text message that is not UTF-8.
    InvalidUtf8,
    /// Too many messages that had to be refused.
    TooManyRefused,
    /// A message above `maxPayloadBytes`.
    TooLarge,
    /// No pong in time.
    HeartbeatTimeout,
    /// The session was taken away.
    SessionRevoked,
    /// More connections from one address than allowed.
    TooManyConnections,
    /// Too much unsent for too long.
    TooSlow,
    /// Nobody has logged in in time.
    Unauthenticated,
}

impl CloseCode {
    /// All codes, in ascending order.
    pub const ALL: [Self; 12] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::BinaryNotSupported,
        Self::InvalidUtf8,
        Self::TooManyRefused,
        Self::TooLarge,
        Self::HeartbeatTimeout,
        Self::SessionRevoked,
        Self::TooManyConnections,
        Self::TooSlow,
        Self::Unauthenticated,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::BinaryNotSupported => 1003,
            Self::InvalidUtf8 => 1007,
            Self::TooManyRefused => 1008,
            Self::TooLarge => 1009,
            Self::HeartbeatTimeout => 4001,
            Self::SessionRevoked => 4002,
            Self::TooManyConnections => 4003,
            Self::TooSlow => 4004,
            Self::Unauthenticated => 4005,
        }
    }

    /// The text on the wire; empty for faults of the WebSocket protocol itself.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "normal_closure",
            Self::GoingAway => "server_shutdown",
            Self::BinaryNotSupported => "binary_not_supported",
            Self::TooManyRefused => "too_many_refused",
            Self::Protocol | Self::InvalidUtf8 | Self::TooLarge => "",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::SessionRevoked => "session_revoked",
            Self::TooManyConnections => "too_many_connections",
            Self::TooSlow => "too_slow",
            Self::Unauthenticated => "login_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_fits_a_close_frame() {
        for pair in CloseCode::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code());
        }
        for close in CloseCode::ALL {
            // A close frame has 125 bytes, two of which are the code.
            assert!(close.reason().len() <= 123, "{close:?}");
        }
    }
}
