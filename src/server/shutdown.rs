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

/// How long closing may still take once the server is to end at once: enough for answers that are nearly there and
/// for the close frame, too short to wait for anybody who does not read.
const HURRY: Duration = Duration::from_secs(1);

/// Stops listening and sees every connection off. `hurry` becomes true when the server is to end at once: the grace
/// period ends, and closing takes [`HURRY`] at most from then on.
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
    let all_closed = tokio::select! {
        () = close_all(registry) => true,
        () = tokio::time::sleep(CLOSE) => false,
        () = out_of_patience(&mut hurry) => false,
    };
    if !all_closed {
        tracing::warn!(connections = registry.len(), "connections that did not close in time are dropped");
    } else if connections > 0 {
        tracing::info!(connections, "all connections are closed");
    }
}

async fn hurried(hurry: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server. Without it nobody is left to wait for.
    let _ = hurry.wait_for(|hurry| *hurry).await;
}

async fn out_of_patience(hurry: &mut watch::Receiver<bool>) {
    hurried(hurry).await;
    tokio::time::sleep(HURRY).await;
}

fn notify(registry: &Registry, grace: Duration) {
    let grace_ms = super::millis(grace);
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
