//! The supervision tree on one page.
//!
//! ```text
//! RootSupervisor
//! ├── ConnectionSupervisor     restarted; its connections end with it
//! │   └── ConnectionActor …    one per socket, temporary: never restarted, only the client can come back
//! ├── ListenerActor            restarted; goes on with the same listening socket
//! └── HeartbeatActor           restarted; goes on with the same queue
//! ```
//!
//! The StoreActor is not here: the [`Store`](crate::store::Store) owns it, since a store can be used without a
//! server. It is not restarted either: what made it fail (a full disk, say) would still be there, and a restart
//! would paper over it.
//!
//! A child that fails is a fault of ours; it is logged and started again after a pause, so that a fault that comes
//! back at once does not take the machine. All state that is worth keeping is outside of the actors.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, SpawnErr, SupervisionEvent};

use super::connection::Sessions;
use super::connection::connection_supervisor::ConnectionSupervisor;
use super::connection::heartbeat::HeartbeatActor;
use super::listener::{ListenerActor, ListenerArguments, Reception};

/// How long a failed child stays down.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Starts the tree. Killing the root ends all of it.
///
/// # Errors
/// Where an actor cannot be started.
pub(crate) async fn start<N: Sessions>(reception: Arc<Reception<N>>) -> Result<ActorCell, SpawnErr> {
    let (root, _) = Actor::spawn(None, RootSupervisor(PhantomData), reception).await?;
    Ok(root.get_cell())
}

/// The root of the tree.
struct RootSupervisor<N>(PhantomData<fn() -> N>);

/// What the root tells itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RootMessage {
    /// The pause after a failure is over.
    Restart(Child),
}

/// The children of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Connections,
    Listener,
    Heartbeat,
}

impl Child {
    const ALL: [Self; 3] = [Self::Connections, Self::Listener, Self::Heartbeat];
}

struct Tree<N> {
    reception: Arc<Reception<N>>,
    connections: ActorCell,
    listener: ActorCell,
    heartbeat: ActorCell,
}

impl<N: Sessions> Tree<N> {
    async fn start(root: &ActorCell, reception: Arc<Reception<N>>) -> Result<Self, SpawnErr> {
        let connections = start_connections(root).await?;
        let heartbeat = start_heartbeat(root, &reception).await?;
        let listener = start_listener(root, &reception, &connections).await?;
        Ok(Self {
            reception,
            connections,
            listener,
            heartbeat,
        })
    }

    /// Starts a child that has failed. One that runs was started already, along with another.
    async fn restart(&mut self, root: &ActorCell, child: Child) -> Result<(), SpawnErr> {
        if self.cell(child).get_status() < ActorStatus::Stopping {
            return Ok(());
        }
        match child {
            Child::Connections => {
                // The listener hands its sockets to the one that failed: it starts anew with the next.
                self.listener.unlink(root.clone());
                self.listener.kill();
                self.connections = start_connections(root).await?;
                self.listener = start_listener(root, &self.reception, &self.connections).await?;
            }
            Child::Listener => self.listener = start_listener(root, &self.reception, &self.connections).await?,
            Child::Heartbeat => self.heartbeat = start_heartbeat(root, &self.reception).await?,
        }
        Ok(())
    }

    fn cell(&self, child: Child) -> &ActorCell {
        match child {
            Child::Connections => &self.connections,
            Child::Listener => &self.listener,
            Child::Heartbeat => &self.heartbeat,
        }
    }

    fn child(&self, id: ActorId) -> Option<Child> {
        Child::ALL.into_iter().find(|&child| self.cell(child).get_id() == id)
    }
}

async fn start_connections(root: &ActorCell) -> Result<ActorCell, SpawnErr> {
    let (supervisor, _) = Actor::spawn_linked(None, ConnectionSupervisor, (), root.clone()).await?;
    Ok(supervisor.get_cell())
}

async fn start_heartbeat<N>(root: &ActorCell, reception: &Reception<N>) -> Result<ActorCell, SpawnErr> {
    let queue = Arc::clone(&reception.connections.heartbeat);
    let (heartbeat, _) = Actor::spawn_linked(None, HeartbeatActor, queue, root.clone()).await?;
    Ok(heartbeat.get_cell())
}

async fn start_listener<N: Sessions>(
    root: &ActorCell,
    reception: &Arc<Reception<N>>,
    connections: &ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let arguments = ListenerArguments {
        reception: Arc::clone(reception),
        supervisor: connections.clone(),
    };
    let (listener, _) = Actor::spawn_linked(None, ListenerActor::<N>::new(), arguments, root.clone()).await?;
    Ok(listener.get_cell())
}

impl<N: Sessions> Actor for RootSupervisor<N> {
    type Msg = RootMessage;
    type State = Tree<N>;
    type Arguments = Arc<Reception<N>>;

    async fn pre_start(&self, myself: ActorRef<RootMessage>, reception: Self::Arguments) -> Result<Tree<N>, ActorProcessingErr> {
        Ok(Tree::start(&myself.get_cell(), reception).await?)
    }

    async fn handle(&self, myself: ActorRef<RootMessage>, message: RootMessage, tree: &mut Tree<N>) -> Result<(), ActorProcessingErr> {
        let RootMessage::Restart(child) = message;
        if let Err(error) = tree.restart(&myself.get_cell(), child).await {
            tracing::error!(?child, %error, "a part of the server cannot be restarted yet");
            myself.send_after(RESTART_PAUSE, move || RootMessage::Restart(child));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMessage>,
        event: SupervisionEvent,
        tree: &mut Tree<N>,
    ) -> Result<(), ActorProcessingErr> {
        let (id, cause) = match event {
            SupervisionEvent::ActorFailed(actor, cause) => (actor.get_id(), cause.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => (actor.get_id(), reason.unwrap_or_else(|| "stopped".to_owned())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if let Some(child) = tree.child(id) {
            tracing::error!(?child, cause, "a part of the server failed and is restarted");
            myself.send_after(RESTART_PAUSE, move || RootMessage::Restart(child));
        }
        Ok(())
    }
}
