//! How much of the file each class of entries may fill, and each user and address in it.
//!
//! A file that is put aside when it is full, and removed when there are too many, is flushed by whoever writes enough.
//! So a class that others than administrators fill has a part of the file at once, and the same part again evenly over a
//! week; and of that, each user and each address has a part. Without them the file is the administrators'.

use std::collections::HashMap;
use std::time::Duration;

use super::rings::Ring;
use crate::server::admission::Identity;
use crate::server::config::AuditConfig;

/// A class has this part of the files that are kept.
const PARTS_OF_CLASS: u64 = 8;

/// Each user and address has this part of what the class has.
const PARTS_OF_ONE: u64 = 8;

/// What one has at least, as far as the class has it: some dozens of lines, also where files are tiny.
const ONE_MIN_BYTES: u64 = 16 * 1024;

/// How long it takes until what was used up is there again.
const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How many lines what was refused may cause, and how many each user and address, which come again in a minute. More are
/// counted there. What was done has its lines, as long as there are bytes.
const REFUSED_LINES: u64 = 120;
const REFUSED_LINES_OF_ONE: u64 = 30;

const MINUTE_MS: u64 = 60 * 1000;

/// How many users and addresses are told apart in each class. More share what one has.
const ONES_MAX: usize = 4_096;

/// How often those are forgotten who have used nothing any more.
const SWEEP_MS: u64 = MINUTE_MS;

/// Something that is there in full, and comes again evenly.
#[derive(Clone, Copy, Debug)]
struct Quota {
    whole: u64,
    period_ms: u64,
}

/// How much of a quota is used up at present.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// In units of which `period_ms` make one, so that nothing is lost by rounding.
    units: u128,
    /// As of when, in milliseconds since 1970.
    at: u64,
}

impl Quota {
    fn units(self, amount: u64) -> u128 {
        u128::from(amount.min(self.whole)) * u128::from(self.period_ms)
    }

    /// What is used up by now. Where the clock was set back, nothing has come again.
    fn used(self, used: &mut Used, now: u64) -> u128 {
        let come_again = u128::from(now.saturating_sub(used.at)) * u128::from(self.whole);
        *used = Used {
            units: used.units.saturating_sub(come_again),
            at: now,
        };
        used.units
    }

    /// How long it takes until there is so much.
    fn wait(self, used: &mut Used, amount: u64, now: u64) -> Duration {
        let missing = (self.used(used, now) + self.units(amount)).saturating_sub(self.units(self.whole));
        let ms = missing.div_ceil(u128::from(self.whole.max(1)));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// What a class, or one in it, has used of bytes and of lines.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    bytes: Used,
    lines: Used,
}

/// What a class, or one in it, may use.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: Quota,
    lines: Option<Quota>,
}

impl Allowance {
    fn new(bytes: u64, lines: Option<u64>) -> Self {
        Self {
            bytes: Quota {
                whole: bytes,
                period_ms: WEEK_MS,
            },
            lines: lines.map(|whole| Quota {
                whole,
                period_ms: MINUTE_MS,
            }),
        }
    }

    fn wait(self, account: &mut Account, bytes: u64, now: u64) -> Duration {
        let for_lines = self.lines.map_or(Duration::ZERO, |quota| quota.wait(&mut account.lines, 1, now));
        self.bytes.wait(&mut account.bytes, bytes, now).max(for_lines)
    }

    fn take(self, account: &mut Account, bytes: u64) {
        account.bytes.units += self.bytes.units(bytes);
        account.lines.units += self.lines.map_or(0, |quota| quota.units(1));
    }

    fn give_back(self, account: &mut Account, bytes: u64) {
        account.bytes.units = account.bytes.units.saturating_sub(self.bytes.units(bytes));
    }

    fn is_untouched(self, account: &mut Account, now: u64) -> bool {
        let lines = self.lines.map_or(0, |quota| quota.used(&mut account.lines, now));
        lines == 0 && self.bytes.used(&mut account.bytes, now) == 0
    }
}

/// What a class has used.
#[derive(Default)]
struct Class {
    all: Account,
    ones: HashMap<Identity, Account>,
    /// Those who found no place of their own.
    others: Account,
    swept_at: u64,
}

impl Class {
    /// The account of a user or an address.
    fn one(&mut self, identity: Identity, allowance: Allowance, now: u64) -> &mut Account {
        if !self.ones.contains_key(&identity) && self.ones.len() >= ONES_MAX {
            if now.abs_diff(self.swept_at) >= SWEEP_MS {
                self.swept_at = now;
                self.ones.retain(|_, account| !allowance.is_untouched(account, now));
            }
            if self.ones.len() >= ONES_MAX {
                return &mut self.others;
            }
        }
        self.ones.entry(identity).or_default()
    }
}

/// What all classes may fill, and have filled.
pub(super) struct Budget {
    classes: [Class; Ring::ALL.len()],
    class_bytes: u64,
}

impl Budget {
    pub(super) fn new(config: &AuditConfig) -> Self {
        let kept = config.file_max_bytes.saturating_mul(config.file_keep as u64);
        Self {
            classes: Default::default(),
            class_bytes: (kept / PARTS_OF_CLASS).max(1),
        }
    }

    /// What all of a class have together, and what each has.
    fn allowances(&self, ring: Ring) -> (Allowance, Allowance) {
        let (lines, lines_of_one) = match ring {
            Ring::Refusals | Ring::Strangers => (Some(REFUSED_LINES), Some(REFUSED_LINES_OF_ONE)),
            Ring::Administration | Ring::Members | Ring::Logins | Ring::Traffic => (None, None),
        };
        let one = (self.class_bytes / PARTS_OF_ONE).max(ONE_MIN_BYTES).min(self.class_bytes);
        (Allowance::new(self.class_bytes, lines), Allowance::new(one, lines_of_one))
    }

    /// Takes the room for a line of somebody.
    ///
    /// # Errors
    /// Where there is none: how long it takes until there is.
    pub(super) fn take(&mut self, ring: Ring, identity: Identity, bytes: u64, now: u64) -> Result<(), Duration> {
        let (all, one) = self.allowances(ring);
        let class = &mut self.classes[ring as usize];
        let wait = all.wait(&mut class.all, bytes, now);
        let wait = one.wait(class.one(identity, one, now), bytes, now).max(wait);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        all.take(&mut class.all, bytes);
        one.take(class.one(identity, one, now), bytes);
        Ok(())
    }

    /// Counts what a line takes beyond its room, whether or not it is there: it is missing the next time.
    pub(super) fn charge(&mut self, ring: Ring, identity: Identity, bytes: u64, now: u64) {
        let (all, one) = self.allowances(ring);
        let class = &mut self.classes[ring as usize];
        class.all.bytes.units += all.bytes.units(bytes);
        class.one(identity, one, now).bytes.units += one.bytes.units(bytes);
    }

    /// Gives back the room for a line that was not written.
    pub(super) fn give_back(&mut self, ring: Ring, identity: Identity, bytes: u64, now: u64) {
        let (all, one) = self.allowances(ring);
        let class = &mut self.classes[ring as usize];
        all.give_back(&mut class.all, bytes);
        one.give_back(class.one(identity, one, now), bytes);
    }
}
