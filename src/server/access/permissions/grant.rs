//! What is allowed, where, and with how much of it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{pattern, places, slips, template};
use crate::protocol::{Operation, Tier};
use crate::server::access::target::STEPS;
use crate::server::access::{Asked, Principal, Scope, Target};
use crate::store::Guard;
use crate::store::query::Filter;

/// The most names in one list of a grant.
const NAMES_MAX: usize = 256;
/// The longest of them, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// What is allowed, where, and with how much of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Grant {
    /// Patterns of operations.
    allow: Vec<String>,
    /// The buckets that `store.*` may touch; none for all.
    buckets: Option<Vec<String>>,
    /// Patterns of the topics that `rules.*` may touch; none for all.
    topics: Option<Vec<String>>,
    /// What records have to pass, with references to the session in it.
    filter: Option<Map<String, Value>>,
    /// The fields that are there; none for all.
    fields: Option<Vec<String>>,
}

/// What is wrong with a grant: the member, and what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GrantFault {
    /// The path from the grant, such as `allow[1]`; empty for the grant itself.
    pub(crate) member: String,
    pub(crate) message: String,
}

impl GrantFault {
    pub(super) fn new(member: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            member: member.into(),
            message: message.into(),
        }
    }
}

impl Grant {
    /// Reads `{ allow, buckets?, topics?, where?, fields? }`. Other members are for whoever calls: `others` names those
    /// that are known.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn parse(members: &Map<String, Value>, others: &[&str]) -> Result<Self, Vec<GrantFault>> {
        const MEMBERS: [&str; 5] = ["allow", "buckets", "topics", "where", "fields"];
        let mut faults = Vec::new();
        for name in members.keys() {
            if !MEMBERS.contains(&name.as_str()) && !others.contains(&name.as_str()) {
                faults.push(GrantFault::new(name, "unknown member"));
            }
        }
        let allow = match members.get("allow") {
            Some(Value::String(pattern)) => patterns(&json!([pattern]), "allow", &mut faults),
            Some(list @ Value::Array(items)) if !items.is_empty() => patterns(list, "allow", &mut faults),
            Some(_) | None => {
                faults.push(GrantFault::new("allow", "expected a pattern or a list of patterns"));
                Vec::new()
            }
        };
        let topics = members.get("topics").map(|value| patterns(value, "topics", &mut faults));
        let mut optional = |name: &str| members.get(name).map(|value| names(value, name, &mut faults));
        let (buckets, fields) = (optional("buckets"), optional("fields"));
        let filter = members.get("where").and_then(|value| read_filter(value, &mut faults));
        if faults.is_empty() {
            Ok(Self {
                allow,
                buckets,
                topics,
                filter,
                fields,
            })
        } else {
            Err(faults)
        }
    }

    /// What is well formed in `{ allow, buckets? }` and names nothing, so that it cannot be meant. Grants that are stored may
    /// name what later versions have.
    pub(crate) fn slips(members: &Map<String, Value>) -> Vec<GrantFault> {
        slips::of(members)
    }

    /// Whether an operation is left, on some bucket that it names, by all grants of its holder, itself among them.
    pub(super) fn leaves(&self, operation: Operation, all: &[&Self]) -> bool {
        let asked = Asked::from(operation);
        let is_covered = |bucket: &String| all.iter().any(|grant| grant.covers(asked, &Target::Bucket(bucket)));
        match &self.buckets {
            Some(buckets) => !buckets.iter().all(is_covered),
            None => !all.iter().any(|grant| grant.buckets.is_none() && grant.allows_some(asked)),
        }
    }

    /// Whether the grant shows and lets change only a part of what it names.
    pub(super) fn is_partial(&self) -> bool {
        self.filter.is_some() || self.fields.is_some()
    }

    /// Whether all that it allows is allowed by others too, which belong to one and the same holder. Rules for rows are the
    /// same only where they are written alike: whoever compares what they stand for compares [`Allowance`]s.
    pub(crate) fn is_within(&self, others: &[impl AsRef<Self>]) -> bool {
        let any = |allows: &dyn Fn(&Self) -> bool| {
            others
                .iter()
                .map(AsRef::as_ref)
                .any(|other| other.bounds_hold(self) && allows(other))
        };
        let has_step = |step: Operation| any(&|other| other.stands_for_steps() || other.allows(step.name()));
        self.allow.iter().all(|allowed| any(&|other| other.covers_pattern(allowed)))
            && (!self.stands_for_steps() || STEPS.iter().all(|(_, step)| has_step(*step)))
    }

    /// Whether it allows all that a pattern of a grant stands for that is bounded no wider.
    fn covers_pattern(&self, allowed: &str) -> bool {
        let leaves_out_users = self.buckets.is_some() || self.topics.is_some();
        let covers = |wider: &String| {
            let stands_for_users = wider == "*" && allowed != "*" && allowed.starts_with("identity.");
            pattern::covers(wider, allowed) && !(leaves_out_users && stands_for_users)
        };
        self.allow.iter().any(covers)
    }

    /// Whether it is bounded no closer than another one.
    fn bounds_hold(&self, other: &Self) -> bool {
        let holds = |mine: &Option<Vec<String>>, theirs: &Option<Vec<String>>| match (mine, theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs.iter().all(|name| mine.contains(name)),
        };
        holds(&self.buckets, &other.buckets)
            && holds(&self.topics, &other.topics)
            && holds(&self.fields, &other.fields)
            && (self.filter.is_none() || self.filter == other.filter)
    }

    /// Whether the grant allows an operation on any target. Who may touch a part of the records may not define, and events
    /// and procedures know no parts.
    fn allows_some(&self, asked: Asked<'_>) -> bool {
        let knows_parts = asked.name.starts_with("store.") && asked.tier() != Some(Tier::Admin);
        self.allows(asked.name) && (knows_parts || !self.is_partial())
    }

    fn allows(&self, name: &str) -> bool {
        self.allow.iter().any(|allowed| pattern::matches(allowed, name))
    }

    /// Whether it allows an operation by more than standing for all.
    fn names(&self, name: &str) -> bool {
        self.allow.iter().any(|allowed| allowed != "*" && pattern::matches(allowed, name))
    }

    /// Whether the grant allows an operation on a target, by whatever scope.
    fn covers(&self, asked: Asked<'_>, target: &Target<'_>) -> bool {
        let is_of_store = asked.name.starts_with("store.");
        if !self.allows_some(asked) {
            return false;
        }
        match (target, &self.buckets, &self.topics) {
            (Target::Bucket(name) | Target::Query { bucket: Some(name), .. }, Some(buckets), _) => buckets.iter().any(|it| it == name),
            (Target::Bucket(_) | Target::Query { bucket: Some(_), .. }, None, _) => true,
            // It may read any bucket.
            (Target::Query { bucket: None, .. }, buckets, _) => buckets.is_none() && !self.is_partial(),
            (Target::Topic(topic), _, Some(topics)) => topics.iter().any(|allowed| pattern::matches(allowed, topic)),
            (Target::Topic(_) | Target::Procedure(_), ..) => true,
            // Whoever bounds a grant means to give little: users and rights are not part of it where nobody says so.
            (Target::Server, buckets, topics)
                if asked.name.starts_with("identity.") && (buckets.is_some() || topics.is_some()) && !self.names(asked.name) =>
            {
                false
            }
            (Target::Server, buckets, topics) => {
                let is_bounded = (is_of_store && buckets.is_some()) || (asked.name.starts_with("rules.") && topics.is_some());
                !is_bounded
            }
        }
    }

    /// Whether it allows transactions as such, and says nothing of single operations: then it stands for all that
    /// transactions do.
    fn stands_for_steps(&self) -> bool {
        self.allows(Operation::StoreTransaction.name()) && !self.names_record_operations()
    }

    /// Whether it names operations on records one by one, or stands for all of them.
    fn names_record_operations(&self) -> bool {
        Operation::ALL.iter().any(|operation| {
            *operation != Operation::StoreTransaction && operation.name().starts_with("store.") && self.allows(operation.name())
        })
    }

    /// The grant for somebody who is logged in.
    pub(crate) fn for_principal(self: &Arc<Self>, principal: &Principal) -> Option<Allowance> {
        if !self.is_partial() {
            return Some(Allowance {
                grant: Arc::clone(self),
                scope: Scope::Everything,
            });
        }
        let filter = match &self.filter {
            Some(filter) => Some(template::resolve(filter, principal)?),
            None => None,
        };
        // A value of the session may not fit where it is put.
        let guard = Guard::new(filter.as_ref().unwrap_or(&Map::new()), self.fields.clone()).ok()?;
        let grant = Self {
            filter,
            ..Self::clone(self)
        };
        Some(Allowance {
            grant: Arc::new(grant),
            scope: Scope::Guarded(guard),
        })
    }
}

/// A grant to somebody who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    /// What is allowed, with the values of the session in its rule for rows.
    grant: Arc<Grant>,
    scope: Scope,
}

impl AsRef<Grant> for Allowance {
    fn as_ref(&self) -> &Grant {
        &self.grant
    }
}

impl Allowance {
    /// Whether it allows an operation on a target, and with how much of it.
    fn scope(&self, asked: Asked<'_>, target: &Target<'_>) -> Option<&Scope> {
        self.grant.covers(asked, target).then_some(&self.scope)
    }

    /// Whether it allows what shows parts of all buckets, of whichever.
    fn shows_some(&self, asked: Asked<'_>) -> bool {
        self.grant.allows_some(asked)
    }

    /// Whether it allows transactions as such on a bucket, and says nothing of single operations.
    fn allows_steps(&self, bucket: &str) -> Option<&Scope> {
        let scope = self.scope(Operation::StoreTransaction.into(), &Target::Bucket(bucket))?;
        self.grant.stands_for_steps().then_some(scope)
    }
}

/// What several allowances say together: one without bounds wins, else the first.
pub(crate) mod best {
    use super::{Allowance, Asked, Scope, Target};

    fn of<'a>(scopes: impl Iterator<Item = &'a Scope>) -> Option<Scope> {
        let mut first = None;
        for scope in scopes {
            if *scope == Scope::Everything {
                return Some(Scope::Everything);
            }
            first.get_or_insert(scope);
        }
        first.cloned()
    }

    /// With how much of a target an operation is allowed, if at all.
    pub(crate) fn scope(allowances: &[Allowance], asked: Asked<'_>, target: &Target<'_>) -> Option<Scope> {
        of(allowances.iter().filter_map(|allowance| allowance.scope(asked, target)))
    }

    /// Whether an operation that shows what may be seen of all buckets is allowed for any.
    pub(crate) fn shows_some(allowances: &[Allowance], asked: Asked<'_>) -> bool {
        allowances.iter().any(|allowance| allowance.shows_some(asked))
    }

    /// Whether what is allowed anywhere is bounded somewhere.
    pub(crate) fn bounds_some(allowances: &[Allowance], asked: Asked<'_>) -> bool {
        allowances
            .iter()
            .any(|allowance| allowance.scope != Scope::Everything && allowance.shows_some(asked))
    }

    /// With how much of a bucket the steps of transactions are allowed by allowances that name transactions alone.
    pub(crate) fn steps(allowances: &[Allowance], bucket: &str) -> Option<Scope> {
        of(allowances.iter().filter_map(|allowance| allowance.allows_steps(bucket)))
    }
}

fn names(value: &Value, member: &str, faults: &mut Vec<GrantFault>) -> Vec<String> {
    let Some(items) = value.as_array() else {
        faults.push(GrantFault::new(member, "expected a list of names"));
        return Vec::new();
    };
    if items.len() > NAMES_MAX {
        faults.push(GrantFault::new(member, format!("at most {NAMES_MAX} names are allowed")));
        return Vec::new();
    }
    let mut names = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match item.as_str() {
            Some(name) if !name.is_empty() && name.len() <= NAME_BYTES_MAX => names.push(name.to_owned()),
            Some(_) | None => faults.push(GrantFault::new(
                format!("{member}[{at}]"),
                format!("expected a text of 1 to {NAME_BYTES_MAX} bytes"),
            )),
        }
    }
    names
}

/// Patterns, in which a star has its places.
fn patterns(value: &Value, member: &str, faults: &mut Vec<GrantFault>) -> Vec<String> {
    let patterns = names(value, member, faults);
    let items = value.as_array().into_iter().flatten().enumerate();
    let unsound = items.filter(|(_, item)| item.as_str().is_some_and(|text| !pattern::is_sound(text)));
    faults.extend(unsound.map(|(at, _)| {
        let message = "expected a name, or a pattern such as \"*\" or \"store.*\": a star stands alone or behind the last dot";
        GrantFault::new(format!("{member}[{at}]"), message)
    }));
    patterns
}

fn read_filter(value: &Value, faults: &mut Vec<GrantFault>) -> Option<Map<String, Value>> {
    let Some(filter) = value.as_object() else {
        faults.push(GrantFault::new("where", "expected a filter"));
        return None;
    };
    for path in template::unknown_references(filter) {
        faults.push(GrantFault::new(
            "where",
            format!("\"{path}\" is nothing that a session has: expected session.userId, session.roles or session.metadata.<name>"),
        ));
    }
    for text in template::stray_braces(filter) {
        faults.push(GrantFault::new(
            "where",
            format!(
                "{text:?} holds braces that make no reference: a reference is {{{{ session.userId }}}} or the like, in the place of a value"
            ),
        ));
    }
    for field in places::idle_exclusions(filter) {
        faults.push(GrantFault::new(
            format!("where.{field}"),
            "a list or an object equals nothing: a condition to differ from one lets everything through",
        ));
    }
    match Filter::parse(&template::sampled(filter)) {
        Ok(_) => Some(filter.clone()),
        Err(issues) => {
            faults.extend(
                issues
                    .into_iter()
                    .map(|issue| GrantFault::new(format!("where.{}", issue.field), issue.message)),
            );
            None
        }
    }
}
