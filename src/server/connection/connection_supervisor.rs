//! The parent of all connection actors. It never restarts one: only the client can come back. There is nothing to
//! clean up for it either, since a connection gives back all that it holds, however it ends.

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::connection_actor::{Connection, ConnectionActor};
use super::service::Service;

/// Supervises the connections. It takes no messages.
pub(crate) struct ConnectionSupervisor;

/// There is none.
pub(crate) enum NoMessage {}

impl Actor for ConnectionSupervisor {
    type Msg = NoMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<NoMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(&self, _: ActorRef<NoMessage>, event: SupervisionEvent, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(connection, cause) = event {
            tracing::error!(actor = %connection.get_id(), %cause, "a connection failed; the others go on");
        }
        Ok(())
    }
}

/// Starts a connection under the supervisor.
pub(super) async fn start<V: Service>(supervisor: &ActorCell, connection: Connection<V>) {
    let started = ConnectionActor::spawn_linked(None, ConnectionActor::<V>::new(), connection, supervisor.clone()).await;
    if let Err(error) = started {
        // The server is going down: the socket went with the connection.
        tracing::debug!(%error, "a connection was not started");
    }
}
