//! Which requests are recorded.

use crate::protocol::{Operation, Request, Tier, tier_of_absent};

/// What a request means for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody logs in or out. Recorded whatever is selected.
    Authentication,
    /// Users, roles or rights become others. Recorded whatever is selected.
    Rights,
    /// What data there can be becomes another.
    Administration,
    /// Somebody looks at what only administrators may see.
    Inspection,
    /// Data is read or written.
    Data,
}

impl Kind {
    const fn of(operation: Operation) -> Self {
        match operation {
            Operation::AuthLogin
            | Operation::AuthLogout
            | Operation::AuthRefresh
            | Operation::IdentityLogin
            | Operation::IdentityLoginWithSecret
            | Operation::IdentityLogout
            | Operation::IdentityRefreshSession => Self::Authentication,
            Operation::IdentityCreateUser
            | Operation::IdentityUpdateUser
            | Operation::IdentityDeleteUser
            | Operation::IdentityEnableUser
            | Operation::IdentityDisableUser
            | Operation::IdentityChangePassword
            | Operation::IdentityResetPassword
            | Operation::IdentityCreateRole
            | Operation::IdentityUpdateRole
            | Operation::IdentityDeleteRole
            | Operation::IdentityAssignRole
            | Operation::IdentityRemoveRole
            | Operation::IdentityGrant
            | Operation::IdentityRevoke
            | Operation::IdentityTransferOwner => Self::Rights,
            Operation::StoreDefineBucket
            | Operation::StoreDropBucket
            | Operation::StoreUpdateBucket
            | Operation::StoreDefineQuery
            | Operation::StoreUndefineQuery => Self::Administration,
            Operation::StoreGetBucketSchema
            | Operation::StoreListQueries
            | Operation::ServerStats
            | Operation::ServerConnections
            | Operation::AuditQuery
            | Operation::AuthWhoami
            | Operation::IdentityWhoami
            | Operation::IdentityGetUser
            | Operation::IdentityListUsers
            | Operation::IdentityListRoles
            | Operation::IdentityGetUserRoles
            | Operation::IdentityGetAcl
            | Operation::IdentityMyAccess
            | Operation::IdentityGetOwner => Self::Inspection,
            Operation::StoreInsert
            | Operation::StoreInsertMany
            | Operation::StoreUpdate
            | Operation::StoreUpdateMany
            | Operation::StoreUpsert
            | Operation::StoreDelete
            | Operation::StoreDeleteMany
            | Operation::StoreClear
            | Operation::StoreTransaction
            | Operation::StoreGet
            | Operation::StoreAll
            | Operation::StoreWhere
            | Operation::StoreFindOne
            | Operation::StoreCount
            | Operation::StoreFirst
            | Operation::StoreLast
            | Operation::StorePaginate
            | Operation::StoreSum
            | Operation::StoreAvg
            | Operation::StoreMin
            | Operation::StoreMax
            | Operation::StoreGroupBy
            | Operation::StoreRunQuery
            | Operation::StoreExplain
            | Operation::StoreSubscribe
            | Operation::StoreChanges
            | Operation::StoreUnsubscribe
            | Operation::StoreBuckets
            | Operation::StoreStats
            | Operation::Batch => Self::Data,
        }
    }

    const fn of_tier(tier: Tier) -> Self {
        match tier {
            Tier::Admin => Self::Administration,
            Tier::Write | Tier::Read => Self::Data,
        }
    }
}

/// Why a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(super) kind: Kind,
    /// Whether its tier is selected.
    pub(super) by_tier: bool,
}

impl Selection {
    /// Whether, and why, a request is recorded where these tiers are selected.
    pub(super) fn of(request: &Request<'_>, tiers: &[Tier]) -> Option<Self> {
        let (kind, tier) = match request.operation() {
            Some(operation) => (Kind::of(operation), operation.tier()),
            None => {
                let tier = tier_of_absent(request.name())?;
                (Kind::of_tier(tier), Some(tier))
            }
        };
        let by_tier = tier.is_some_and(|tier| tiers.contains(&tier));
        let is_selected = match kind {
            Kind::Authentication | Kind::Rights => true,
            Kind::Administration | Kind::Inspection | Kind::Data => by_tier,
        };
        is_selected.then_some(Self { kind, by_tier })
    }

    /// Something that happened to a session by itself.
    pub(super) const EVENT: Self = Self {
        kind: Kind::Authentication,
        by_tier: false,
    };

    /// Whether it is refused while it could not be recorded durably. Logging in and out, and looking, are not: whoever
    /// is to mend it must get in and see.
    pub(crate) fn must_be_recorded(self) -> bool {
        match self.kind {
            Kind::Rights | Kind::Administration => true,
            Kind::Authentication | Kind::Inspection | Kind::Data => false,
        }
    }

    /// Whether its answer waits until it is on disk.
    pub(super) fn is_durable(self) -> bool {
        match self.kind {
            Kind::Authentication | Kind::Rights | Kind::Administration | Kind::Inspection => true,
            Kind::Data => false,
        }
    }

    /// Whether it is shown to whoever does not ask for anything in particular: logins are not, unless their tier is
    /// selected, as clients of older servers know it.
    pub(super) fn is_plain(self) -> bool {
        self.by_tier || self.kind == Kind::Rights
    }
}
