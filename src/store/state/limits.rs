//! What a definition may take up.

/// What a definition may take up. What is stored was within these bounds once: there they are not looked at again, so
/// that no bound, and no fault in counting, ever keeps a store from its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Fields, those inside objects and lists included.
    pub fields: usize,
    /// Bytes of the name of a field or of a bucket referred to.
    pub name_bytes: usize,
    /// How deep `properties` and `items` go: each is one level.
    pub depth: usize,
    /// How many levels of objects and lists the definition of one field is, values in it included. A message has
    /// fewer; what is deeper could not be read from the disk again, since there JSON may have 127 levels.
    pub levels: usize,
    /// Different patterns.
    pub patterns: usize,
    /// Bytes of a pattern.
    pub pattern_bytes: usize,
    /// The memory that the program of one pattern may take.
    pub program_bytes: usize,
    /// The members of an `enum`.
    pub enum_members: usize,
    /// Bytes of all of them as a message lists them.
    pub enum_bytes: usize,
    /// Indexes, all kinds counted.
    pub indexes: usize,
    /// Fields of one index.
    pub index_fields: usize,
}

impl Limits {
    /// For what clients, programs and configuration files define.
    pub const GIVEN: Self = Self {
        fields: 1_000,
        name_bytes: 256,
        depth: 10,
        levels: 100,
        patterns: 100,
        pattern_bytes: 10_000,
        program_bytes: 1 << 20,
        enum_members: 1_000,
        enum_bytes: 32 << 10,
        indexes: 64,
        index_fields: 8,
    };

    /// For what was taken before, and is read again.
    pub const STORED: Self = Self {
        fields: usize::MAX,
        name_bytes: usize::MAX,
        depth: usize::MAX,
        levels: usize::MAX,
        patterns: usize::MAX,
        pattern_bytes: usize::MAX,
        program_bytes: usize::MAX,
        enum_members: usize::MAX,
        enum_bytes: usize::MAX,
        indexes: usize::MAX,
        index_fields: usize::MAX,
    };
}
