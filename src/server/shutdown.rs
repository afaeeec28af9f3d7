//! How the server stops: nobody new, a notice, time to leave, then everybody is closed.

use std::time::Duration;

use tokio::sync::watch;

use super::connection::registry::Registry;
use super::listener::Gate;
use crate::protocol::{CloseCode, message};

/// Connections closed at a time, so that the others are still served while many close.
const BATCH: usize = 256;

/// How long closing may take, over all connections: the drain and the closing handshake of the slowest, and a
/// little more. What is left afterwards is dropped.
const CLOSE: Duration = Duration::from_secs(7);

/// Stops listening and sees every connection off. `hurry` becomes true when the grace period is to end at once.
pub(crate) async fn drain(gate: &Gate, registry: &Registry, grace: Duration, mut hurry: watch::Receiver<bool>) {
    gate.close().await;
    registry.close();
    if !grace.is_zero() && registry.len() > 0 {
        notify(registry, grace);
        tokio::select! {
            () = registry.emptied() => return,
            () = tokio::time::sleep(grace) => {}
            () = hurried(&mut hurry) => {}
        }
    }
    let connections = registry.len();
    if tokio::time::timeout(CLOSE, close_all(registry)).await.is_err() {
        tracing::warn!(connections = registry.len(), "connections that did not close in time are dropped");
    } else if connections > 0 {
        tracing::info!(connections, "all connections are closed");
    }
}

async fn hurried(hurry: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server. Without it nobody is left to wait for.
    let _ = hurry.wait_for(|hurry| *hurry).await;
}

fn notify(registry: &Registry, grace: Duration) {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    // Encoded once, shared by all.
    let notice = bytes::Bytes::from(message::shutdown(grace_ms));
    for outbox in registry.outboxes() {
        outbox.notify(notice.clone());
    }
}

async fn close_all(registry: &Registry) {
    for batch in registry.outboxes().chunks(BATCH) {
        for outbox in batch {
            outbox.request_close(CloseCode::GoingAway);
        }
        tokio::task::yield_now().await;
    }
    registry.emptied().await;
}
