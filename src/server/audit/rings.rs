//! The entries in memory: bounded, and so that nobody can flush the traces of another.
//!
//! All entries share one number and one number of bytes. What is recorded lies in several rings, each of which is sure
//! of a share: when there is too much, the oldest entry of those rings goes that are beyond their share. So the log
//! holds the newest entries, but whoever makes many of one kind pushes out only entries of that kind.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::entry::{Entry, Line, Repeats, Verdict};
use super::query::Filter;
use super::selection::Kind;
use crate::protocol::ErrorCode;

/// How long the same from the same user or stranger, where it is refused, counts as one, from the first time.
const REPEAT_MS: u64 = 10 * 60 * 1000;

/// How many entries are looked at in one go. Nobody can record anything meanwhile.
const LOOK_ENTRIES: usize = 512;

/// Where an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ring {
    /// What administrators have changed, or tried to.
    Administration,
    /// What others have changed: of their own, or by roles of the operator's making.
    Members,
    /// Logins and logouts, and the ends of sessions.
    Logins,
    /// What was refused to those who are logged in, or has failed where they have no rights.
    Refusals,
    /// Data that was read or written, and what was looked at.
    Traffic,
    /// What those who are not logged in have tried.
    Strangers,
}

impl Ring {
    pub(super) const ALL: [Self; 6] = [
        Self::Administration,
        Self::Members,
        Self::Logins,
        Self::Refusals,
        Self::Traffic,
        Self::Strangers,
    ];

    /// Whether the same again is one entry that counts: only what was refused, and comes at no cost.
    const fn counts_repeats(self) -> bool {
        match self {
            Self::Refusals | Self::Strangers => true,
            Self::Administration | Self::Members | Self::Logins | Self::Traffic => false,
        }
    }

    /// How many eighths of the log it is sure of. Together they are no more than all of it.
    const fn eighths(self) -> usize {
        match self {
            Self::Administration => 3,
            Self::Members | Self::Logins | Self::Refusals | Self::Traffic | Self::Strangers => 1,
        }
    }
}

/// What became of an entry.
pub(super) enum Added {
    /// It is new.
    New(Arc<Entry>),
    /// It is the same again. Given whenever their number is a power of two, so that the file learns how many there are
    /// without a line for each.
    Repeated(Option<Arc<Entry>>),
}

/// What was refused is known by.
#[derive(PartialEq, Eq, Hash)]
struct Attempt {
    ring: Ring,
    address: IpAddr,
    actor: Option<String>,
    operation: Cow<'static, str>,
    resource: String,
    code: Option<ErrorCode>,
    error: Option<String>,
    details: Map<String, Value>,
}

impl Attempt {
    fn of(entry: &Entry) -> Self {
        Self {
            ring: entry.ring,
            address: entry.remote_address,
            actor: entry.actor.clone(),
            operation: entry.operation.clone(),
            resource: entry.resource.clone(),
            code: entry.code,
            error: entry.error.clone(),
            details: entry.details.clone(),
        }
    }
}

/// A ring: entries by id.
#[derive(Default)]
struct Kept {
    entries: BTreeMap<u64, Arc<Entry>>,
    bytes: usize,
}

/// All entries in memory.
pub(super) struct Rings {
    rings: [Kept; Ring::ALL.len()],
    /// Where the attempts are that may come again.
    attempts: HashMap<Attempt, u64>,
    len: usize,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    last_id: u64,
}

impl Rings {
    /// Rings whose ids begin above `last_id`.
    pub(super) fn new(max_entries: usize, max_bytes: usize, last_id: u64) -> Self {
        Self {
            rings: Default::default(),
            attempts: HashMap::new(),
            len: 0,
            bytes: 0,
            max_entries,
            max_bytes,
            last_id,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes an entry and gives it its id, unless it is the same as one that is there.
    pub(super) fn add(&mut self, mut entry: Entry) -> Added {
        let attempt = entry.ring.counts_repeats().then(|| Attempt::of(&entry));
        if let Some(attempt) = &attempt
            && let Some(repeated) = self.repeat(attempt, entry.timestamp)
        {
            return Added::Repeated(repeated);
        }
        self.last_id += 1;
        entry.id = self.last_id;
        let (id, ring, weight) = (entry.id, entry.ring, weight(&entry));
        let entry = Arc::new(entry);
        if let Some(attempt) = attempt {
            self.attempts.insert(attempt, id);
        }
        let kept = &mut self.rings[ring as usize];
        kept.entries.insert(id, Arc::clone(&entry));
        kept.bytes += weight;
        self.bytes += weight;
        self.len += 1;
        while (self.len > self.max_entries || self.bytes > self.max_bytes) && self.drop_oldest() {}
        Added::New(entry)
    }

    /// Counts an attempt that is there already. Gives none where it is not.
    #[expect(clippy::option_option, reason = "whether it was counted, and whether that is to be written down")]
    fn repeat(&mut self, attempt: &Attempt, now: u64) -> Option<Option<Arc<Entry>>> {
        let id = self.attempts.get(attempt)?;
        let entry = self.rings[attempt.ring as usize].entries.get_mut(id)?;
        if now.saturating_sub(entry.timestamp) > REPEAT_MS {
            return None;
        }
        let last_timestamp = entry.last_timestamp().max(now);
        let entry_now = Arc::make_mut(entry);
        let count = entry_now.repeats.map_or(1, |repeats| repeats.count) + 1;
        entry_now.repeats = Some(Repeats { count, last_timestamp });
        Some(count.is_power_of_two().then(|| Arc::clone(entry)))
    }

    /// Whether a ring has more than it is sure of.
    fn is_beyond_share(&self, ring: Ring) -> bool {
        let kept = &self.rings[ring as usize];
        let share = |whole: usize| whole / 8 * ring.eighths() + whole % 8 * ring.eighths() / 8;
        kept.entries.len() > share(self.max_entries) || kept.bytes > share(self.max_bytes)
    }

    /// Drops the oldest entry of those that may go. Tells whether there was one: where all together are too many, one
    /// ring has more than its share.
    fn drop_oldest(&mut self) -> bool {
        let oldest = |ring: &Ring| self.rings[*ring as usize].entries.first_key_value().map(|(id, _)| *id);
        let beyond = Ring::ALL.into_iter().filter(|ring| self.is_beyond_share(*ring));
        let Some(ring) = beyond.min_by_key(|ring| oldest(ring).unwrap_or(u64::MAX)) else {
            return false;
        };
        let kept = &mut self.rings[ring as usize];
        let Some((id, entry)) = kept.entries.pop_first() else {
            return false;
        };
        let weight = weight(&entry);
        kept.bytes -= weight;
        self.bytes -= weight;
        self.len -= 1;
        if ring.counts_repeats() {
            let attempt = Attempt::of(&entry);
            if self.attempts.get(&attempt) == Some(&id) {
                self.attempts.remove(&attempt);
            }
        }
        true
    }

    /// Looks through some entries with ids below `before`, newest first. Gives those that match, and below which id to
    /// go on, where there are more.
    pub(super) fn look(&self, before: u64, filter: &Filter) -> (Vec<Arc<Entry>>, Option<u64>) {
        let mut rest = self.rings.each_ref().map(|kept| kept.entries.range(..before).rev().peekable());
        let mut found = Vec::new();
        let mut last = None;
        for _ in 0..LOOK_ENTRIES {
            let newest = rest.iter_mut().reduce(|best, entries| {
                let newer = entries.peek().map(|(id, _)| **id) > best.peek().map(|(id, _)| **id);
                if newer { entries } else { best }
            });
            let Some((id, entry)) = newest.and_then(Iterator::next) else {
                return (found, None);
            };
            last = Some(*id);
            if filter.matches(entry) {
                found.push(Arc::clone(entry));
            }
        }
        (found, last)
    }
}

/// What an entry counts for, with what is kept to know it again.
fn weight(entry: &Entry) -> usize {
    if entry.ring.counts_repeats() {
        2 * entry.weight()
    } else {
        entry.weight()
    }
}

/// What decides where the entry of a request belongs.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) kind: Kind,
    pub(super) verdict: Verdict,
    /// Whether it was not begun.
    pub(super) is_refused: bool,
    /// Whether nobody was or is logged in, on a server that knows logins.
    pub(super) is_stranger: bool,
    /// Whether they hold a role of administrators, before or after it.
    pub(super) is_administrator: bool,
    /// Whether room in the file was taken for it before it was begun.
    pub(super) has_room: bool,
}

/// Where the entry of a request belongs in memory, and what it may take of the file.
pub(super) fn place_of(case: Case) -> (Ring, Line) {
    let ring = ring_of(case);
    let line = match ring {
        _ if case.has_room => Line::Sure,
        Ring::Refusals | Ring::Strangers => Line::Limited,
        Ring::Traffic if case.kind == Kind::Data => Line::Data,
        Ring::Administration | Ring::Members | Ring::Logins | Ring::Traffic if case.is_administrator => Line::Sure,
        Ring::Administration | Ring::Members | Ring::Logins | Ring::Traffic => Line::Limited,
    };
    (ring, line)
}

fn ring_of(case: Case) -> Ring {
    if case.has_room {
        return Ring::Members;
    }
    if case.is_stranger && (case.verdict == Verdict::Error || case.kind == Kind::Authentication) {
        return Ring::Strangers;
    }
    if case.is_refused {
        return Ring::Refusals;
    }
    let has_failed = case.verdict == Verdict::Error;
    match case.kind {
        Kind::Authentication if has_failed => Ring::Refusals,
        Kind::Authentication => Ring::Logins,
        // Everybody gets as far as the handlers of these, and changes what is theirs at will. None of that may push out
        // what administrators have changed.
        Kind::Rights | Kind::Administration if case.is_administrator => Ring::Administration,
        Kind::Rights | Kind::Administration if has_failed => Ring::Refusals,
        Kind::Rights | Kind::Administration => Ring::Members,
        Kind::Inspection | Kind::Data => Ring::Traffic,
    }
}
