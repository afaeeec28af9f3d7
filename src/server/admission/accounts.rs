//! What is kept of each identity, in bounded memory.
//!
//! An account holds no more than when each of its quotas is full again. As long as somebody holds it, it stays, and
//! is used without the table. When nobody does, it is kept only for what is missing from its quotas: one that is full
//! again is forgotten, since a new one would be the same. Where the table is full, the one goes that has least to be
//! forgotten; but never one that is over a quota, or whoever has other addresses could flush his debts. When nobody
//! can be forgotten, newcomers share one account.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::identity::Identity;

/// How many full accounts are cleared away, at most, whenever one is opened: more than one, so that they get fewer.
const CLEARED_AT_ONCE: usize = 2;

/// The standing of one identity: for each quota the moment at which it is full again, as governor reckons it, in
/// nanoseconds of the clock.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) requests: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Account {
    /// The moment at which nothing is missing any more.
    fn full_at(&self) -> u64 {
        let quotas = [&self.requests, &self.refused, &self.connections];
        quotas.map(|quota| quota.load(Ordering::Acquire)).into_iter().max().unwrap_or(0)
    }
}

/// An account, compared by what it is and not by what it holds: the key of governor's limiters.
#[derive(Clone, Debug, Default)]
pub(super) struct AccountRef(Arc<Account>);

impl Deref for AccountRef {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.0
    }
}

impl PartialEq for AccountRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AccountRef {}

impl Hash for AccountRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[derive(Debug)]
struct Entry {
    account: AccountRef,
    /// How many hold it.
    holders: usize,
    /// Where it stands among the idle ones while nobody does.
    idle_until: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Identity, Entry>,
    /// Entries that nobody holds, by the moment at which they are full again. That moment cannot change.
    idle: BTreeSet<(u64, Identity)>,
}

impl Table {
    fn forget_first_idle_until(&mut self, moment: u64) -> bool {
        let Some((_, identity)) = self.idle.first().copied().filter(|(full_at, _)| *full_at <= moment) else {
            return false;
        };
        self.idle.pop_first();
        self.entries.remove(&identity);
        true
    }
}

/// The accounts of all identities.
#[derive(Debug)]
pub(super) struct Accounts {
    max: usize,
    /// How much may be missing from an account that is forgotten, as the time in which it would be full again. Less
    /// than what is missing where any quota is used up.
    forgettable: u64,
    table: Mutex<Table>,
    /// For those who come when there is no room.
    shared: AccountRef,
}

impl Accounts {
    pub(super) fn new(max: usize, forgettable: u64) -> Arc<Self> {
        Arc::new(Self {
            max,
            forgettable,
            table: Mutex::default(),
            shared: AccountRef::default(),
        })
    }

    /// The account of an identity, to be held as long as it is used.
    pub(super) fn open(self: &Arc<Self>, identity: Identity, now: u64) -> Held {
        let mut table = self.table.lock();
        let kept = &mut *table;
        if let Some(entry) = kept.entries.get_mut(&identity) {
            if entry.holders == 0 {
                kept.idle.remove(&(entry.idle_until, identity));
            }
            entry.holders += 1;
            return self.held(&entry.account, Some(identity));
        }
        for _ in 0..CLEARED_AT_ONCE {
            if !kept.forget_first_idle_until(now) {
                break;
            }
        }
        let has_room = kept.entries.len() < self.max || kept.forget_first_idle_until(now.saturating_add(self.forgettable));
        if !has_room {
            return self.held(&self.shared, None);
        }
        let account = AccountRef::default();
        let entry = Entry {
            account: account.clone(),
            holders: 1,
            idle_until: 0,
        };
        kept.entries.insert(identity, entry);
        self.held(&account, Some(identity))
    }

    fn held(self: &Arc<Self>, account: &AccountRef, identity: Option<Identity>) -> Held {
        Held {
            accounts: Arc::clone(self),
            account: account.clone(),
            identity,
        }
    }

    fn release(&self, identity: Identity) {
        let mut table = self.table.lock();
        let kept = &mut *table;
        let Some(entry) = kept.entries.get_mut(&identity) else { return };
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        match entry.account.full_at() {
            // It was never charged for anything.
            0 => {
                kept.entries.remove(&identity);
            }
            full_at => {
                entry.idle_until = full_at;
                kept.idle.insert((full_at, identity));
            }
        }
    }
}

/// An account that is in use. Dropping it lets it be forgotten when the time has come.
#[derive(Debug)]
pub(super) struct Held {
    accounts: Arc<Accounts>,
    account: AccountRef,
    /// None for the shared one.
    identity: Option<Identity>,
}

impl Held {
    pub(super) fn account(&self) -> &AccountRef {
        &self.account
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(identity) = self.identity {
            self.accounts.release(identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAX: usize = 1000;
    const WINDOW: u64 = 1_000_000;
    /// Of a quota of ten.
    const FORGETTABLE: u64 = WINDOW / 10 * 9;

    fn accounts() -> Arc<Accounts> {
        Accounts::new(MAX, FORGETTABLE)
    }

    fn identity(number: u32) -> Identity {
        Identity::Address(Ipv4Addr::from_bits(number))
    }

    /// Opens an account, uses some of it up, and lets go of it.
    fn use_up(accounts: &Arc<Accounts>, number: u32, now: u64, tenths: u64) {
        let held = accounts.open(identity(number), now);
        let requests = &held.account().requests;
        let missing = requests.load(Ordering::Acquire).max(now) + tenths * WINDOW / 10;
        requests.store(missing, Ordering::Release);
    }

    fn debt(accounts: &Arc<Accounts>, number: u32, now: u64) -> u64 {
        accounts.open(identity(number), now).account().full_at().saturating_sub(now)
    }

    fn len(accounts: &Accounts) -> usize {
        let table = accounts.table.lock();
        assert!(table.idle.len() <= table.entries.len());
        table.entries.len()
    }

    #[test]
    fn all_who_come_from_one_identity_hold_one_account() {
        let accounts = accounts();
        let (first, second) = (accounts.open(identity(1), 0), accounts.open(identity(1), 0));
        assert_eq!(first.account(), second.account());
        assert_ne!(first.account(), accounts.open(identity(2), 0).account());
        drop(first);
        assert_eq!(second.account(), accounts.open(identity(1), 0).account());
    }

    #[test]
    fn what_was_used_up_is_not_forgotten_by_leaving() {
        let accounts = accounts();
        for _ in 0..3 {
            use_up(&accounts, 1, 5, 2);
        }
        assert_eq!(debt(&accounts, 1, 5), WINDOW / 10 * 6);
        assert_eq!(len(&accounts), 1);
    }

    #[test]
    fn who_has_used_nothing_leaves_nothing() {
        let accounts = accounts();
        drop(accounts.open(identity(1), 7));
        assert_eq!(len(&accounts), 0);
    }

    #[test]
    fn a_million_addresses_take_no_more_room_than_there_is() {
        let accounts = accounts();
        for number in 0..1_000_000 {
            use_up(&accounts, number, u64::from(number), 1);
            assert!(accounts.table.lock().entries.len() <= MAX);
        }
        assert_eq!(len(&accounts), MAX);
        // They are all full by now: the next who come clear them away.
        for number in 0..MAX as u32 {
            drop(accounts.open(identity(number), 10 * WINDOW));
        }
        assert_eq!(len(&accounts), 0);
    }

    #[test]
    fn a_debtor_is_not_forgotten_however_many_others_come() {
        let accounts = accounts();
        use_up(&accounts, 0, 0, 10);
        for number in 1..100_000 {
            use_up(&accounts, number, 0, 1 + u64::from(number % 9));
        }
        assert_eq!(debt(&accounts, 0, 0), WINDOW);
        assert_eq!(len(&accounts), MAX);
    }

    #[test]
    fn the_one_with_least_to_forget_goes_first() {
        let accounts = accounts();
        for number in 0..MAX as u32 {
            use_up(&accounts, number, 0, if number == 500 { 1 } else { 5 });
        }
        use_up(&accounts, 5000, 0, 9);
        assert_eq!(debt(&accounts, 5000, 0), WINDOW / 10 * 9);
        for number in (0..MAX as u32).filter(|number| *number != 500) {
            assert!(accounts.table.lock().entries.contains_key(&identity(number)), "{number}");
        }
    }

    #[test]
    fn when_all_are_in_use_or_in_debt_newcomers_share_one_account() {
        let accounts = accounts();
        let holders: Vec<_> = (0..500).map(|number| accounts.open(identity(number), 0)).collect();
        for number in 500..MAX as u32 {
            use_up(&accounts, number, 0, 10);
        }
        let (one, other) = (accounts.open(identity(5000), 0), accounts.open(identity(5001), 0));
        assert_eq!(one.account(), other.account());
        assert_eq!(len(&accounts), MAX);
        drop((one, other, holders));
        let apart = (accounts.open(identity(5000), 0), accounts.open(identity(5001), 0));
        assert_ne!(apart.0.account(), apart.1.account());
    }

    #[test]
    fn a_held_account_stays_whatever_happens_around_it() {
        let accounts = accounts();
        let held = accounts.open(identity(0), 0);
        held.account().refused.store(3, Ordering::Release);
        for number in 1..100_000 {
            use_up(&accounts, number, u64::from(number) * WINDOW, 1);
        }
        assert_eq!(held.account(), accounts.open(identity(0), 0).account());
    }
}
