//! Who is connected as whom: how a change of rights reaches the connections that it concerns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::principal::{Login, TokenDigest};
use crate::protocol::{CloseCode, ConnectionId, message};
use crate::server::connection::OutboxHandle;

/// The connections on which somebody is logged in.
#[derive(Default)]
pub(crate) struct Presence {
    users: Mutex<HashMap<Arc<str>, BTreeMap<ConnectionId, Present>>>,
    /// The number of connections.
    count: AtomicUsize,
}

struct Present {
    token: TokenDigest,
    roles: Vec<String>,
    outbox: OutboxHandle,
}

impl Presence {
    /// The number of connections on which somebody is logged in.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Has the connections of a user look at their rights again.
    pub(crate) fn recheck_user(&self, user: &str) {
        self.each_of(user, |_, present| present.outbox.recheck());
    }

    /// Has the connections that came by a token look at their rights again.
    pub(crate) fn recheck_token(&self, user: &str, token: TokenDigest) {
        self.each_of(user, |_, present| {
            if present.token == token {
                present.outbox.recheck();
            }
        });
    }

    /// Tells the connections of a user, all but one, that their session is taken away, and has them closed. Gives their
    /// number.
    pub(crate) fn revoke(&self, user: &str, except: Option<ConnectionId>) -> usize {
        let mut count = 0;
        self.each_of(user, |id, present| {
            if Some(id) != except {
                present.outbox.notify(Bytes::from(message::session_revoked()));
                present.outbox.request_close(CloseCode::SessionRevoked);
                count += 1;
            }
        });
        count
    }

    /// The number of a user's connections.
    pub(crate) fn connections_of(&self, user: &str) -> usize {
        let mut count = 0;
        self.each_of(user, |_, _| count += 1);
        count
    }

    /// The users with a role, as their connections know it.
    pub(crate) fn users_with(&self, role: Option<&str>) -> Vec<Arc<str>> {
        let live = self.users.lock();
        let holds = |present: &Present| role.is_none_or(|role| present.roles.iter().any(|held| held == role));
        live.iter()
            .filter(|(_, connections)| connections.values().any(holds))
            .map(|(user, _)| Arc::clone(user))
            .collect()
    }

    fn each_of(&self, user: &str, mut act: impl FnMut(ConnectionId, &Present)) {
        if let Some(connections) = self.users.lock().get(user) {
            for (id, present) in connections {
                act(*id, present);
            }
        }
    }
}

/// One connection's place among those on which somebody is logged in. Given up when it is dropped.
pub(crate) struct Place {
    presence: Arc<Presence>,
    connection: ConnectionId,
    outbox: OutboxHandle,
    user: Option<Arc<str>>,
}

impl Place {
    pub(crate) fn new(presence: Arc<Presence>, connection: ConnectionId, outbox: OutboxHandle) -> Self {
        Self {
            presence,
            connection,
            outbox,
            user: None,
        }
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Somebody has logged in, or out.
    pub(crate) fn take(&mut self, login: Option<&Login>) {
        self.leave();
        let Some(login) = login else { return };
        let user: Arc<str> = login.principal.user_id.as_str().into();
        let present = Present {
            token: login.token,
            roles: login.principal.roles.clone(),
            outbox: Arc::clone(&self.outbox),
        };
        let mut live = self.presence.users.lock();
        live.entry(Arc::clone(&user)).or_default().insert(self.connection, present);
        self.presence.count.fetch_add(1, Ordering::Relaxed);
        self.user = Some(user);
    }

    fn leave(&mut self) {
        let Some(user) = self.user.take() else { return };
        self.presence.count.fetch_sub(1, Ordering::Relaxed);
        let mut live = self.presence.users.lock();
        let Some(connections) = live.get_mut(&user) else { return };
        let gone = connections.remove(&self.connection);
        if connections.is_empty() {
            live.remove(&user);
        }
        drop(live);
        drop(gone);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
