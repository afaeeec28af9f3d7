//! Who comes in, and how much they may ask for.
//!
//! A client is known by its address: that of its socket, or the one that a trusted proxy names (`trusted_proxies`).
//! Each address has quotas (`rate_limits`): of new connections, of requests, and of messages that are refused for
//! their form. What is left of them is kept in bounded memory (`accounts`). How fast sockets are taken in at all is
//! a matter of its own (`pacing`), and so is who has room among those that are not connections yet (`handshakes`).
//!
//! Nothing here knows a socket or a store, and time comes from one clock.

mod accounts;
mod clock;
mod handshakes;
mod identity;
mod pacing;
mod rate_limits;
mod trusted_proxies;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use hyper::HeaderMap;
use tokio::time::Sleep;

pub(crate) use self::handshakes::{Handshakes, Origin, Room};
pub(crate) use self::pacing::{AcceptPace, Seldom};
pub(crate) use self::trusted_proxies::Network;

use self::accounts::Held;
use self::handshakes::ClientOrigin;
use self::identity::Identity;
use self::rate_limits::RateLimits;
use self::trusted_proxies::TrustedProxies;
use super::config::Config;
use super::handlers::Failure;
use crate::protocol::{CloseCode, Request};

/// How many requests over its quota a connection may send before it is not read for [`REFUSAL_PAUSE`].
const REFUSALS_UNPAUSED: u8 = 64;

/// What keeps a flood of requests over the quota from costing whatever the client likes: some six thousand of them are
/// answered in a second, and TCP holds up the rest.
const REFUSAL_PAUSE: Duration = Duration::from_millis(10);

/// Decides who comes in.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    proxies: TrustedProxies,
    limits: Option<Arc<RateLimits>>,
}

impl From<&Config> for Gatekeeper {
    fn from(config: &Config) -> Self {
        Self {
            proxies: TrustedProxies::new(&config.trusted_proxies),
            limits: config.rate_limit.as_ref().map(|limit| Arc::new(RateLimits::new(limit))),
        }
    }
}

impl Gatekeeper {
    /// Whose a fresh socket is, as far as its address tells.
    pub(crate) fn origin(&self, peer: IpAddr) -> Origin {
        if self.proxies.trusts(peer.to_canonical()) {
            Origin::Proxy
        } else {
            Origin::Client(ClientOrigin(Identity::from(peer)))
        }
    }

    /// Lets in the client behind a socket, by the head of its request.
    ///
    /// # Errors
    /// How long to wait where its address has opened as many connections as it may.
    pub(crate) fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Admission, Duration> {
        let address = self.proxies.client_address(peer, headers);
        let member = self
            .limits
            .as_ref()
            .map(|limits| limits.open(Identity::from(address)))
            .transpose()?;
        Ok(Admission {
            address,
            member,
            refusals: 0,
            pause: None,
        })
    }
}

/// What one connection may ask for. It goes through no map and no lock; dropping it lets its place be forgotten.
#[derive(Debug)]
pub(crate) struct Admission {
    address: IpAddr,
    /// None where nothing is limited.
    member: Option<Member>,
    /// Requests over the quota since the last pause.
    refusals: u8,
    /// While it lasts the connection is not to be read.
    pause: Option<Pin<Box<Sleep>>>,
}

/// The limits, and where the client stands.
#[derive(Debug)]
struct Member {
    limits: Arc<RateLimits>,
    /// That of the address.
    account: Held,
    /// That of the user who is logged in.
    user: Option<Held>,
}

impl Admission {
    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Takes what a request costs from the quota. To be asked once for each request, before anything else about it is
    /// looked at; the elements of a batch are requests, and the batch is one only where it has none that count.
    ///
    /// # Errors
    /// What to answer where the quota does not allow the request. It costs nothing then.
    pub(crate) fn admit(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        let Some(member) = &self.member else { return Ok(()) };
        let taken = member
            .limits
            .take_request(member.user.as_ref().unwrap_or(&member.account), request.operation());
        taken.map_err(|wait| {
            self.count_refusal();
            Failure::rate_limited(wait)
        })
    }

    /// Takes a plain HTTP request from the quota of the address.
    ///
    /// # Errors
    /// How long to wait where the quota does not allow it.
    pub(crate) fn admit_plain(&self) -> Result<(), Duration> {
        let Some(member) = &self.member else { return Ok(()) };
        member.limits.take_request(&member.account, None)
    }

    /// Counts a plain HTTP request, or an upgrade, whose token is refused.
    ///
    /// # Errors
    /// How long to wait where there were too many of them.
    pub(crate) fn count_refused_plain(&self) -> Result<(), Duration> {
        let Some(member) = &self.member else { return Ok(()) };
        member.limits.take_refused(&member.account)
    }

    /// Another user is logged in, or nobody any more: their own quota counts from now on, beside all their connections.
    pub(crate) fn identify(&mut self, user: Option<&str>) {
        if let Some(member) = &mut self.member {
            member.user = user.map(|user| member.limits.account(Identity::of_user(user)));
        }
    }

    fn count_refusal(&mut self) {
        self.refusals += 1;
        if self.refusals == REFUSALS_UNPAUSED {
            self.refusals = 0;
            self.pause = Some(Box::pin(tokio::time::sleep(REFUSAL_PAUSE)));
        }
    }

    /// Whether the connection is not to be read now, because it goes on asking for more than it may.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Ends a pause whose time is over; of one that is not, the task is told when it is. To be called before the
    /// connection is read and after.
    pub(crate) fn poll_pause(&mut self, cx: &mut Context<'_>) {
        if let Some(pause) = &mut self.pause
            && pause.as_mut().poll(cx).is_ready()
        {
            self.pause = None;
        }
    }

    /// Counts a message that is refused for its form, so that nobody knows what it asks for.
    ///
    /// # Errors
    /// The code to close the connection with where there were too many of them.
    pub(crate) fn count_refused(&self) -> Result<(), CloseCode> {
        self.count_refused_plain().map_err(|_| CloseCode::TooManyRefused)
    }

    /// The admission of a client under this limit.
    #[cfg(test)]
    pub(crate) fn limited(limit: super::config::RateLimitConfig) -> Self {
        let gatekeeper = Gatekeeper::from(&Config {
            rate_limit: Some(limit),
            ..Config::default()
        });
        let address = IpAddr::from([127, 0, 0, 1]);
        gatekeeper
            .admit(address, &HeaderMap::new())
            .expect("the first connection is admitted")
    }

    /// The admission of a client without limits.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Self {
        Self {
            address: IpAddr::from([127, 0, 0, 1]),
            member: None,
            refusals: 0,
            pause: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::protocol::{Envelope, ErrorCode, Number};
    use crate::server::config::RateLimitConfig;

    fn gatekeeper(limit: RateLimitConfig) -> Gatekeeper {
        Gatekeeper::from(&Config {
            rate_limit: Some(limit),
            ..Config::default()
        })
    }

    fn enter(gatekeeper: &Gatekeeper, address: &str) -> Admission {
        let address = address.parse().unwrap();
        gatekeeper.admit(address, &HeaderMap::new()).unwrap()
    }

    fn ask(admission: &mut Admission, name: &str) -> Result<(), Failure> {
        let text = format!("{{\"id\":1,\"type\":\"{name}\"}}");
        let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
            panic!("{text} is a request")
        };
        admission.admit(&request)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_is_told_how_long_to_wait_and_that_is_true() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            max_requests: 3,
            window: Duration::from_millis(1000),
            ..RateLimitConfig::default()
        });
        let mut admission = enter(&gatekeeper, "10.0.0.1");
        for _ in 0..3 {
            assert_eq!(ask(&mut admission, "store.get"), Ok(()));
        }
        for _ in 0..5 {
            let failure = ask(&mut admission, "no.such").unwrap_err();
            assert_eq!(failure.code(), ErrorCode::RateLimited);
            let answer: serde_json::Value = serde_json::from_slice(&failure.answer(Number::Int(1), false)).unwrap();
            assert_eq!(answer["details"], serde_json::json!({ "retryAfterMs": 334 }));
            assert_eq!(answer["message"], "Rate limit exceeded. Retry after 334ms");
        }
        tokio::time::advance(Duration::from_millis(333)).await;
        assert!(ask(&mut admission, "store.get").is_err(), "a third of a second is not over");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(ask(&mut admission, "store.get"), Ok(()));
        assert!(ask(&mut admission, "store.get").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn messages_refused_for_their_form_have_a_quota_of_their_own() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            max_requests: 2,
            ..RateLimitConfig::default()
        });
        let mut admission = enter(&gatekeeper, "10.0.0.1");
        for _ in 0..20 {
            assert_eq!(admission.count_refused(), Ok(()));
        }
        assert_eq!(admission.count_refused(), Err(CloseCode::TooManyRefused));
        assert_eq!(ask(&mut admission, "store.get"), Ok(()));
        let neighbour = enter(&gatekeeper, "10.0.0.2");
        assert_eq!(neighbour.count_refused(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_requests_allowed_everything_is_refused_with_nothing_to_wait_for() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            max_requests: 0,
            ..RateLimitConfig::default()
        });
        let mut admission = enter(&gatekeeper, "10.0.0.1");
        for _ in 0..30 {
            let failure = ask(&mut admission, "store.get").unwrap_err();
            assert_eq!(failure, Failure::rate_limited(Duration::ZERO));
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(ask(&mut admission, "store.get").is_err());
        for _ in 0..10 {
            assert_eq!(admission.count_refused(), Ok(()), "there is room for some mistakes");
        }
        assert!(admission.count_refused().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_have_a_quota_and_are_told_how_long_to_wait() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            connections: Some(2),
            window: Duration::from_secs(10),
            ..RateLimitConfig::default()
        });
        let admit = |address: &str| gatekeeper.admit(address.parse().unwrap(), &HeaderMap::new()).map(drop);
        assert_eq!(admit("2001:db8::1"), Ok(()));
        assert_eq!(admit("2001:db8::2"), Ok(()), "the same network of 64 bits");
        assert_eq!(admit("2001:db8::3"), Err(Duration::from_secs(5)));
        assert_eq!(admit("2001:db8:0:1::3"), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(admit("2001:db8::1"), Ok(()), "leaving in between did not reset anything");
        assert_eq!(admit("2001:db8::1"), Err(Duration::from_secs(5)));
    }

    #[test]
    fn a_fresh_socket_is_its_clients_unless_it_comes_from_a_trusted_proxy() {
        let gatekeeper = Gatekeeper::from(&Config {
            trusted_proxies: vec!["10.0.0.0/8".to_owned()],
            ..Config::default()
        });
        let origin = |address: &str| gatekeeper.origin(address.parse().unwrap());
        assert_eq!([origin("10.0.0.1"), origin("::ffff:10.0.0.2")], [Origin::Proxy, Origin::Proxy]);
        assert_ne!(origin("192.0.2.1"), Origin::Proxy);
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::2"));
    }

    #[tokio::test(start_paused = true)]
    async fn operations_count_for_their_weights() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            max_requests: 10,
            window: Duration::from_secs(10),
            weights: [(crate::protocol::Operation::StoreTransaction, 4)].into_iter().collect(),
            ..RateLimitConfig::default()
        });
        let mut admission = enter(&gatekeeper, "10.0.0.1");
        assert_eq!(ask(&mut admission, "store.transaction"), Ok(()));
        assert_eq!(ask(&mut admission, "store.transaction"), Ok(()));
        let refused = ask(&mut admission, "store.transaction").unwrap_err();
        assert_eq!(
            refused,
            Failure::rate_limited(Duration::from_secs(2)),
            "two are left, four are needed"
        );
        assert_eq!(ask(&mut admission, "store.get"), Ok(()), "what was refused cost nothing");
        assert_eq!(ask(&mut admission, "no.such"), Ok(()));
        assert!(ask(&mut admission, "store.get").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_over_the_quota_is_slowed_down_and_never_closed() {
        let gatekeeper = gatekeeper(RateLimitConfig {
            max_requests: 1,
            ..RateLimitConfig::default()
        });
        let mut admission = enter(&gatekeeper, "10.0.0.1");
        let began = tokio::time::Instant::now();
        for _ in 0..=6400 {
            while admission.is_paused() {
                poll_fn(|cx| {
                    admission.poll_pause(cx);
                    if admission.is_paused() { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
            }
            let _ = ask(&mut admission, "store.get");
        }
        let took = began.elapsed().as_millis();
        assert!((990..=1100).contains(&took), "{took} ms");
        assert_eq!(admission.count_refused(), Ok(()), "they are no malformed messages");
    }
}
