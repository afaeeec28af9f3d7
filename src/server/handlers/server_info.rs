//! What the server says of itself.

use std::sync::Arc;

use super::Call;
use super::answer::Handled;
use super::failure::Failure;
use super::store_reads::off_task;

/// A list of more connections than this is made on a thread of its own.
const INLINE_CONNECTIONS_MAX: usize = 256;

/// `server.stats`.
pub(super) fn stats(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    call.json(&call.context.overview.service(&call.context.store))
}

/// `server.connections`.
pub(super) fn connections(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let (overview, encoder) = (Arc::clone(&call.context.overview), call.encoder());
    if overview.connection_count() > INLINE_CONNECTIONS_MAX {
        return Ok(off_task(call, move || encoder.list(overview.connections())));
    }
    Ok(Handled::Answer(encoder.list(overview.connections())?))
}
