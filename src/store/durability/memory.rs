//! Keeps nothing: for stores whose content may be lost with the process.

use super::{Batch, Durability, DurabilityError};

/// Storage that keeps nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory;

impl Durability for Memory {
    fn append(&mut self, _batch: &Batch) -> Result<(), DurabilityError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DurabilityError> {
        Ok(())
    }

    fn tidy(&mut self) -> Result<bool, DurabilityError> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), DurabilityError> {
        Ok(())
    }
}
