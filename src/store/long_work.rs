//! Work that takes longer than an I/O thread should be away.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does something that may take milliseconds or more. What else waits on this thread is handed to another one
/// first, where the runtime has several.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let several = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if several { tokio::task::block_in_place(work) } else { work() }
}
