//! The maps that versions of the state share: cloning one is copying a pointer, changing one copies a path.

use archery::ArcTK;

/// A sorted map that shares structure with its clones.
pub type OrdMap<K, V> = imbl::GenericOrdMap<K, V, ArcTK>;
/// A sorted set that shares structure with its clones.
pub type OrdSet<K> = imbl::GenericOrdSet<K, ArcTK>;
