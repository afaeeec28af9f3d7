//! The connection actor: owns one socket with its session and its place in the registry.
//!
//! It has one message, [`Serve`], which lasts as long as the connection. Whatever ends it — the peer, a close, a kill,
//! a panic in a handler — drops the [`Connection`], and that is all the cleaning up there is: the session gives back
//! its subscriptions, the registration its entry, its seat and its place in the count of the address.

use std::marker::PhantomData;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpStream;

use super::driver::Driver;
use super::registry::Registration;
use super::service::Service;

/// A connection before it is served.
pub(crate) struct Connection<V: Service> {
    driver: Box<Driver<TcpStream, V>>,
    registration: Registration,
    welcome: Vec<u8>,
}

impl<V: Service> Connection<V> {
    pub(super) fn new(driver: Driver<TcpStream, V>, registration: Registration, welcome: Vec<u8>) -> Self {
        Self {
            driver: Box::new(driver),
            registration,
            welcome,
        }
    }
}

/// Serves one connection.
pub(crate) struct ConnectionActor<V>(PhantomData<fn() -> V>);

impl<V> ConnectionActor<V> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

/// Asks the actor to serve its connection until it ends. The actor sends it to itself when it starts.
pub(crate) struct Serve;

impl<V: Service> Actor for ConnectionActor<V> {
    type Msg = Serve;
    /// Taken when it is served.
    type State = Option<Connection<V>>;
    type Arguments = Connection<V>;

    async fn pre_start(&self, myself: ActorRef<Serve>, connection: Connection<V>) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(Serve)?;
        Ok(Some(connection))
    }

    async fn handle(&self, myself: ActorRef<Serve>, _: Serve, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        if let Some(Connection {
            driver,
            registration,
            welcome,
        }) = state.take()
        {
            let id = registration.id();
            tracing::debug!(connection = %id, "connected");
            driver.run(welcome).await;
            tracing::debug!(connection = %id, "disconnected");
        }
        myself.stop(None);
        Ok(())
    }
}
